package quorum

import (
	"testing"
	"time"
)

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
	c.eventually("agreement", func() bool {
		m, err := first.auth.mastership()
		return err == nil && m.Holder != nil && m.Holder.NodeID == second.name
	})
	began = time.Now()
	second.leave()
	third := c.masterNot(second)
	t.Logf("graceful hand-over after %v: %s", time.Since(began), third.name)
}
