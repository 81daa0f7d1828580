package etcd

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testserver.Main(m)) }

var prefixes atomic.Int64

// newPrefix keeps the tests that share a server apart.
func newPrefix() string { return fmt.Sprintf("/test-%d/muster", prefixes.Add(1)) }

// bound is how long a step may take that takes milliseconds where the machine is
// idle.
const bound = 30 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	t.Cleanup(cancel)
	return ctx
}

// open returns a driver that is closed with the test.
func open(t testing.TB, c Config) *Driver {
	t.Helper()
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(bound); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, bound)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(t testing.TB) discoverytest.Harness {
		return newHarness(t, Config{Prefix: newPrefix()})
	})
}

// newHarness returns a harness over the shared server. The configuration needs no
// endpoint.
func newHarness(t testing.TB, c Config) discoverytest.Harness {
	server := testserver.SharedEtcd(t)
	proxy := testserver.NewProxy(t, server.Addr())
	c.Endpoints = []string{"http://" + proxy.Addr()}
	layout := open(t, c).layout
	do := func(t testing.TB, what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s behind the driver's back: %v", what, err)
		}
	}
	return discoverytest.Harness{
		Open: func(t testing.TB) driver.Driver {
			d, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			return d
		},
		OpenDenied: func(t testing.TB) driver.Driver {
			server := testserver.StartEtcd(t, testserver.WithAuth())
			server.AddUser("stranger", "secret", "/elsewhere/")
			d, err := New(Config{Endpoints: []string{server.Endpoint()}, Username: "stranger", Password: "secret"})
			if err != nil {
				t.Fatal(err)
			}
			return d
		},
		AddGarbage: func(t testing.TB, service string) {
			for i, value := range []string{"", "garbage", "[]", `{"service":"` + service + `","addr":"0.0.0.0:1"}`} {
				_, err := server.Client().Put(within(t), layout.Prefix(service)+fmt.Sprint("garbage-", i), value)
				do(t, "put garbage", err)
			}
		},
		RemoveRegistration: func(t testing.TB, i driver.Instance) {
			key, _, err := layout.Encode(i)
			do(t, "find a registration", err)
			_, err = server.Client().Delete(within(t), key)
			do(t, "delete a registration", err)
		},
		ExpireSession: func(t testing.TB, s driver.Session) {
			_, err := server.Client().Revoke(within(t), s.(*session).lease)
			do(t, "revoke a lease", err)
		},
		Stop:  func(testing.TB) { proxy.Cut() },
		Start: func(testing.TB) { proxy.Restore() },
		Delay: func(_ testing.TB, d time.Duration) { proxy.Delay(d) },
		Compact: func(t testing.TB) {
			// Of the revision that it names itself, a compaction keeps the changes.
			r, err := server.Client().Put(within(t), newPrefix(), "")
			do(t, "write", err)
			_, err = server.Client().Compact(within(t), r.Header.Revision)
			do(t, "compact", err)
		},
		// etcd grants 2 s at least, and looks for leases that are over every 0.5 s.
		SessionTTL:  2 * time.Second,
		GrantTTL:    2 * time.Second,
		ExpiryGrace: 10 * time.Second,
		Patience:    bound,
	}
}
