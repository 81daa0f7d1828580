package providertest

import (
	"context"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
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
		Patience:    wait.Patience,
	}
}

// Faulty adds OpenFaulty to h: clients of the server, which open makes of an address, on a
// way that loses the answers to the calls named in changes, and refuses those named in
// cleanups, so that what was carried out stands.
func Faulty(h *discoverytest.Harness, server string, open func(t testing.TB, addr string) driver.Driver, changes, cleanups []string) {
	h.OpenFaulty = func(t testing.TB) (driver.Driver, discoverytest.Faults) {
		requests := faultproxy.NewHTTP(t, server)
		way := faultproxy.NewTCP(t, requests.Addr())
		return open(t, way.Addr()), discoverytest.Faults{
			Hold: func(by time.Duration) func(context.Context) error {
				hits := way.Delay(faultproxy.Answers, by)
				return func(ctx context.Context) error { return hits.Wait(ctx, 1) }
			},
			Lose: func() {
				for _, calls := range changes {
					requests.Inject(faultproxy.Fault{Outcome: faultproxy.Break, Calls: calls})
				}
				for _, calls := range cleanups {
					requests.Inject(faultproxy.Fault{Outcome: faultproxy.Refuse, Calls: calls})
				}
			},
			Restore: func() {
				way.Restore()
				requests.Restore()
			},
		}
	}
}

// Must ends the test where what a harness does behind the driver's back has failed.
func Must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s behind the driver's back: %v", what, err)
	}
}
