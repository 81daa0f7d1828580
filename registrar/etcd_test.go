package registrar_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/registrar"
)

// The tests of this file run over a real etcd.

const etcdTTL = 2 * time.Second // the least that etcd grants by default

// holderEnv makes the test binary a process that holds a registration until it is
// killed.
const holderEnv = "REGISTRAR_TEST_HOLDER"

func TestMain(m *testing.M) {
	if endpoint := os.Getenv(holderEnv); endpoint != "" {
		hold(endpoint)
		return
	}
	goleak.VerifyTestMain(m)
}

func hold(endpoint string) {
	registry, err := open(endpoint, nil)
	if err == nil {
		r := registrar.New(registrar.Config{Registry: registry, TTL: etcdTTL})
		err = r.Set(web("held"))
		if err == nil {
			err = r.Wait(context.Background())
		}
	}
	fmt.Println("registered:", err)
	io.Copy(io.Discard, os.Stdin) // as long as the parent lives
}

func open(endpoint string, log *slog.Logger) (*discovery.Registry, error) {
	d, err := etcd.New(etcd.Config{Endpoints: []string{endpoint}})
	if err != nil {
		return nil, err
	}
	return discovery.New("etcd", d, discovery.Options{Logger: log}), nil
}

func web(id string) discovery.Instance {
	return discovery.Instance{Service: "web", NodeID: "node-" + id, InstanceID: id, Addr: "10.0.0.5:7946"}
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func openRegistry(t *testing.T, server *testserver.Etcd) *discovery.Registry {
	t.Helper()
	registry, err := open(server.Endpoint(), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	return registry
}

func start(t *testing.T, server *testserver.Etcd) *registrar.Registrar {
	t.Helper()
	r := registrar.New(registrar.Config{Registry: openRegistry(t, server), TTL: etcdTTL, Logger: testLog(t)})
	t.Cleanup(func() { r.Stop(context.Background()) })
	return r
}

// sees waits until a reader sees exactly the instances of these ids, and returns
// when it did.
func sees(t *testing.T, reader *discovery.Registry, ids ...string) time.Time {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	var last discovery.Snapshot
	for last = range reader.Watch(ctx, discovery.Query{Service: "web"}) {
		var got []string
		for _, i := range snapshot.Instances(last) {
			got = append(got, i.InstanceID)
		}
		if last.Known && !last.Stale && slices.Equal(got, ids) {
			return time.Now()
		}
	}
	t.Fatalf("a reader never saw %v, but at last %+v", ids, last)
	return time.Time{}
}

func TestEtcdKilledForLongerThanTheTTL(t *testing.T) {
	for _, tt := range []struct {
		name  string
		after func(*testserver.Etcd)
	}{
		{"and back", (*testserver.Etcd).Restart},
		{"and back with an empty disk", func(e *testserver.Etcd) { e.Wipe(); e.Restart() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := testserver.StartEtcd(t)
			r, reader := start(t, server), openRegistry(t, server)
			if err := r.Set(web("a"), web("b")); err != nil {
				t.Fatal(err)
			}
			sees(t, reader, "a", "b")

			server.Kill()
			ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
			defer cancel()
			for s := range r.Watch(ctx) {
				if !s.Instances[0].Registered && !s.Instances[1].Registered {
					break // the TTL has passed
				}
			}
			tt.after(server)
			if err := r.Wait(ctx); err != nil {
				t.Fatalf("not registered again: %v", err)
			}
			sees(t, reader, "a", "b")
			if err := r.Stop(ctx); err != nil {
				t.Fatalf("Stop: %v", err)
			}
			sees(t, reader)
		})
	}
}

func TestEtcdKeyDeletedAndLeaseRevoked(t *testing.T) {
	server := testserver.StartEtcd(t)
	r, reader := start(t, server), openRegistry(t, server)
	if err := r.Set(web("a")); err != nil {
		t.Fatal(err)
	}
	sees(t, reader, "a")

	wiped, err := server.Client().Delete(t.Context(), "/", clientv3.WithPrefix())
	if err != nil || wiped.Deleted == 0 {
		t.Fatalf("delete by hand: %+v, %v", wiped, err)
	}
	sees(t, reader, "a")

	leases, err := server.Client().Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 {
		t.Fatalf("leases: %+v, %v, want one", leases, err)
	}
	if _, err := server.Client().Revoke(t.Context(), leases.Leases[0].ID); err != nil {
		t.Fatal(err)
	}
	sees(t, reader, "a")
	if c := r.Status().Counters; c.SessionsLost != 1 || c.SessionsOpened != 2 {
		t.Errorf("counters %+v, want one lost session, and another in its place", c)
	}
}

// The key of a process that is killed goes within a second after its TTL. On a
// loaded machine the measurement itself may be late: one of three must do.
func TestEtcdHolderKilled(t *testing.T) {
	server := testserver.StartEtcd(t)
	reader := openRegistry(t, server)
	for attempt := range 3 {
		gone := killHolder(t, server, reader)
		t.Logf("gone after %v with a TTL of %v", gone, etcdTTL)
		if gone <= etcdTTL+time.Second {
			return
		}
		if attempt == 2 {
			t.Errorf("gone after %v, want it within the TTL of %v and a second", gone, etcdTTL)
		}
	}
}

// killHolder returns how long the registration of a process outlived it.
func killHolder(t *testing.T, server *testserver.Etcd, reader *discovery.Registry) time.Duration {
	t.Helper()
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holderEnv+"="+server.Endpoint())
	holder.Stderr = t.Output()
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Wait()
	defer holder.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "registered: <nil>\n" {
		t.Fatalf("the holder said %q, %v", line, err)
	}
	sees(t, reader, "held")

	killed := time.Now()
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	return sees(t, reader).Sub(killed)
}

func TestEtcdStopLeavesTheSuccessorAlone(t *testing.T) {
	server := testserver.StartEtcd(t)
	reader := openRegistry(t, server)
	old, successor := start(t, server), start(t, server)
	if err := old.Set(web("a")); err != nil {
		t.Fatal(err)
	}
	sees(t, reader, "a")
	// A new start at the same address, and, worse, one that took over the very key.
	if err := successor.Set(web("a"), web("b")); err != nil {
		t.Fatal(err)
	}
	if err := successor.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := old.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	sees(t, reader, "a", "b")
	if err := successor.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	sees(t, reader)
}

func TestEtcdStopWithoutAnAnswer(t *testing.T) {
	server := testserver.StartEtcd(t)
	r := start(t, server)
	if err := r.Set(web("a")); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Pause() // it accepts connections and answers nothing
	defer server.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	// TestStopIsBounded has how long it takes, in virtual time.
	if err := r.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop = %v, want an error at its bound of 1 s", err)
	}
}
