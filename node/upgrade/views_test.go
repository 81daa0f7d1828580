package upgrade

import (
	"context"
	"iter"
	"testing"

	"github.com/musterhq/muster/node"
)

// viewing is a Node that has views.
type viewing struct {
	Node
	views iter.Seq[node.View]
}

func (v viewing) Views(context.Context) iter.Seq[node.View] { return v.views }

// A node that has nothing to do reads the ledger when a member has come, which may have announced
// itself before, and not at any other change of the view.
func TestAJoinIsAReasonToLook(t *testing.T) {
	t.Parallel()
	r := &Runner{changed: make(chan struct{})}
	view := func(instances ...string) (v node.View) {
		for _, id := range instances {
			v.Members = append(v.Members, node.Member{InstanceID: id})
		}
		return v
	}
	r.Node = viewing{views: func(yield func(node.View) bool) {
		for i, step := range []struct {
			view node.View
			look bool
		}{{view("a"), true}, {view("a"), false}, {view("a", "b"), true}, {view("a", "b"), false}, {view("a"), false}, {view("a", "b"), true}} {
			r.stale = false
			if yield(step.view); r.stale != step.look {
				t.Errorf("at view %d: look %t, want %t", i, r.stale, step.look)
			}
		}
	}}
	r.notifyOfViews(t.Context())
}
