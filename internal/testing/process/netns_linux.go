package process

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// enter takes this thread into a network namespace; what it starts is born there.
func enter(netns string) error {
	if netns == "" {
		return nil
	}
	f, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", netns, err)
	}
	return nil
}
