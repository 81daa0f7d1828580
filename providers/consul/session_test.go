package consul

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul/internal/registration"
)

// The catalog may lose what the agent has. The agent would notice within a minute or
// more, and says until then that all is well.
func TestLostBehindTheAgent(t *testing.T) {
	t.Parallel()
	server := testserver.LendConsul(t)
	d := open(t, Config{Address: server.Addr(), HealthyOnly: true, Check: Check{TTL: wait.Patience, Status: api.HealthPassing}})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: 2 * wait.Patience})
	if err != nil {
		t.Fatal(err)
	}
	i := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946", Meta: map[string]string{"k": "v"}}
	catalog := server.Client().Catalog()
	has := func() bool {
		found, err := d.List(wait.Context(t), driver.Query{Service: i.Service})
		if err != nil {
			t.Fatal(err)
		}
		return len(found.Instances) == 1
	}
	entry := func() *api.ServiceEntry {
		entries, _, err := server.Client().Health().Service(i.Service, "", false, nil)
		if err != nil || len(entries) != 1 {
			t.Fatalf("the catalog has %+v, %v", entries, err)
		}
		return entries[0]
	}
	register := func() {
		t.Helper()
		if err := s.Register(wait.Context(t), i); err != nil {
			t.Fatal(err)
		}
	}
	if has() {
		t.Fatal("found before it was registered")
	}
	register()
	wait.For(t, "registered", has)
	checks := len(entry().Checks)
	for range 2 {
		if _, err := catalog.Deregister(&api.CatalogDeregistration{Node: server.Name(), ServiceID: "orders:i1"}, nil); err != nil {
			t.Fatal(err)
		}
		if has() {
			t.Fatal("found when it was removed")
		}
		register()
		wait.For(t, "put back", has)
		found, err := d.List(wait.Context(t), driver.Query{Service: i.Service})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]driver.Instance{i}, found.Instances); diff != "" {
			t.Errorf("put back (-want +have):\n%s", diff)
		}
		if have := len(entry().Checks); have != checks {
			t.Errorf("put back with %d checks, want %d", have, checks)
		}
	}
	// What is there is left alone.
	before := entry().Service.ModifyIndex
	register()
	if err := s.Renew(wait.Context(t)); err != nil {
		t.Fatal(err)
	}
	if after := entry().Service.ModifyIndex; after != before {
		t.Errorf("written again at %d, although it stood at %d", after, before)
	}
	// And it is still ours to remove.
	if err := s.Close(wait.Context(t)); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "removed", func() bool { return !has() })
	if err := s.Register(wait.Context(t), i); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("Register after Close: %v", err)
	}
}

// A check that the agent does not let pass is no reason to let the others expire, which
// come after it.
func TestOneRefusedCheckStarvesNone(t *testing.T) {
	t.Parallel()
	server := testserver.LendConsul(t)
	way := faultproxy.NewHTTP(t, server.Addr())
	d := open(t, Config{Address: way.Addr(), HealthyOnly: true})
	ttl := 6 * time.Second // a busy machine renews in time
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(wait.Context(t))
	var all []driver.Instance
	for _, name := range []string{"a", "b", "c"} {
		i := driver.Instance{Service: "orders", NodeID: name, InstanceID: name, Addr: "10.0.0.5:7946"}
		all = append(all, i)
		if err := s.Register(wait.Context(t), i); err != nil {
			t.Fatal(err)
		}
	}
	refused := way.Inject(faultproxy.Fault{Outcome: faultproxy.Refuse, Calls: "PUT /v1/agent/check/update/" + registration.CheckID(s.(*session).id, "orders:a")})
	for start := time.Now(); time.Since(start) < 2*ttl; time.Sleep(ttl / 10) { // renewals are spaced
		err = s.Renew(wait.Context(t))
		if !errors.Is(err, driver.ErrPartial) || !errors.Is(err, driver.ErrUnavailable) || errors.Is(err, driver.ErrSessionLost) ||
			!strings.Contains(err.Error(), "orders:a") || strings.Contains(err.Error(), "orders:b") {
			t.Fatalf("Renew returned %v", err)
		}
	}
	if refused.Count() == 0 {
		t.Fatal("nothing was refused")
	}
	found, err := open(t, Config{Address: server.Addr(), HealthyOnly: true}).List(wait.Context(t), driver.Query{Service: "orders"})
	if err != nil || len(found.Instances) != 2 || slices.ContainsFunc(found.Instances, func(i driver.Instance) bool { return i.Key() == "a" }) {
		t.Errorf("after two TTLs in which one of three checks was refused: %+v, %v", found.Instances, err)
	}
	// Registering it again writes it, so that a refusal would be reported, and once its check
	// is let pass it is there again.
	written := way.Counts()
	if err := s.Register(wait.Context(t), all[0]); err != nil {
		t.Fatal(err)
	}
	if n := way.Counts().Since(written).Sum("PUT /v1/agent/service/register").Calls; n != 1 {
		t.Errorf("what was not renewed was written %d times by Register, want once", n)
	}
	way.Restore()
	wait.For(t, "the one that was refused is there again", func() bool {
		if err := s.Renew(wait.Context(t)); err != nil {
			t.Fatal(err)
		}
		found, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
		return err == nil && len(found.Instances) == 3
	})
	// Of a session none of whose checks is renewed nothing is known to go on.
	way.Inject(faultproxy.Fault{Outcome: faultproxy.Refuse, Calls: "PUT /v1/agent/check/update/"})
	err = s.Renew(wait.Context(t))
	if errors.Is(err, driver.ErrPartial) || !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "orders:c") {
		t.Errorf("where all are refused Renew returned %v", err)
	}
}

// A registration that cannot be removed keeps none of those after it, however they are
// kept.
func TestOneThatStaysKeepsNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"agent":   {},
		"catalog": {Mode: Catalog},
		"kv":      {Format: formatRegistratorKV, Prefix: newPrefix()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testserver.LendConsul(t)
			way := faultproxy.NewHTTP(t, server.Addr())
			c.Address = way.Addr()
			d := open(t, c)
			d.leastSession = time.Second
			s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: wait.Patience})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(wait.Context(t))
			i := driver.Instance{Service: "orders", NodeID: "n", InstanceID: "host:a:1", Addr: "10.0.0.5:7946"}
			for n := range 3 {
				i.InstanceID = fmt.Sprintf("host:a:%d", n+1)
				i.Addr = fmt.Sprintf("10.0.0.5:%d", n+1)
				if err := s.Register(wait.Context(t), i); err != nil {
					t.Fatal(err)
				}
			}
			found := func() []driver.Instance {
				all, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
				if err != nil {
					t.Fatal(err)
				}
				return all.Instances
			}
			wait.For(t, "three are registered", func() bool { return len(found()) == 3 })
			var remove func([]string) error
			var ids []string
			fault := faultproxy.Fault{Outcome: faultproxy.Refuse, Nth: 1}
			switch s := s.(type) {
			case *session:
				ids, fault.Calls = s.ids(), "PUT /v1/agent/service/deregister/"
				remove = func(ids []string) error { return s.removeAll(wait.Context(t), ids) }
			case *catalogSession:
				ids, fault.Calls = []string{"orders:host:a:1", "orders:host:a:2", "orders:host:a:3"}, "PUT /v1/catalog/deregister"
				remove = func(ids []string) error { return s.removeAll(wait.Context(t), ids) }
			case *kvSession:
				pairs, _, err := server.Client().KV().List(d.kv.Root(), nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range pairs {
					ids = append(ids, p.Key)
				}
				fault.Calls = "DELETE /v1/kv/"
				remove = func(ids []string) error { return s.remove(wait.Context(t), ids) }
			}
			if len(ids) != 3 {
				t.Fatalf("registered are %q", ids)
			}
			way.Inject(fault)
			err = remove(ids)
			if !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), ids[0]) || strings.Contains(err.Error(), ids[1]) {
				t.Errorf("to remove them returned %v", err)
			}
			wait.For(t, "the first of three is left", func() bool { return len(found()) == 1 })
		})
	}
}

// The bounds of what a session may be asked for, however it is kept.
func TestSessionTTLs(t *testing.T) {
	t.Parallel()
	server := testserver.SharedConsul(t)
	for name, c := range map[string]Config{"agent": {}, "catalog": {Mode: Catalog}, "kv": {Format: formatRegistratorKV, Prefix: newPrefix()}} {
		c.Address = server.Addr()
		for ttl, ok := range map[time.Duration]bool{
			-time.Second: false, time.Nanosecond: false, 499 * time.Millisecond: false, 500 * time.Millisecond: true, 0: true, 49 * time.Hour: name == "agent",
		} {
			s, err := open(t, c).OpenSession(wait.Context(t), driver.SessionOptions{TTL: ttl})
			if (err == nil) != ok || err != nil && !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%s: a session of %v: %v, want it to be opened: %v", name, ttl, err, ok)
			}
			if err == nil {
				if s.TTL() < ttl {
					t.Errorf("%s: asked for %v it has %v", name, ttl, s.TTL())
				}
				if err := s.Close(wait.Context(t)); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
