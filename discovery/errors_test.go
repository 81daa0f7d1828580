package discovery_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

// What a driver returns is tested for without the package of drivers.
func TestErrorsOfDriversHaveNamesForUsers(t *testing.T) {
	for _, tc := range []struct {
		ofDriver, kind error
		retryable      bool
	}{
		{driver.ErrUnavailable, discovery.ErrUnavailable, true},
		{driver.ErrDenied, discovery.ErrDenied, false},
		{driver.ErrInvalid, discovery.ErrInvalid, false},
		{driver.ErrNotFound, discovery.ErrNotFound, true},
		{driver.ErrConflict, discovery.ErrConflict, true},
		{driver.ErrSessionLost, discovery.ErrSessionLost, true},
		{driver.ErrSessionLost, discovery.ErrNotFound, true},
		{driver.ErrClusterMismatch, discovery.ErrClusterMismatch, true},
		{driver.ErrClusterMismatch, discovery.ErrConflict, true},
		{driver.ErrClosed, discovery.ErrClosed, false},
		{driver.ErrUnsupported, discovery.ErrUnsupported, false},
		{&driver.ConfigError{Key: "prefix"}, discovery.ErrInvalid, false},
	} {
		err := fmt.Errorf("provider test: %w", tc.ofDriver)
		if !errors.Is(err, tc.kind) {
			t.Errorf("%v is not %v", err, tc.kind)
		}
		if got := discovery.Retryable(err); got != tc.retryable {
			t.Errorf("Retryable(%v) = %t", err, got)
		}
	}
	var bad *discovery.ConfigError
	if !errors.As(error(&driver.ConfigError{Key: "prefix"}), &bad) || bad.Key != "prefix" {
		t.Error("a ConfigError of a driver is not one for users")
	}
}
