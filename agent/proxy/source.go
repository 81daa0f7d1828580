package proxy

import (
	"context"
	"iter"

	"github.com/musterhq/muster/node"
)

// MasterOf returns the master that a node knows, with the application address of that name. Where
// the node itself is master, it counts until the deadline of its grant.
func MasterOf(n *node.Node, app string) Source { return master{n, app} }

type master struct {
	node *node.Node
	app  string
}

func (s master) Master() (Master, bool) {
	m, until, ok := s.node.MasterUntil()
	if !ok {
		return Master{}, false
	}
	return Master{
		NodeID: m.NodeID, InstanceID: m.InstanceID, ClusterID: m.ClusterID, Term: uint64(m.Term),
		Addr: m.AppAddrs[s.app], Until: until,
	}, true
}

func (s master) Changes(ctx context.Context) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		for range s.node.Views(ctx) {
			if !yield(struct{}{}) {
				return
			}
		}
	}
}
