//go:build !linux

package process

import (
	"errors"
	"fmt"
)

func enter(netns string) error {
	if netns == "" {
		return nil
	}
	return fmt.Errorf("enter %s: %w", netns, errors.ErrUnsupported)
}
