package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar"
)

// An agent accepts 200 connections of a host. One container may have thousands of ports, each
// of which is a service that its registrar watches.
func TestMoreServicesThanConnections(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t, testserver.WithConnections(200))
	d := open(t, Config{Address: server.Addr(), HealthyOnly: true, Format: formatRegistrator})
	logs := new(syncBuffer)
	logger := slog.New(slog.NewTextHandler(logs, nil))
	registry := discovery.New("consul", d, discovery.Options{Logger: logger})
	t.Cleanup(func() { registry.Close() })
	r := registrar.New(registrar.Config{Registry: registry, TTL: 30 * time.Second, Logger: logger})
	t.Cleanup(func() { r.Stop(context.Background()) })
	const n = 400
	var all []discovery.Instance
	for i := range n {
		all = append(all, discovery.Instance{Service: fmt.Sprintf("media-%d", i), NodeID: "h", InstanceID: fmt.Sprintf("h:media:%d", i+1), Addr: fmt.Sprintf("10.0.0.1:%d", 1000+i)})
	}
	if err := r.Set(all...); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(wait.Context(t)); err != nil {
		t.Fatal(err)
	}
	before := r.Status().Counters.Renewals
	wait.For(t, "renewed", func() bool { return r.Status().Counters.Renewals >= before+2 })
	s := r.Status()
	if c := s.Counters; c.OpenErrors+c.SessionsLost > 0 || !s.Registered() {
		t.Errorf("%+v, %v", c, s.Err())
	}
	// A machine that is busy may take long; no connection is refused all the same.
	// (The text of the answer, since "429" is in a time now and then.)
	if strings.Contains(logs.String(), "too many concurrent connections") {
		t.Errorf("connections are refused:\n%s", logs)
	}
	var errs int
	for _, i := range all {
		found, err := registry.List(wait.Context(t), discovery.Query{Service: i.Service})
		if err != nil || len(snapshot.Instances(found)) != 1 {
			errs++
		}
	}
	if errs > 0 {
		t.Errorf("%d services are not found", errs)
	}
}

// While nobody is master, each node of an election waits for changes for one TTL, again and
// again. Those waits must end at the agent too: it accepts 200 connections of a host, and refuses
// all that is asked of it beyond them, a claim of mastership among that.
func TestWaitsEndAtTheAgent(t *testing.T) {
	t.Parallel()
	const connections = 10
	server := testserver.StartConsul(t, testserver.WithConnections(connections))
	store := kvStore{open(t, Config{Address: server.Addr()})}
	const key = "muster/v1/waited-for"
	if _, err := store.CompareAndSet(wait.Context(t), key, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	mark, err := store.Wait(wait.Context(t), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 * connections {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := store.Wait(ctx, key, mark)
		if err != nil && ctx.Err() == nil {
			t.Errorf("wait %d: %v", i, err)
		}
		cancel()
		if t.Failed() {
			return
		}
	}
}

// What is no agent at all is not one that may not be asked.
func TestIdentifyOfSomethingElse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		status int
		want   error
	}{
		{"another service", http.StatusOK, driver.ErrInvalid},
		{"an agent that may not be asked", http.StatusForbidden, driver.ErrDenied},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, "hello")
			}))
			defer server.Close()
			d := open(t, Config{Address: server.URL})
			if names, err := d.Identify(t.Context()); !errors.Is(err, test.want) {
				t.Errorf("Identify returned %v, %v; want an error that wraps %v", names, err, test.want)
			}
		})
	}
}
