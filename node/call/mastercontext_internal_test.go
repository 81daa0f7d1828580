package call

import (
	"context"
	"errors"
	"testing"
)

type grantKey struct{}

// The context of a handler of the master ends with each of the three, whatever it was asked
// before, and so do those derived from it.
func TestMasterContext(t *testing.T) {
	t.Parallel()
	errOver := errors.New("mastership is over")
	for name, test := range map[string]struct {
		end   func(c *masterContext, call context.CancelFunc, grant context.CancelCauseFunc)
		cause error
	}{
		"the call":    {func(_ *masterContext, call context.CancelFunc, _ context.CancelCauseFunc) { call() }, context.Canceled},
		"the grant":   {func(_ *masterContext, _ context.CancelFunc, grant context.CancelCauseFunc) { grant(errOver) }, errOver},
		"the handler": {func(c *masterContext, _ context.CancelFunc, _ context.CancelCauseFunc) { c.release() }, context.Canceled},
	} {
		for _, before := range []bool{false, true} {
			parent, end := context.WithCancel(t.Context())
			grant, lose := context.WithCancelCause(context.WithValue(t.Context(), grantKey{}, "token"))
			c := &masterContext{Context: parent, grant: grant}
			if c.Err() != nil || c.Value(grantKey{}) != "token" || context.Cause(c) != nil {
				t.Fatalf("%s: %v, %v before the end", name, c.Err(), c.Value(grantKey{}))
			}
			var derived context.Context
			if before {
				var cancel context.CancelFunc
				derived, cancel = context.WithCancel(c)
				defer cancel()
			}
			test.end(c, end, lose)
			if !before {
				// Not asked for anything yet: it has ended all the same, and for the reason.
				if got := context.Cause(c); got != test.cause {
					t.Errorf("%s: cause %v, want %v", name, got, test.cause)
				}
				derived = c
			}
			<-derived.Done()
			if got := context.Cause(derived); got != test.cause || !errors.Is(c.Err(), context.Canceled) {
				t.Errorf("%s: %v, cause %v, want %v", name, c.Err(), got, test.cause)
			}
			if c.Value(grantKey{}) != "token" {
				t.Errorf("%s: the token is gone", name)
			}
			c.release()
			end()
			lose(nil)
		}
	}
}
