package providertest

import (
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testserver"
)

// Harness returns one over a server behind proxy, which open opens drivers of. It lacks
// what is done behind the driver's back.
func Harness(proxy *testserver.Proxy, open func(testing.TB) driver.Driver) discoverytest.Harness {
	return discoverytest.Harness{
		Open:  open,
		Stop:  func(testing.TB) { proxy.Cut() },
		Start: func(testing.TB) { proxy.Restore() },
		Delay: func(_ testing.TB, d time.Duration) { proxy.Delay(d) },

		SessionTTL:  2 * time.Second,
		GrantTTL:    2 * time.Second,
		ExpiryGrace: 10 * time.Second,
		Patience:    Bound,
	}
}

// Must ends the test where what a harness does behind the driver's back has failed.
func Must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s behind the driver's back: %v", what, err)
	}
}
