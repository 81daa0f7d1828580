package membership

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// The reasons for which others are rejected, as Stats.Refused counts them.
const (
	reasonMalformed  = "malformed"  // the metadata is not ours
	reasonProtocol   = "protocol"   // its layout has another version
	reasonSingle     = "single"     // this node or the other is to be alone
	reasonCluster    = "cluster"    // the label names another cluster
	reasonClusterID  = "cluster id" // two clusters share a name
	reasonSuperseded = "superseded" // the node was started again since
)

// callbacks are what memberlist calls. Most are called while it holds the lock of
// its table: they only note what they are told, and never call back.
type callbacks struct{ m *Membership }

var (
	_ memberlist.Delegate      = callbacks{}
	_ memberlist.EventDelegate = callbacks{}
	_ memberlist.AliveDelegate = callbacks{}
	_ memberlist.MergeDelegate = callbacks{}
)

// NotifyAlive decides whether memberlist may believe that a node is alive. It sees
// all ways by which such news comes, where NotifyMerge sees only joins.
func (c callbacks) NotifyAlive(n *memberlist.Node) error {
	m := c.m
	if n.Name == m.name {
		return nil
	}
	m.mu.Lock()
	reason, err := m.admit(n, time.Now())
	m.mu.Unlock()
	if reason == "" {
		return nil
	}
	m.refuse(reason, "member", n.Name, "addr", n.Address(), "error", err)
	return fmt.Errorf("%s: %w", reason, err)
}

// admit returns why n is to be rejected, or nothing. It is called with m.mu
// held.
func (m *Membership) admit(n *memberlist.Node, now time.Time) (reason string, err error) {
	known := m.table.records[n.Name]
	var id identity
	var md meta
	if known != nil && known.raw == string(n.Meta) {
		id, md = known.id, known.meta // the common case by far: nothing is new
	} else if id, md, reason, err = identify(n); reason != "" {
		return reason, err
	}
	if reason := m.table.compatible(&md); reason != "" {
		if known != nil {
			known.meta, known.raw = md, string(n.Meta) // it is no longer one of us
			m.notify()
		}
		return reason, m.table.incompatible(reason, &md)
	}
	if m.table.superseded(id, now) {
		return reasonSuperseded, fmt.Errorf("node %q was started again since", id.nodeID)
	}
	return "", nil
}

// identify reads the name and the metadata of a node.
func identify(n *memberlist.Node) (id identity, md meta, reason string, err error) {
	nodeID, short, ok := splitName(n.Name)
	if !ok {
		return id, md, reasonMalformed, errors.New("its name is not of this protocol")
	}
	if md, err = decodeMeta(n.Meta); errors.Is(err, errMetaVersion) {
		return id, md, reasonProtocol, err
	} else if err != nil {
		return id, md, reasonMalformed, err
	}
	if md.InstanceID[:shortInstance] != short {
		return id, md, reasonMalformed, errors.New("its name does not go with its instance id")
	}
	return identity{nodeID, md.InstanceID, md.Claim}, md, "", nil
}

// NotifyMerge lets a join go on unless every node on the other side would be
// rejected. One who is strange to us among those who are not is left to
// NotifyAlive, or a single stray would keep two halves of a cluster apart.
func (c callbacks) NotifyMerge(peers []*memberlist.Node) error {
	m := c.m
	var refused error
	for _, n := range peers {
		if n.Name == m.name || n.State == memberlist.StateDead || n.State == memberlist.StateLeft {
			continue
		}
		_, md, reason, err := identify(n)
		if reason == "" {
			m.mu.Lock()
			reason = m.table.compatible(&md)
			err = m.table.incompatible(reason, &md)
			m.mu.Unlock()
		}
		if reason == "" {
			return nil
		}
		m.refuse(reason, "member", n.Name, "addr", n.Address(), "error", err)
		refused = fmt.Errorf("%s %s: %s: %w", n.Name, n.Address(), reason, err)
	}
	return refused
}

// NotifyJoin notes a node that has come or come back.
func (c callbacks) NotifyJoin(n *memberlist.Node) { c.note(n) }

// NotifyUpdate notes a node whose metadata has changed.
func (c callbacks) NotifyUpdate(n *memberlist.Node) { c.note(n) }

func (c callbacks) note(n *memberlist.Node) {
	m := c.m
	if n.Name == m.name {
		return
	}
	id, md, reason, _ := identify(n)
	if reason != "" {
		return // NotifyAlive has turned it away
	}
	ip, _ := netip.AddrFromSlice(n.Addr)
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.table.records[n.Name]
	if r == nil {
		r = &record{name: n.Name}
		r.id = id
		m.table.add(r)
	}
	r.id, r.meta, r.raw = id, md, string(n.Meta)
	r.addr = netip.AddrPortFrom(ip.Unmap(), n.Port)
	r.live = true
	if md.Digest == "" {
		r.fetched, r.details = "", Details{}
		if md.Details != nil {
			r.details = *md.Details
		}
	}
	m.notify()
}

// NotifyLeave notes a node that memberlist has given up, for whatever reason: the
// State of the Node that it hands over is never set.
func (c callbacks) NotifyLeave(n *memberlist.Node) {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.table.records[n.Name]; r != nil && r.live {
		r.live, r.goneAt = false, time.Now()
		m.notify()
	}
}

// NodeMeta returns what this node gossips about itself.
func (c callbacks) NodeMeta(int) []byte {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.m.table.self.meta
}
