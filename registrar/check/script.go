package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/musterhq/muster/registrar/declared"
)

// scriptGrace is how long what a killed program has left running may hold its output
// open.
const scriptGrace = time.Second

func scriptProbe(argv []string, at declared.HostPort) Probe {
	args := make([]string, len(argv))
	for i, arg := range argv {
		args[i] = at.Fill(arg)
	}
	return func(ctx context.Context) error {
		var output head
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "SERVICE_IP="+at.Host, "SERVICE_PORT="+at.Port)
		cmd.Stdout, cmd.Stderr = &output, &output
		cmd.WaitDelay = scriptGrace
		ownGroup(cmd)
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil, errors.Is(err, exec.ErrWaitDelay): // it has ended well, and left something behind
			return nil
		case errors.As(err, &exit):
			return reason(fmt.Sprintf("%s: %v", args[0], exit), output)
		}
		return err
	}
}

// head keeps the beginning of what is written to it, and takes the rest.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), maxOutput-len(*h))]...)
	return len(p), nil
}
