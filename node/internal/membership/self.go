package membership

import (
	"net/netip"
	"time"
)

// claimWindow is how long after its start an instance may take a higher claim
// of another for the mark of a clock that differs.
const claimWindow = 10 * time.Second

// self is this node as it describes itself to the others. It is plain data: the owner of the
// table locks it. Whatever changes it encodes it, and announces that.
type self struct {
	identity
	clusterID string // empty while none is known
	single    bool
	addr      netip.AddrPort
	details   encodedDetails

	started time.Time
	raised  bool // the claim was, once

	meta  []byte // what it gossips
	entry Member // its own entry in the view
}

func newSelf(cfg Config, details encodedDetails) self {
	s := self{
		identity: identity{cfg.NodeID, cfg.InstanceID, cfg.now().UnixMilli()},
		single:   cfg.Single,
		addr:     cfg.Addr,
		details:  details,
		started:  time.Now(),
	}
	s.encode()
	return s
}

// encode puts together what this node gossips and shows of itself.
func (s *self) encode() {
	s.meta = meta{InstanceID: s.instanceID, Claim: s.claim, ClusterID: s.clusterID, Single: s.single}.encode(s.details)
	s.entry = Member{
		NodeID:       s.nodeID,
		InstanceID:   s.instanceID,
		Addr:         s.addr.String(),
		ClusterID:    s.clusterID,
		Details:      s.details.Details,
		DetailsKnown: true,
		State:        StateAlive,
		Self:         true,
	}
}

func (s *self) setDetails(d encodedDetails) {
	s.details = d
	s.encode()
}

// setClusterID reports whether that is a change.
func (s *self) setClusterID(id string) bool {
	if s.clusterID == id {
		return false
	}
	s.clusterID = id
	s.encode()
	return true
}

// mayRaise reports whether the higher claim of another instance of this node is the
// mark of a clock that is ahead of ours, and not of a later start: this node has
// just been started, and the claim lies in its future, which wall tells. The other was here
// before then, and the claim that we raise above its own is the later one.
func (s *self) mayRaise(other identity, now, wall time.Time) bool {
	return !s.raised && now.Sub(s.started) < claimWindow && other.claim > wall.UnixMilli()
}

// raiseAbove makes this node the later start of the two.
func (s *self) raiseAbove(other identity) {
	s.raised = true
	s.claim = other.claim + 1
	s.encode()
}
