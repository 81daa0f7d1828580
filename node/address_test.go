package node_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/providers/static"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/tlsfiles"
)

// moving is a resolver whose one name can move.
type moving struct{ to atomic.Pointer[netip.Addr] }

func (m *moving) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{*m.to.Load()}, nil
}

func (m *moving) move(to string) {
	a := netip.MustParseAddr(to)
	m.to.Store(&a)
}

// A node whose name has come to stand for another address ends, since the members
// know it by the old one. One whose name comes back goes on.
func TestAddressThatMovesEndsTheNode(t *testing.T) {
	t.Parallel()
	names := new(moving)
	names.move("127.0.0.1")
	c := newCluster(t)
	n := c.start("a", func(c *node.Config) {
		c.Advertise = "node.localhost:7946"
		c.SetAddress(advertise.Options{Resolver: names, Interval: time.Millisecond}, 300*time.Millisecond)
	})
	names.move("127.0.0.2")
	names.move("127.0.0.1")
	select {
	case <-n.Done():
		t.Fatalf("the node ended because of a moment: %v", n.Err())
	case <-time.After(time.Second):
	}
	names.move("127.0.0.2")
	select {
	case <-n.Done():
	case <-time.After(wait.Patience):
		t.Fatal("the node goes on at an address that nobody dials")
	}
	if !errors.Is(n.Err(), node.ErrAddressChanged) || !strings.Contains(n.Err().Error(), "127.0.0.2:7946") {
		t.Errorf("Err: %v", n.Err())
	}
}

// A listed voter knows itself by its advertised address, however that is written or
// found, and by the name that it was resolved from.
func TestVoterKnowsItself(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, advertise, listed, voter string }{
		{"by address", "auto", "127.0.0.1", ""},
		{"by address, advertised by name", "localhost", "127.0.0.1", ""},
		{"by name", "localhost", "localhost", ""},
		{"by name, in another spelling", "localhost", "LocalHost.", ""},
		{"by address in another form", "[::ffff:127.0.0.1]", "127.0.0.1", ""},
		{"by interface", "interface:lo", "127.0.0.1", ""},
		{"by node.voter", "auto", "localhost", "localhost"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, port, _ := net.SplitHostPort(freeAddr(t))
			at := func(host string) string {
				if host == "" || host == "auto" || strings.HasPrefix(host, "interface:") {
					return host
				}
				return host + ":" + port
			}
			registry, err := discovery.Open("static", &static.Config{Peers: []string{at(test.listed)}}, discovery.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer registry.Close()
			n, err := node.Start(t.Context(), node.Config{
				Cluster: "orders", NodeID: "a", Bind: "127.0.0.1:" + port, Advertise: at(test.advertise),
				Voter: at(test.voter), DataDir: t.TempDir(), Registries: []*discovery.Registry{registry},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer n.Leave(context.Background())
			wait.For(t, "the only voter is master", n.IsMaster)
			if !n.View().Majority {
				t.Error("the only voter sees no majority")
			}
		})
	}
}

// Whatever makes a start fail is named, and leaves nothing behind: the port is free
// again, and TestMain sees to the rest.
func TestFailedStartsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*node.Config)
		want   []string
	}{
		{"port in use", func(c *node.Config) { c.Bind = taken.Addr().String() }, []string{"node.bind", "in use"}},
		{"unresolvable name", func(c *node.Config) { c.Advertise = "no-such-host.invalid:7946" }, []string{"node.advertise", "no-such-host.invalid"}},
		{"data_dir", func(c *node.Config) { c.DataDir = filepath.Join(file, "dir") }, []string{"data_dir", file}},
		{"certificate", func(c *node.Config) { c.TLS = tlsfiles.Config{CAFile: file} }, []string{"tls.ca_file", "PEM"}},
		{"cluster name", func(c *node.Config) { c.Cluster = strings.Repeat("x", 300) }, []string{"cluster", "300 bytes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bind := freeAddr(t)
			registry, err := discovery.Open("static", &static.Config{Peers: []string{bind}}, discovery.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer registry.Close()
			cfg := node.Config{Cluster: "orders", NodeID: "a", Bind: bind, DataDir: t.TempDir(), Registries: []*discovery.Registry{registry}}
			test.change(&cfg)
			n, err := node.Start(t.Context(), cfg)
			if err == nil {
				_ = n.Leave(context.Background())
				t.Fatal("it started")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
			again, err := net.Listen("tcp", bind)
			if err != nil {
				t.Fatalf("the port was not given back: %v", err)
			}
			again.Close()
		})
	}
}
