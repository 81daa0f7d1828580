// Package hint gives an error a hint: how to fix what is wrong. The text of such an error is
// "problem; hint", and the hint can be had by itself.
package hint

import (
	"errors"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// With returns err with a hint, or err itself if the hint is empty. A hint that err has from With
// is kept, and the new one follows it. The result is nil if err is.
func With(err error, hint string) error {
	if err == nil || hint == "" {
		return err
	}
	if h, ok := err.(*hinted); ok {
		return &hinted{h.err, h.hint + "; " + hint}
	}
	return &hinted{err, hint}
}

type hinted struct {
	err  error
	hint string
}

func (e *hinted) Error() string { return e.err.Error() + "; " + e.hint }
func (e *hinted) Unwrap() error { return e.err }
func (e *hinted) Hint() string  { return e.hint }

// Of returns the hint of err or of the first error that it wraps and that has one: one of With,
// a *driver.ConfigError, or any other with a method Hint. It is empty if there is none.
func Of(err error) string {
	var with interface{ Hint() string }
	var config *driver.ConfigError
	switch {
	case errors.As(err, &with) && with.Hint() != "":
		return with.Hint()
	case errors.As(err, &config):
		return config.Hint
	}
	return ""
}

// Split returns the text of err without its hint, and the hint.
func Split(err error) (problem, hint string) {
	hint = Of(err)
	if hint == "" {
		return err.Error(), ""
	}
	return strings.Replace(err.Error(), "; "+hint, "", 1), hint
}
