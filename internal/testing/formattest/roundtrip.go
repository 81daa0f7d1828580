package formattest

import (
	"errors"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

// Format is how registrations are written to a store of keys.
type Format interface {
	Prefix(service string) string
	Encode(i driver.Instance) (key, value string, err error)
	Decode(service, key string, value []byte) (driver.Instance, error)
}

// RoundTrip holds of anything that stands below the prefix of a service: it is an error
// that says why, or an instance that can be dialled. That is returned as it is read, and
// as it is read once it was written; or false if it is an error.
func RoundTrip(t *testing.T, f Format, id string, value []byte) (read, again driver.Instance, ok bool) {
	t.Helper()
	const service = "orders"
	i, err := f.Decode(service, f.Prefix(service)+id, value)
	if err != nil {
		if !errors.Is(err, driver.ErrInvalid) {
			t.Fatalf("%v is no driver.ErrInvalid", err)
		}
		return driver.Instance{}, driver.Instance{}, false
	}
	if err := i.Validate(); err != nil {
		t.Fatalf("%+v: %v", i, err)
	}
	key, text, err := f.Encode(i)
	if err != nil {
		t.Fatalf("%+v cannot be written: %v", i, err)
	}
	again, err = f.Decode(service, key, []byte(text))
	if err != nil {
		t.Fatalf("%s = %s: %v", key, text, err)
	}
	return i, again, true
}
