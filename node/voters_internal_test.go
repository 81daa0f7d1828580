package node

import (
	"testing"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/internal/authorities"
	"github.com/musterhq/muster/node/internal/reachability"
	"github.com/musterhq/muster/node/mastership"
)

// A node that its authority blocks is not ready, whatever else it knows, and says why.
func TestBlockedIsNotReady(t *testing.T) {
	n := &Node{
		layers:    layers{prober: reachability.New(reachability.Config{})},
		lifecycle: lifecycle{draining: make(chan struct{})},
	}
	n.store = &store{}
	n.wasReady.Store(true)
	view := View{ClusterID: "id", Master: &Master{}}
	if ready, waiting := n.readiness(view, mastership.Status{}); !ready || waiting != (obstacle{}) {
		t.Errorf("ready %v, waiting for %v", ready, waiting)
	}
	blocked := driver.Mastership{Blocked: "the directory cannot be written"}
	for kind, want := range map[driver.Block]WaitReason{"": mastership.WaitBlocked, driver.BlockUnwritable: "state_unwritable"} {
		blocked.BlockedBy = kind
		ready, waiting := n.readiness(view, mastership.Status{Observed: blocked})
		if ready || waiting != (obstacle{want, blocked.Blocked}) {
			t.Errorf("ready %v, waiting for %v", ready, waiting)
		}
	}
}

type silentAuthority struct{ driver.Authority }

type votersAuthority struct {
	driver.Authority
	warning string
}

func (a votersAuthority) Voters() driver.Voters { return driver.Voters{Warning: a.warning} }

// The voters are those of the first authority that has any.
func TestVotersOfTheFirst(t *testing.T) {
	one, two := votersAuthority{warning: "one"}, votersAuthority{warning: "two"}
	for _, v := range []struct {
		all  []authorities.Named
		want string
	}{
		{nil, ""}, {[]authorities.Named{{Authority: silentAuthority{}}}, ""}, {[]authorities.Named{{Authority: silentAuthority{}}, {Authority: one}}, "one"}, {[]authorities.Named{{Authority: two}, {Authority: one}}, "two"},
	} {
		n := &Node{layers: layers{authorities: v.all}}
		if got, ok := n.Voters(); got.Warning != v.want || ok != (v.want != "") {
			t.Errorf("of %d authorities: %+v, %v; want %q", len(v.all), got, ok, v.want)
		}
	}
}
