package testserver

import (
	"context"
	"fmt"
	"time"

	"github.com/musterhq/muster/internal/testing/process"
	"github.com/musterhq/muster/internal/testing/wait"
)

// ready waits until a server that has been started answers without error, each attempt for at
// most timeout. It returns an error with the end of the server's log when the server has ended,
// or is not ready within startTimeout; it is killed then.
func ready(server *process.Process, log string, timeout time.Duration, answers func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	var err, end error
	ended := false
	done := wait.Until(ctx, func() bool {
		attempt, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if err = answers(attempt); err != nil {
			ended, end = server.Ended()
		}
		return err == nil || ended
	})
	switch {
	case !done:
		server.Kill()
		return fmt.Errorf("not ready within %v: %w\n%s", startTimeout, err, process.Tail(log, 10))
	case ended:
		return fmt.Errorf("the server ended: %v\n%s", end, process.Tail(log, 10))
	}
	return nil
}
