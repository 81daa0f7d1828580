package node

import (
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// MasterUntil returns the master that this node knows of, as Master, and until when it counts if
// nothing more is learned of it, on the boot clock: for those who forward to the master. It does
// not block. Where this node is master itself, that is the deadline of its grant. Another one
// counts for 6 s, or the rest of its grant if that is longer, from when its last announcement
// arrived, and no longer once this node knows that it has ended.
//
// Unlike the View it is of this moment: it reports false as soon as the mastership of this node
// itself has ended, or what is known of another has expired, before a new View says so. It cannot
// know what this node has not learned yet.
func (n *Node) MasterUntil() (m Master, until time.Duration, ok bool) {
	named, s := n.View().Master, n.elector.Status()
	if named == nil || s.Master == nil || s.Master.InstanceID != named.InstanceID || s.MasterTerm != named.Term || s.ClusterID != named.ClusterID {
		return Master{}, 0, false
	}
	until = s.MasterUntil
	if named.InstanceID == n.instanceID {
		proof, err := n.elector.Check()
		if err != nil || proof.Term != named.Term {
			return Master{}, 0, false
		}
		until = proof.Deadline
	}
	return *named, until, time.Duration(clock.Now()) < until
}
