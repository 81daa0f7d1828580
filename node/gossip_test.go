package node_test

import (
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// A node that learns of a master by an exchange of states, as one does that has just
// started, does not lose the name again before the master's next sign of life,
// however short its grant is.
func TestMasterLearnedByExchangeOutlivesItsGrant(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.start("a", func(cfg *node.Config) { cfg.Mastership.TTL = 500 * time.Millisecond })
	wait.For(t, "the node is master", n.IsMaster)
	var a mastership.Announcement
	wait.For(t, "the node announces itself", func() bool {
		var err error
		if a, err = mastership.DecodeAnnouncement(n.Tell()); err != nil {
			t.Fatal(err)
		}
		return a.Active
	})
	if a.ValidFor < 4*time.Second { // broadcasts are 2 s apart
		t.Errorf("the name stands for %v", a.ValidFor)
	}
}
