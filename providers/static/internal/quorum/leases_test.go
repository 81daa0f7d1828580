package quorum

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/providers/static/internal/votelease"
)

// The tests of this file take away one after the other what else keeps voters
// from electing a second leader too early, so that only the vote lease is left. The
// TTL is three times the heartbeat, so that Raft alone would be early by far. Each
// was seen to fail with its part of the lease taken out of the code.

func newLeased(t *testing.T) (c *cluster, m, x, y *peer) {
	t.Helper()
	c = newCluster(t, 3)
	c.ttl = 3 * time.Second
	c.start()
	m = c.master()
	c.voting()
	for _, p := range c.nodes {
		switch {
		case p == m:
		case x == nil:
			x = p
		default:
			y = p
		}
	}
	return c, m, x, y
}

// renewed waits until m was given another lease.
func (c *cluster) renewed(m *peer) {
	c.t.Helper()
	read := func() any {
		m.elector.mu.Lock()
		defer m.elector.mu.Unlock()
		return m.elector.deadline
	}
	before := read()
	c.eventually("a renewal", func() bool { return read() != before })
}

// TestLeaseOutlivesHeartbeat: the voters lose sight of their leader, and Raft
// is ready to elect another, long before their leases to it have ended.
func TestLeaseOutlivesHeartbeat(t *testing.T) {
	t.Parallel()
	c, m, _, _ := newLeased(t)
	c.renewed(m)
	c.net.Cut([]string{m.addr}, c.addrs(), true)
	c.masterNot(m)
}

// TestForgottenLease: the majority is the master's lease and y's. y is
// restarted, has forgotten it, and sees only x, which never gave one.
func TestForgottenLease(t *testing.T) {
	t.Parallel()
	c, m, x, y := newLeased(t)
	c.net.Cut([]string{m.addr}, []string{x.addr}, true)
	c.eventually("x without leases", func() bool { return x.auth.voter.Leases.Remaining() <= 0 })
	c.renewed(m)
	y.crash()
	c.net.Cut([]string{m.addr}, c.addrs(), true)
	y.start()
	c.masterNot(m)
}

// TestOwnLease: the majority is the master's own lease and y's, y is gone, and
// x asks the master's own voter to help it lead.
func TestOwnLease(t *testing.T) {
	t.Parallel()
	c, m, x, y := newLeased(t)
	c.renewed(m)
	c.net.Cut([]string{y.addr}, c.addrs(), true)
	before := m.auth.voter.Status().Term
	term, _ := m.auth.voter.Member().Leading()
	x.auth.voter.Leases.Revoke(votelease.Leadership{ID: m.auth.voter.Status().ID, Start: m.auth.voter.Leases.Start, Term: term}, math.MaxUint64)
	if left := x.auth.voter.Leases.Remaining(); left > 0 {
		t.Fatalf("x is bound for %v", left)
	}
	id := x.auth.voter.Status().ID
	if err := m.auth.voter.Member().Transfer(t.Context(), id); err != nil {
		t.Logf("transfer: %v", err)
	}
	// x has revoked its lease to m, so that there is another term. The one that leads in it may
	// keep leading: it need not be x.
	c.eventually("a later master, m or x", func() bool {
		return slices.ContainsFunc([]*peer{m, x}, func(p *peer) bool { return p.elector.active() && p.auth.voter.Status().Term > before })
	})
}
