//go:build !unix

package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Main reports false: no process of this kind is started here.
func Main() (status int, is bool) { return 0, false }

// StatusOf is the status of a command that cannot be executed.
func StatusOf(error) int { return 1 }

// Run returns an error: nothing on this system makes sure that all that a command has started is
// killed in time.
func Run(context.Context, Options) (int, error) {
	return 1, fmt.Errorf("%w; use the HTTP API, GET /v1/mastership", Available())
}

// Available returns why no command can be run here with RunOnce.
func Available() error {
	return errors.New("not on this system: nothing in it is sure to kill all that a command has started")
}

// RunOnce returns the error of Available.
func RunOnce(context.Context, Once) (int, error) { return 1, Available() }

func ownedByUs(os.FileInfo) bool { return true }
