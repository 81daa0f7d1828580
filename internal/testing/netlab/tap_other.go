//go:build !linux

package netlab

import (
	"errors"
	"os"
)

func newTap(string) (*os.File, error) { return nil, errors.ErrUnsupported }
