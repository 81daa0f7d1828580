package node_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/tlsfiles"
)

// preflight opens one on a free port of loopback.
func preflight(t *testing.T, c node.Config) *node.Preflight {
	t.Helper()
	c.Bind = "127.0.0.1:0"
	p := node.NewPreflight(c)
	t.Cleanup(p.Close)
	if err := p.Open(); err != nil {
		t.Fatal(err)
	}
	return p
}

// bound is the address that p listens on.
func bound(t *testing.T, p *node.Preflight) string {
	t.Helper()
	addr, err := p.Bound(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return addr.String()
}

func TestPreflightFindsItself(t *testing.T) {
	p := preflight(t, node.Config{Cluster: "orders", NodeID: "n1", Advertise: "auto"})
	addr, err := p.Bound(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := p.Address(t.Context(), addr)
	if found.Err != nil || found.Addr != addr.String() || !p.Listening() || !p.CanDial() {
		t.Fatalf("found %v, listens on %v", found, addr)
	}
	if err := p.Reach(t.Context(), found.Addr); err != nil {
		t.Error(err)
	}
}

func TestPreflightFindsAnother(t *testing.T) {
	p := preflight(t, node.Config{Cluster: "orders", NodeID: "n1"})
	other := bound(t, preflight(t, node.Config{Cluster: "orders", NodeID: "n2"}))
	if peer, err := p.Ask(t.Context(), other); err != nil || peer.NodeID != "n2" {
		t.Errorf("%+v answers, %v", peer, err)
	}
	if err := p.Reach(t.Context(), other); err == nil || !strings.Contains(err.Error(), "node n2 answers there") {
		t.Errorf("reached another: %v", err)
	}
	stranger := bound(t, preflight(t, node.Config{Cluster: "billing"}))
	if _, err := p.Ask(t.Context(), stranger); !errors.Is(err, node.ErrRefused) || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("asked a node of another cluster: %v", err)
	}
	gone := preflight(t, node.Config{Cluster: "orders"})
	where := bound(t, gone)
	gone.Close()
	if _, err := p.Ask(t.Context(), where); err == nil || err.Error() != "connection refused" {
		t.Errorf("asked nobody: %v", err)
	}
	taken := node.NewPreflight(node.Config{Cluster: "orders", Bind: other})
	t.Cleanup(taken.Close)
	if err := taken.Open(); err == nil || !strings.Contains(err.Error(), "the port is in use") || taken.Listening() {
		t.Errorf("a port that is taken: %v", err)
	}
	if got := bound(t, taken); got != other {
		t.Errorf("a node on the port that is taken would listen on %s, want %s", got, other)
	}
	if peer, err := taken.Ask(t.Context(), other); err != nil || peer.NodeID != "n2" {
		t.Errorf("asked from another port: %+v, %v", peer, err)
	}
}

func TestPreflightWithTLS(t *testing.T) {
	ca := testserver.NewCA(t)
	with := func(issuer *testserver.CA) node.Config {
		cert, key := issuer.Issue(t, "node", testserver.PKCS8)
		return node.Config{Cluster: "orders", TLS: tlsfiles.Config{CAFile: ca.CAFile, CertFile: cert, KeyFile: key}}
	}
	p := preflight(t, with(ca))
	if err := p.Reach(t.Context(), bound(t, p)); err != nil {
		t.Error(err)
	}
	foreign := bound(t, preflight(t, with(testserver.NewCA(t))))
	if _, err := p.Ask(t.Context(), foreign); !errors.Is(err, node.ErrRefused) {
		t.Errorf("a certificate of another authority: %v", err)
	}
}

// What runs as a node can be asked, too.
func TestPreflightAsksANode(t *testing.T) {
	t.Parallel()
	n := newCluster(t).start("n1")
	p := preflight(t, node.Config{Cluster: n.Cluster(), NodeID: "other"})
	wait.For(t, "the node says who it is", func() bool {
		peer, err := p.Ask(t.Context(), n.Addr())
		if err != nil && !errors.Is(err, node.ErrNoAnswer) { // it has just been started
			t.Fatal(err)
		}
		return err == nil && peer == node.Peer{NodeID: n.ID(), InstanceID: n.InstanceID()}
	})
}
