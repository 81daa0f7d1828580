//go:build musterfault

package main

import (
	"context"
	"math"
	"os"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// gossipVariable has a node announce lies while there is a master: "hostile".
const gossipVariable = "MUSTER_FAULT_GOSSIP"

// lie announces whatever may end a mastership, use up the terms, lead nodes into another
// cluster or hide the master, as long as there is one.
func lie(ctx context.Context, n *node.Node) {
	if os.Getenv(gossipVariable) != "hostile" {
		return
	}
	x := driver.Holder{NodeID: "x", InstanceID: "0123456789abcdef0123456789abcdef", Addr: "10.255.0.1:7946"}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for seq := uint64(1); ; seq++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		m := n.View().Master
		if m == nil {
			continue
		}
		valid := time.Hour
		for kind, a := range []mastership.Announcement{
			{Term: m.Term + driver.Term(seq), ClusterID: m.ClusterID, Holder: x, Active: true, Seq: seq, ValidFor: valid},
			{Term: m.Term + 1<<32, ClusterID: m.ClusterID},
			{Term: driver.MaxTerm, ClusterID: m.ClusterID, Holder: x, Active: true, Seq: seq, ValidFor: valid},
			{Term: 2 * driver.MaxTerm, ClusterID: m.ClusterID},
			{Term: m.Term, ClusterID: m.ClusterID, Holder: x, Active: true, Seq: math.MaxUint64, ValidFor: valid},
			{Term: m.Term + 1, ClusterID: "foreign", Holder: x, Active: true, Seq: seq, ValidFor: valid},
			{Term: m.Term + 1, ClusterID: m.ClusterID, Holder: m.Holder, Seq: math.MaxUint64},
		} {
			_ = n.Lie(kind, a)
		}
	}
}
