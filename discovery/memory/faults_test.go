package memory_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

var web = driver.Instance{Service: "web", InstanceID: "one", Addr: "10.0.0.1:80"}

func open(t *testing.T, m *memory.Server) (driver.Driver, driver.Session, driver.Authority) {
	t.Helper()
	d := m.Driver()
	t.Cleanup(func() { d.Close() })
	s, err := d.(driver.Registrar).OpenSession(t.Context(), driver.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := d.(driver.Authorizer).OpenAuthority(t.Context(), driver.AuthorityOptions{Cluster: "web"})
	if err != nil {
		t.Fatal(err)
	}
	return d, s, a
}

func count(t *testing.T, d driver.Driver) int {
	t.Helper()
	s, err := d.List(t.Context(), driver.Query{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	return len(s.Instances)
}

func TestLosesResponses(t *testing.T) {
	m := memory.New()
	d, s, a := open(t, m)
	m.LoseResponses(true)
	if err := s.Register(t.Context(), web); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("Register: %v, want ErrUnavailable", err)
	}
	claim := driver.Claim{Holder: driver.Holder{InstanceID: "one"}, ClusterID: "x"}
	if g, err := a.Acquire(t.Context(), claim); !errors.Is(err, driver.ErrUnavailable) || g.Term != 0 {
		t.Errorf("Acquire = %+v, %v, want no grant and ErrUnavailable", g, err)
	}
	if n := count(t, d); n != 1 {
		t.Errorf("%d instances after a registration whose response was lost, want 1", n)
	}
	m.LoseResponses(false)
	if g, err := a.Acquire(t.Context(), claim); err != nil || g.Term != 1 {
		t.Errorf("Acquire = %+v, %v, want the term 1 whose response was lost", g, err)
	}
}

func TestWipe(t *testing.T) {
	m := memory.New()
	d, s, a := open(t, m)
	if err := s.Register(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	claim := driver.Claim{Holder: driver.Holder{InstanceID: "one"}, ClusterID: "x", MinTerm: 7}
	g, err := a.Acquire(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.(driver.Store).Set(t.Context(), "k", nil, 0); err != nil {
		t.Fatal(err)
	}
	before, _ := d.List(t.Context(), driver.Query{Service: "web"})
	m.Wipe()
	after, err := d.List(t.Context(), driver.Query{Service: "web"})
	if err != nil || len(after.Instances) != 0 || after.Revision <= before.Revision {
		t.Errorf("List = %+v, %v, want nothing at a higher revision than %d", after, err, before.Revision)
	}
	if err := s.Renew(t.Context()); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew of the session: %v", err)
	}
	if _, err := a.Renew(t.Context(), g); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew of the grant: %v", err)
	}
	if _, err := a.(driver.Store).Get(t.Context(), "k"); !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	claim.MinTerm, claim.ClusterID = 3, "y"
	if g, err := a.Acquire(t.Context(), claim); err != nil || g.Term != 4 || g.ClusterID != "y" {
		t.Errorf("Acquire = %+v, %v, want term 4 of cluster y: the provider's own count is gone", g, err)
	}
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		d := m.Driver()
		defer d.Close()
		m.Delay(3 * time.Second)
		start := time.Now()
		count(t, d)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("List took %v with a delay of 3 s", took)
		}
		time.AfterFunc(time.Second, func() { m.Delay(0) })
		start = time.Now()
		count(t, d)
		if took := time.Since(start); took != time.Second {
			t.Errorf("List took %v, though the delay was ended after 1 s", took)
		}
	})
}

func TestFailEndsWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		d := m.Driver()
		defer d.Close()
		time.AfterFunc(time.Second, func() { m.Fail(driver.ErrDenied) })
		var last error
		for _, err := range d.(driver.Watcher).Watch(t.Context(), driver.Query{Service: "web"}, driver.Snapshot{}) {
			last = err
		}
		if !errors.Is(last, driver.ErrDenied) {
			t.Errorf("the watch ended with %v", last)
		}
	})
}

// Clients share nothing but what the provider keeps.
func TestCopies(t *testing.T) {
	m := memory.New()
	d, s, _ := open(t, m)
	i := web
	i.Meta = map[string]string{"k": "v"}
	if err := s.Register(context.Background(), i); err != nil {
		t.Fatal(err)
	}
	i.Meta["k"] = "changed by the writer"
	first, _ := d.List(t.Context(), driver.Query{Service: "web"})
	first.Instances[0].Meta["k"] = "changed by a reader"
	second, _ := d.List(t.Context(), driver.Query{Service: "web"})
	if got := second.Instances[0].Meta["k"]; got != "v" {
		t.Errorf("meta is %q, want v", got)
	}
}
