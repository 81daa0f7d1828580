package hint

import (
	"errors"
	"fmt"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

func TestSplit(t *testing.T) {
	cause := errors.New("connection refused; really")
	for _, test := range []struct {
		err           error
		problem, hint string
	}{
		{cause, "connection refused; really", ""},
		{With(cause, ""), "connection refused; really", ""},
		{With(cause, "start it"), "connection refused; really", "start it"},
		{fmt.Errorf("etcd: %w (twice)", With(cause, "start it")), "etcd: connection refused; really (twice)", "start it"},
		{With(With(cause, "start it"), "or go"), "connection refused; really", "start it; or go"},
		{errors.Join(&driver.ConfigError{Key: "ttl", Value: "x", Problem: "no duration", Hint: "write 5s"}), `ttl: "x": no duration`, "write 5s"},
		{&driver.ConfigError{Key: "ttl", Value: "x; y", Problem: "no duration"}, `ttl: "x; y": no duration`, ""},
	} {
		if problem, hint := Split(test.err); problem != test.problem || hint != test.hint {
			t.Errorf("Split(%v) = %q, %q; want %q, %q", test.err, problem, hint, test.problem, test.hint)
		}
	}
	if err := With(cause, "start it"); !errors.Is(err, cause) {
		t.Errorf("%v does not wrap its cause", err)
	}
	if err := With(nil, "start it"); err != nil {
		t.Errorf("With(nil) = %v", err)
	}
}
