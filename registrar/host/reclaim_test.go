package host

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// What a registrar that was killed has left in the agent goes within 30 s of its successor's
// start, though the agent would keep it for a minute and more: whatever its ids and its
// containers. What is of others stays: another host's, a node's, a session's that lives, what
// no session of Muster has registered, and what is to be registered again.
func TestSuccessorReclaimsAfterAKill(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	open := func() *discovery.Registry {
		return openStore(t, store{open: func() (driver.Driver, error) {
			return consul.New(consul.Config{Address: server.Addr(), Format: "registrator"})
		}})
	}
	ctx := t.Context()
	session := func(ttl time.Duration, all ...discovery.Instance) driver.Session {
		t.Helper()
		s, err := open().OpenSession(ctx, driver.SessionOptions{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range all {
			if err := s.Register(ctx, i); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	of := func(host, service, id string) discovery.Instance {
		return discovery.Instance{Service: service, NodeID: host, InstanceID: id, Addr: "10.0.0.1:80"}
	}
	node := of("hunt", "cluster", strings.Repeat("0", 32))
	dead := []discovery.Instance{
		of("hunt", "web", "hunt:gone:80"), of("hunt", "web", "chosen.1"), of("hunt", "api", "hunt:renamed:80"), of("hunt", "web", "hunt:c1:80"),
		of("other", "web", "other:gone:80"), of("hunt", "spared", "hunt:x:80"), node,
	}
	session(500*time.Millisecond, dead...) // never renewed
	session(time.Hour, of("hunt", "web", "hunt:alive:80"))
	if err := server.Client().Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "web", ID: "hunt:foreign:80", Address: "10.0.0.9", Port: 1}); err != nil {
		t.Fatal(err)
	}
	critical := func() error {
		checks, err := server.Client().Agent().ChecksWithFilter(`Status == "critical"`)
		if err == nil && len(checks) < len(dead) {
			err = fmt.Errorf("%d checks are critical", len(checks))
		}
		return err
	}
	wait.NoError(t, critical)

	containers := newCrew()
	containers.run(map[string]int{"c1": 8000})
	started := time.Now()
	r, err := Start(Config{
		Registries: []*discovery.Registry{open()}, Engine: containers, TTL: 10 * time.Second, Cleanup: true, Spared: []string{"spared"},
		Rules: grammar.Rules{Hostname: "hunt", HostIP: "10.0.0.1"}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop(context.Background())
	has := func() ([]string, error) {
		services, err := server.Client().Agent().Services()
		var ids []string
		for id := range services {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return ids, err
	}
	gone := []string{"hunt:gone:80", "chosen.1", "hunt:renamed:80"}
	wait.NoError(t, func() error {
		ids, err := has()
		for _, id := range gone {
			if slices.Contains(ids, id) {
				err = fmt.Errorf("%s is still there: %v", id, ids)
			}
		}
		return err
	})
	if took := time.Since(started); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	ids, err := has()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"hunt:alive:80", "hunt:foreign:80", "hunt:c1:80", "other:gone:80", "hunt:x:80"} {
		if !slices.Contains(ids, id) {
			t.Errorf("%s was taken away: %v", id, ids)
		}
	}
	if !slices.ContainsFunc(ids, func(id string) bool { return strings.HasSuffix(id, ":hunt:80") && !strings.HasPrefix(id, "hunt:") }) { // HOST:NODE:PORT
		t.Errorf("the node was taken away: %v", ids)
	}
}
