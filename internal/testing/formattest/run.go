// Package formattest has the tests of drivers that write the records of other systems.
package formattest

import (
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
)

// Run holds drivers that write the records of other systems to what the contract says of
// registrations, but for the clauses that are named for a format: they want what its
// keys cannot tell apart. The harness is one whose clients are each a Driver.
func Run(t *testing.T, without map[string][]string, newHarness func(t testing.TB, format string) discoverytest.Harness) {
	for format, skip := range without {
		t.Run(format, func(t *testing.T) {
			discoverytest.RunDiscovery(t, func(t testing.TB) discoverytest.Harness {
				_, clause, _ := strings.Cut(t.Name(), "/"+format+"/")
				if slices.Contains(skip, clause) {
					t.Skip("the format cannot keep this")
				}
				return wrap(newHarness(t, format))
			})
		})
	}
}

// wrap has the instances of a harness made whole.
func wrap(h discoverytest.Harness) discoverytest.Harness {
	m := new(memory)
	wrapped := func(open func(testing.TB) driver.Driver) func(testing.TB) driver.Driver {
		return func(t testing.TB) driver.Driver { return &whole{open(t).(Driver), m} }
	}
	expire := h.ExpireSession
	h.Open, h.OpenDenied = wrapped(h.Open), wrapped(h.OpenDenied)
	h.ExpireSession = func(t testing.TB, s driver.Session) { expire(t, s.(*session).Session) }
	return h
}
