package node_test

import (
	"errors"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/tlsfiles"
)

// With VerifyNodeID nodes with certificates of their own form a cluster, and who has taken the
// certificate of one of them is no other node with it.
func TestCertificatesAreBoundToNodeIDs(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "orders")
	c := newCluster(t)
	start := func(id, certified string, verify bool) *node.Node {
		f := tlsFiles(t)
		putNamed(t, f, certified, ca, ca)
		return c.start(id, expect(2), func(cfg *node.Config) { cfg.TLS, cfg.VerifyNodeID = f, verify })
	}
	a, b := start("a", "a", true), start("b", "b", true)
	c.waitMembers(2, a, b)
	thief := start("c", "a", false)
	for _, n := range []*node.Node{a, b} {
		wait.For(t, n.ID()+" rejects it", func() bool { return n.Status().Link.Rejected["node_id_not_certified"] > 1 })
		if got := len(n.Members()); got != 2 {
			t.Errorf("%s sees %d members", n.ID(), got)
		}
	}
	if got := len(thief.Members()); got != 1 {
		t.Errorf("it sees %d members, want itself alone", got)
	}
}

// A node whose own certificate would be rejected by all others does not start.
func TestOwnCertificateMustNameTheNode(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "orders")
	f := tlsFiles(t)
	putNamed(t, f, "a", ca, ca)
	registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
	t.Cleanup(func() { _ = registry.Close() })
	cfg := node.Config{Cluster: "orders", NodeID: "b", Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry}, VerifyNodeID: true}
	for _, c := range []struct {
		files   tlsfiles.Config
		problem string
	}{
		{tlsfiles.Config{}, "there is no TLS between nodes"},
		{f, f.CertFile + " names a, and not node.id b"},
	} {
		cfg.TLS = c.files
		n, err := node.Start(t.Context(), cfg)
		if err == nil {
			_ = n.Leave(t.Context())
		}
		var invalid *driver.ConfigError
		if !errors.As(err, &invalid) || invalid.Key != "tls.verify_node_id" || invalid.Value != "true" || invalid.Problem != c.problem || invalid.Hint == "" {
			t.Errorf("%v, want the problem %q of tls.verify_node_id", err, c.problem)
		}
	}
}
