package quorum

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// The tests of this file take away one after the other what else keeps voters
// from electing a second leader too early, so that only the promise is left. The
// TTL is three times the heartbeat, so that Raft alone would be early by far. Each
// was seen to fail with its part of the promise taken out of the code.

func newPromising(t *testing.T) (c *cluster, m, x, y *peer) {
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

// renewed waits until m was given another promise.
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

// TestPromiseOutlivesHeartbeat: the voters lose sight of their leader, and Raft
// is ready to elect another, long before their promise to it has ended.
func TestPromiseOutlivesHeartbeat(t *testing.T) {
	t.Parallel()
	c, m, _, _ := newPromising(t)
	c.renewed(m)
	c.fabric.Cut([]string{m.addr}, c.addrs(), true)
	c.masterNot(m)
}

// TestForgottenPromise: the majority is the master's promise and y's. y is
// restarted, has forgotten it, and sees only x, which never promised.
func TestForgottenPromise(t *testing.T) {
	t.Parallel()
	c, m, x, y := newPromising(t)
	c.fabric.Cut([]string{m.addr}, []string{x.addr}, true)
	c.eventually("x without promises", func() bool { return x.auth.ledger.remaining() <= 0 })
	c.renewed(m)
	y.crash()
	c.fabric.Cut([]string{m.addr}, c.addrs(), true)
	y.start()
	c.masterNot(m)
}

// TestOwnPromise: the majority is the master's own promise and y's, y is gone, and
// x asks the master's own voter to help it lead.
func TestOwnPromise(t *testing.T) {
	t.Parallel()
	c, m, x, y := newPromising(t)
	c.renewed(m)
	c.fabric.Cut([]string{y.addr}, c.addrs(), true)
	l := x.auth.ledger
	l.mu.Lock()
	clear(l.promises)
	l.mu.Unlock()
	id := x.auth.status().ID
	f := m.auth.member.Load().raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(id))
	if err := f.Error(); err != nil {
		t.Logf("transfer: %v", err)
	}
	c.masterNot(m)
}
