package discoverytest

import (
	"context"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Harness is what the suite needs of one provider. A fresh one is made for each
// clause, and nothing is registered in it: a harness over a server that is shared
// gives each its own prefix. Its functions end the test where they fail, and
// clean up after themselves with t.Cleanup.
//
// Only Open is mandatory. The other functions are abilities of the harness to do
// something behind the driver's back; where one is nil, the clauses that need it
// are skipped and say so.
type Harness struct {
	// Open returns one more client of the provider, independent of those opened
	// before, with its own connections and without shared caches. The suite
	// closes it.
	Open func(t testing.TB) driver.Driver

	// OpenDenied returns a client like those of Open, but one that the provider
	// permits to change nothing: neither to register nor to become master. It may be
	// of another server. The suite closes it.
	OpenDenied func(t testing.TB) driver.Driver

	// Seed makes the instances those of service, all of them and no others, for a
	// provider that publishes nothing itself, and returns them in their order as List
	// is to show them: a list of addresses keeps only Service and Addr. Clauses use it where
	// the driver is no Registrar. It is called before Open; where the driver is a
	// Watcher also after it, and then the open drivers must notice.
	Seed func(t testing.TB, service string, instances []driver.Instance) []driver.Instance

	// AddGarbage puts one entry that cannot be read beside the registrations of
	// service, as another program might.
	AddGarbage func(t testing.TB, service string)

	// RemoveRegistration deletes the registration of i behind the driver's back.
	RemoveRegistration func(t testing.TB, i driver.Instance)

	// ExpireSession ends s in the provider behind the driver's back, at once.
	// Where it is nil the suite waits until the session has expired.
	ExpireSession func(t testing.TB, s driver.Session)

	// Dump returns all that the provider keeps, of this harness at least: by what it is
	// kept under, its value, and its revision where it has one. What moves by itself, such
	// as the time that a lease has left, is not in it.
	Dump func(t testing.TB) map[string]string

	// Stop makes the provider unreachable or fail, without loss of its state, and
	// Start undoes it. Both or none. Sessions may or may not expire meanwhile.
	Stop, Start func(t testing.TB)

	// Delay holds back each answer of the provider by d. 0 ends it.
	Delay func(t testing.TB, d time.Duration)

	// Compact makes the provider forget the changes up to now, so that a watch
	// from an older revision gets driver.ErrCompacted.
	Compact func(t testing.TB)

	// OpenFaulty returns one more client like those of Open, and what injects faults into
	// the calls of this client alone. The suite closes the client.
	OpenFaulty func(t testing.TB) (driver.Driver, Faults)

	// EndGrant takes away what the grant of cluster stands on, before its time and
	// behind its holder's back: the session of a lock, the record of the holder. It is
	// nil for a provider that makes no promise for that case.
	EndGrant func(t testing.TB, cluster string)

	// OpenAuthorities opens the authority of cluster for one node for each of ttls,
	// which is what the node asks for its grants. It is for a provider whose authorities
	// need more than a name, as voters with a network do. Where it is nil, the suite
	// opens a driver for each node and, if that is an Authorizer, an authority on it.
	// The suite closes the authorities.
	OpenAuthorities func(t testing.TB, cluster string, ttls []time.Duration) []Candidate

	// Except has the clauses that the provider is known not to keep, by name, and why.
	Except map[string]string

	// SessionTTL is what the suite asks for its sessions. Default: 2 s.
	SessionTTL time.Duration

	// GrantTTL is what the suite asks for its grants. Default: 2 s.
	GrantTTL time.Duration

	// ExpiryGrace is how long after its TTL a session or a grant that is not
	// renewed may linger. Default: 5 s.
	ExpiryGrace time.Duration

	// Patience bounds the wait for what must come to pass soon. Generous values
	// cost nothing if the provider is right. Default: 20 s.
	Patience time.Duration
}

// Faults injects faults into the calls of one client of the provider. The functions may be called
// in any order.
type Faults struct {
	// Hold holds back each answer to the client for as long as by, from now on and until
	// Restore. What it asked for is carried out all the same. The returned function
	// waits until an answer is held back, or ctx ends.
	Hold func(by time.Duration) (held func(ctx context.Context) error)

	// Lose has what the client asks for carried out, and loses the answer to each
	// request that changes something, until Restore.
	Lose func()

	// Restore ends both, and lets go what is held back.
	Restore func()
}

// Candidate is one node that takes part in an authority.
type Candidate struct {
	Authority driver.Authority
	// Holder is the Self with which the authority was opened, and what the suite
	// claims with.
	Holder driver.Holder
}

func (h *Harness) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&h.SessionTTL, 2 * time.Second},
		{&h.GrantTTL, 2 * time.Second},
		{&h.ExpiryGrace, 5 * time.Second},
		{&h.Patience, 20 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}
