package advertise

import (
	"errors"
	"fmt"

	"github.com/musterhq/muster/discovery/driver"
)

// Key is the setting that this package is about, as its errors name it.
const Key = "node.advertise"

var (
	// ErrNoAddress means that the setting is sound but yields no address now: a
	// name that does not resolve, an interface that is down. Another try may help.
	ErrNoAddress = errors.New("no address to advertise")

	// ErrNotApplicable is what a Detector returns when it has nothing to say here,
	// as outside of a container.
	ErrNotApplicable = errors.New("detector does not apply here")

	// ErrHostNetwork is what a Detector returns when it knows that this process has the
	// network of its host. It wraps ErrNotApplicable. The addresses of interfaces are the
	// host's own then, also where the host is a container to look at, as a machine of LXC.
	ErrHostNetwork = fmt.Errorf("%w: the port is the host's own", ErrNotApplicable)
)

// invalid is an error that stays until someone changes the setting.
func invalid(spec, problem, hint string) error {
	return &driver.ConfigError{Key: Key, Value: spec, Problem: problem, Hint: hint}
}

// noAddress is an error that may pass. It reads like a ConfigError.
type noAddress struct {
	spec, problem string
	hint          string // may be empty
	cause         error  // may be nil
}

func (e *noAddress) Error() string {
	return fmt.Sprintf("%s: %q: %s", Key, e.spec, joined(e.problem, e.hint))
}

// Hint says how to fix it, as far as that is known.
func (e *noAddress) Hint() string { return e.hint }

func (e *noAddress) Is(target error) bool { return target == ErrNoAddress }

func (e *noAddress) Unwrap() error { return e.cause }

// joined is the text of a problem with its hint.
func joined(problem, hint string) string {
	if hint == "" {
		return problem
	}
	return problem + "; " + hint
}

// asConfigError returns the ConfigError in err, or nil.
func asConfigError(err error) *driver.ConfigError {
	var c *driver.ConfigError
	if errors.As(err, &c) {
		return c
	}
	return nil
}

func quote(s string) string { return fmt.Sprintf("%q", s) }
