package consul

import (
	"errors"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

// Errors are logged. What somebody took for the way to log in is not, also where the
// address is no URL at all.
func TestAddressWithPassword(t *testing.T) {
	for address, shown := range map[string]string{
		"http://bob:hunter2@127.0.0.1:8500":  "http://[redacted]@127.0.0.1:8500",
		"bob:hunter2@127.0.0.1:8500":         "[redacted]@127.0.0.1:8500",
		"https://bob:hunter2%@127.0.0.1":     "https://[redacted]@127.0.0.1",
		"http://bob:hunter2@x@127.0.0.1:x":   "http://[redacted]@127.0.0.1:x",
		"http://bob:hun/ter2@127.0.0.1:8500": "http://[redacted]@127.0.0.1:8500",
		"ftp://127.0.0.1:8500":               "ftp://127.0.0.1:8500",
	} {
		_, err := New(Config{Address: address})
		var bad *driver.ConfigError
		if !errors.As(err, &bad) || bad.Key != "address" || bad.Value != shown {
			t.Errorf("New with address %s: %+v, want one that shows %s", address, bad, shown)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "ter2")) {
			t.Errorf("New with address %s: %v", address, err)
		}
	}
}
