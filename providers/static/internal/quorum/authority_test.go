package quorum

import (
	"testing"
	"time"
)

// voting waits until each node that runs takes part in Raft and knows its leader.
func (c *cluster) voting() {
	c.t.Helper()
	c.eventually("voting by all", func() bool {
		for _, p := range c.nodes {
			if p.auth == nil || !p.auth.listed() {
				continue
			}
			if s := p.auth.status(); s.Leader == "" || len(s.Servers) == 0 || s.Term == 0 {
				return false
			}
		}
		return true
	})
}

func TestThreeVotersFormAndFailOver(t *testing.T) {
	c := newCluster(t, 3)
	began := time.Now()
	c.start()
	first := c.master()
	t.Logf("formed after %v: %s", time.Since(began), first.name)
	if got := first.elector.term(); got != 1 {
		t.Errorf("first term is %d, want 1", got)
	}
	began = time.Now()
	first.crash()
	second := c.masterNot(first)
	t.Logf("crash failover after %v: %s", time.Since(began), second.name)
	if got := second.elector.term(); got != 2 {
		t.Errorf("second term is %d, want 2", got)
	}
	first.start()
	c.voting()
	began = time.Now()
	done := make(chan struct{})
	go func() { defer close(done); second.leave() }()
	third := c.masterNot(second)
	t.Logf("graceful hand-over after %v: %s", time.Since(began), third.name)
	<-done
	t.Logf("left after %v", time.Since(began))
}
