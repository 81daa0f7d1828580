package static_test

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testnet"
	"github.com/musterhq/muster/providers/static"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConformance runs the suite over a file: what is seeded is written to it.
func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(t testing.TB) discoverytest.Harness {
		h := harness(t)
		openDriver := h.Open
		h.Open = func(t testing.TB) driver.Driver { return lists{openDriver(t).(*static.Driver)} }
		return h
	})
}

// lists hides the authority, which stands on voters and not on the file.
type lists struct{ d *static.Driver }

func (l lists) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	return l.d.List(ctx, q)
}

func (l lists) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return l.d.Watch(ctx, q, since)
}

func (l lists) Close() error { return l.d.Close() }

func harness(t testing.TB) discoverytest.Harness {
	path := filepath.Join(t.TempDir(), "peers")
	write(t, path, "# none yet\n")
	aside := path + ".aside"
	return discoverytest.Harness{
		Open: func(t testing.TB) driver.Driver {
			return open(t, static.Config{File: path, Refresh: time.Second})
		},
		Seed: func(t testing.TB, service string, instances []driver.Instance) []driver.Instance {
			var b strings.Builder
			fmt.Fprintf(&b, "# %s\n", service)
			shown := make([]driver.Instance, 0, len(instances))
			for _, i := range instances {
				fmt.Fprintln(&b, i.Addr)
				shown = append(shown, driver.Instance{Service: service, Addr: i.Addr})
			}
			write(t, path, b.String())
			return shown
		},
		Dump: func(t testing.TB) map[string]string {
			all := make(map[string]string)
			files, err := os.ReadDir(filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				text, err := os.ReadFile(filepath.Join(filepath.Dir(path), f.Name()))
				if err != nil {
					t.Fatal(err)
				}
				all[f.Name()] = string(text)
			}
			return all
		},
		Stop: func(t testing.TB) {
			if err := os.Rename(path, aside); err != nil {
				t.Fatal(err)
			}
		},
		Start: func(t testing.TB) {
			if err := os.Rename(aside, path); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// TestAuthorityConformance runs the clauses of the authority and the store over
// voters that talk over TCP.
func TestAuthorityConformance(t *testing.T) {
	discoverytest.RunAuthority(t, func(t testing.TB) discoverytest.Harness {
		h := harness(t)
		f := testnet.New()
		var addrs []string
		h.GrantTTL = 500 * time.Millisecond
		h.Stop = func(testing.TB) { f.Cut(addrs, addrs, true) }
		h.Start = func(testing.TB) { f.Heal() }
		h.OpenAuthorities = func(t testing.TB, cluster string, ttls []time.Duration) []discoverytest.Candidate {
			candidates := openAuthorities(t, f, cluster, ttls)
			for _, c := range candidates {
				addrs = append(addrs, c.Holder.Addr)
			}
			return candidates
		}
		return h
	})
}

func openAuthorities(t testing.TB, f *testnet.Net, cluster string, ttls []time.Duration) []discoverytest.Candidate {
	var peers []string
	var nodes []*testnet.Node
	for range ttls {
		node := f.Node(t)
		t.Cleanup(node.Close)
		nodes = append(nodes, node)
		peers = append(peers, node.Addr())
	}
	d := open(t, static.Config{Peers: peers})
	t.Cleanup(func() { d.Close() })
	var candidates []discoverytest.Candidate
	for i, node := range nodes {
		self := driver.Holder{
			NodeID: fmt.Sprintf("n%d", i+1), InstanceID: fmt.Sprintf("n%d/1", i+1), Addr: node.Addr(),
			AppAddrs: map[string]string{"http": "10.0.0.5:8080"},
		}
		a, err := d.OpenAuthority(context.Background(), driver.AuthorityOptions{
			Cluster: cluster, Self: self, TTL: ttls[i], DataDir: t.TempDir(), Network: node, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		candidates = append(candidates, discoverytest.Candidate{Authority: a, Holder: self})
	}
	return candidates
}

func open(t testing.TB, c static.Config) *static.Driver {
	t.Helper()
	d, err := static.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// write replaces the file in one step, as a careful editor does.
func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
