package registrar

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/snapshot"
)

// addresses is a provider in memory that keeps nothing of an instance but its
// address, as some of the systems do whose records Muster writes.
type addresses struct{ driver.Driver }

func (addresses) Normalize(i driver.Instance) driver.Instance {
	return driver.Instance{Service: i.Service, Addr: i.Addr}
}

func (a addresses) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return a.Driver.(driver.Watcher).Watch(ctx, q, since)
}

func (a addresses) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	s, err := a.Driver.(driver.Registrar).OpenSession(ctx, o)
	return addressSession{s, a}, err
}

type addressSession struct {
	driver.Session
	a addresses
}

func (s addressSession) Register(ctx context.Context, i driver.Instance) error {
	return s.Session.Register(ctx, s.a.Normalize(i))
}

func (s addressSession) Deregister(ctx context.Context, i driver.Instance) error {
	return s.Session.Deregister(ctx, s.a.Normalize(i))
}

// What a provider cannot keep is no reason to register again and again, and what
// it can is still looked after.
func TestProviderThatKeepsLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := memory.New()
		registry := discovery.New("memory", addresses{memory.Driver()}, discovery.Options{})
		defer registry.Close()
		r := New(Config{Registry: registry, TTL: ttl})
		defer r.Stop(context.Background())
		full := instance("a", 1)
		full.Zone, full.Tags = "eu-1", []string{"web"}
		if err := r.Set(full); err != nil {
			t.Fatal(err)
		}
		for port := range 5 {
			after(2 * ttl)
			memory.Put(instance("other", 100+port)) // and everyone looks
		}
		after(2 * ttl)
		if s := r.Status(); !s.Registered() || s.Counters.Repairs != 0 {
			t.Errorf("registered: %v, after %d repairs of what was not broken", s.Registered(), s.Counters.Repairs)
		}
		memory.Remove(registry.Normalize(full))
		after(0)
		if s := r.Status(); !s.Registered() || s.Counters.Repairs != 1 {
			t.Errorf("after it was deleted by another: registered: %v, %d repairs", s.Registered(), s.Counters.Repairs)
		}
		s, err := registry.List(t.Context(), discovery.Query{Service: full.Service})
		if err != nil || len(snapshot.Instances(s)) != 2 || snapshot.Instances(s)[0].Addr != full.Addr {
			t.Errorf("readers see %+v, %v", snapshot.Instances(s), err)
		}
	})
}

// What is desired is left alone by Evict also where it is listed as what is left of it.
func TestEvictOfWhatIsKeptUnderAnotherID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := memory.New()
		registry := discovery.New("memory", shouting{memory.Driver()}, discovery.Options{})
		defer registry.Close()
		r := New(Config{Registry: registry, TTL: ttl})
		defer r.Stop(context.Background())
		if err := r.Set(instance("a", 1)); err != nil {
			t.Fatal(err)
		}
		after(ttl)
		for range 3 {
			s, err := registry.List(t.Context(), discovery.Query{Service: "web"})
			if err != nil || len(snapshot.Instances(s)) != 1 || snapshot.Instances(s)[0].InstanceID != "A" {
				t.Fatalf("readers see %+v, %v", snapshot.Instances(s), err)
			}
			if err := r.Evict(snapshot.Instances(s)...); err != nil {
				t.Fatal(err)
			}
			after(2 * ttl)
		}
		if s := r.Status(); !s.Registered() || s.Counters.Deregistrations != 0 || s.Counters.Repairs != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// shouting is a provider in memory whose ids are in capitals.
type shouting struct{ driver.Driver }

func (shouting) Normalize(i driver.Instance) driver.Instance {
	i.InstanceID = strings.ToUpper(i.InstanceID)
	return i
}

func (d shouting) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	s, err := d.Driver.(driver.Registrar).OpenSession(ctx, o)
	return shoutingSession{s, d}, err
}

type shoutingSession struct {
	driver.Session
	d shouting
}

func (s shoutingSession) Register(ctx context.Context, i driver.Instance) error {
	return s.Session.Register(ctx, s.d.Normalize(i))
}

func (s shoutingSession) Deregister(ctx context.Context, i driver.Instance) error {
	return s.Session.Deregister(ctx, s.d.Normalize(i))
}

// What is listed names nothing else that is taken away: an instance that the provider would
// keep in the place of another is left alone.
func TestEvictTakesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := memory.New()
		registry := discovery.New("memory", addresses{memory.Driver()}, discovery.Options{})
		defer registry.Close()
		r := New(Config{Registry: registry, TTL: ttl})
		defer r.Stop(context.Background())
		named := instance("named", 1)
		other := registry.Normalize(named) // in the place that it would have
		memory.Put(named, other)
		if err := r.Evict(named); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("Evict of what would be taken away as another = %v", err)
		}
		after(2 * ttl)
		s, err := registry.List(t.Context(), discovery.Query{Service: "web"})
		if err != nil || len(snapshot.Instances(s)) != 2 {
			t.Errorf("left are %+v, %v", snapshot.Instances(s), err)
		}
		if status := r.Status(); len(status.Instances) != 0 {
			t.Errorf("the status has %+v", status.Instances)
		}
	})
}
