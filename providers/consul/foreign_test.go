package consul

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// ingress stands between us and Consul. While its backend is gone it has an answer of
// its own to everything.
type ingress struct {
	*httptest.Server
	gone     atomic.Bool
	requests atomic.Int64
}

func startIngress(t testing.TB, consul *testserver.Consul) *ingress {
	t.Helper()
	backend, err := url.Parse("http://" + consul.Addr())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	proxy := httputil.NewSingleHostReverseProxy(backend)
	proxy.Transport = transport
	proxy.ErrorLog = log.New(io.Discard, "", 0) // of requests that we give up
	i := new(ingress)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.requests.Add(1)
		if i.gone.Load() {
			http.Error(w, "default backend - 404", http.StatusNotFound)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		i.CloseClientConnections()
		i.Close()
		transport.CloseIdleConnections()
	})
	return i
}

// Consul says 404 of a key that is not there, and so does an ingress of everything
// while its backend is gone. The latter says nothing of what stands in Consul: no
// set is empty, nothing is missing, and no session is lost.
func TestForeignAnswer(t *testing.T) {
	t.Parallel()
	const ttl = 2 * wait.Patience // it is not to run out
	i := startIngress(t, testserver.SharedConsul(t))
	ctx := t.Context()
	prefix := newPrefix()
	self := driver.Instance{Service: "foreign-answer", NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	drivers := make(map[string]*Driver)
	sessions := make(map[string]driver.Session)
	for name, c := range map[string]Config{
		"agent":   {},
		"catalog": {Mode: Catalog},
		"kv":      {Format: formatRegistratorKV, AuthorityPrefix: prefix},
	} {
		c.Address, c.Prefix = i.URL, prefix
		drivers[name] = open(t, c)
		s, err := drivers[name].OpenSession(ctx, driver.SessionOptions{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close(context.Background()) })
		if err := s.Register(ctx, self); err != nil {
			t.Fatal(err)
		}
		sessions[name] = s
	}
	opened, err := drivers["agent"].OpenAuthority(ctx, driver.AuthorityOptions{Cluster: "c", TTL: longestGrantTTL})
	if err != nil {
		t.Fatal(err)
	}
	a := opened.(*authority)
	t.Cleanup(func() { _ = a.Close(context.Background()) })
	vacant(t, testserver.SharedConsul(t), a)
	grant, err := a.Acquire(ctx, driver.Claim{Holder: driver.Holder{NodeID: "n1", InstanceID: "i1"}, ClusterID: "id"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Release(context.Background(), grant) })
	if _, err := a.Set(ctx, "record", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}

	i.gone.Store(true)
	attempts := map[string]func() error{
		"Renew of a grant": func() error { _, err := a.Renew(ctx, grant); return err },
		"Get":              func() error { _, err := a.Get(ctx, "record"); return err },
		"Records":          func() error { _, err := a.Records(ctx, ""); return err },
		"Observe": func() error {
			seen := 0
			for _, err := range a.Observe(ctx) {
				if seen++; err != nil || seen == 3 {
					return err
				}
			}
			return nil
		},
	}
	for name, d := range drivers {
		attempts["List of "+name] = func() error { _, err := d.List(ctx, driver.Query{Service: self.Service}); return err }
		attempts["Deregister of "+name] = func() error {
			return sessions[name].Deregister(ctx, self)
		}
	}
	for _, name := range []string{"catalog", "kv"} {
		attempts["Renew of "+name] = func() error { return sessions[name].Renew(ctx) }
	}
	for what, try := range attempts {
		bounded := make(chan error, 1)
		go func() { bounded <- try() }()
		select {
		case err := <-bounded:
			if !errors.Is(err, driver.ErrUnavailable) {
				t.Errorf("%s: %v, want driver.ErrUnavailable", what, err)
			}
		case <-time.After(wait.Patience):
			t.Errorf("%s: no answer within %v, in %d requests", what, wait.Patience, i.requests.Load())
		}
	}

	i.gone.Store(false)
	if _, err := a.Renew(ctx, grant); err != nil {
		t.Errorf("Renew of a grant, once Consul answers again: %v", err)
	}
	for name, s := range sessions {
		if err := s.Renew(ctx); err != nil {
			t.Errorf("Renew of %s, once Consul answers again: %v", name, err)
		}
		found, err := drivers[name].List(ctx, driver.Query{Service: self.Service})
		if err != nil || len(found.Instances) == 0 {
			t.Errorf("%s finds %+v, %v", name, found, err)
		}
	}
}

// What hangs on a key is not dead because somebody else does not know the key.
func TestForeignAnswerToLiveness(t *testing.T) {
	t.Parallel()
	i := startIngress(t, testserver.SharedConsul(t))
	i.gone.Store(true)
	d := open(t, Config{Address: i.URL, Mode: Catalog})
	if alive, _, err := d.keysHeld(t.Context(), reading{}); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("lives: %v, %v, want driver.ErrUnavailable", alive, err)
	}
}
