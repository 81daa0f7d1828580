package host

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// Two hosts share an agent of Consul, which has one service of an ID whatever its name. Neither
// sees the other's service among those of its own. In the end one of them stands, both name the
// other, and it is the other's once that is gone.
func TestTwoHostsWithOneIDInOneAgent(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	start := func(hostname, service, addr string) *Registrar {
		t.Helper()
		registry := openStore(t, store{open: func() (driver.Driver, error) {
			return consul.New(consul.Config{Address: server.Addr(), Format: "registrator"})
		}})
		r, err := Start(Config{
			Registries: []*discovery.Registry{registry}, TTL: 3 * time.Second,
			Services: []declared.Service{{Name: service, ID: "same", Address: addr}}, Rules: grammar.Rules{Hostname: hostname},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Stop(context.Background()) })
		return r
	}
	type host struct {
		*Registrar
		service, addr string
	}
	one, two := host{start("h1", "alpha", "10.0.0.1:1001"), "alpha", "10.0.0.1:1001"}, host{start("h2", "beta", "10.0.0.2:1002"), "beta", "10.0.0.2:1002"}
	names := func(h, other host) error {
		report := h.Status().Report()
		if problems := strings.Join(report.Problems, "\n"); !strings.Contains(problems, "somebody else registers service") || !strings.Contains(problems, other.addr+" as service "+other.service) {
			return fmt.Errorf("the problems of host %s are %q", report.Hostname, problems)
		}
		return nil
	}
	yields := func(h, to host) bool {
		all := h.Status().Providers[0].Instances
		return len(all) == 1 && all[0].Yields && strings.Contains(all[0].Err.Error(), to.addr+" as service "+to.service)
	}
	// The lower address stands. On a busy machine it may be late so often that it takes the other
	// for one that never yields: then that one stands.
	var stands, waits host
	wait.NoError(t, func() error {
		switch {
		case yields(two, one):
			stands, waits = one, two
		case yields(one, two):
			stands, waits = two, one
		default:
			return fmt.Errorf("nobody yields: %+v, %+v", one.Status().Providers[0].Instances, two.Status().Providers[0].Instances)
		}
		if !stands.Status().Providers[0].Registered() {
			return fmt.Errorf("%s is not registered: %+v", stands.service, stands.Status().Providers[0].Instances)
		}
		return nil
	})
	for range 2 {
		wait.NoError(t, func() error {
			if err := names(one, two); err != nil {
				return err
			}
			return names(two, one)
		})
	}
	// There is no war: what stands is left alone from now on.
	service := func() string {
		have, _, err := server.Client().Agent().Service("same", nil)
		if err != nil {
			t.Fatal(err)
		}
		return have.Service
	}
	before := stands.Status().Providers[0].Counters
	wait.NoError(t, func() error {
		if have := service(); have != stands.service {
			t.Fatalf("the service is %s", have)
		}
		if n := stands.Status().Providers[0].Counters.Renewals; n < before.Renewals+8 {
			return fmt.Errorf("%d renewals", n-before.Renewals)
		}
		return nil
	})
	if n := stands.Status().Providers[0].Counters.Repairs; n != before.Repairs || !yields(waits, stands) {
		t.Errorf("%d repairs since the other yields: %t", n-before.Repairs, yields(waits, stands))
	}
	if err := stands.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait.NoError(t, func() error {
		if !waits.Status().Providers[0].Registered() || service() != waits.service {
			return fmt.Errorf("%s: %+v", waits.service, waits.Status().Providers[0].Instances)
		}
		return nil
	})
}
