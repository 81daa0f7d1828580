package membership

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// messageMult is retransmitMult for our own messages. With 4, one of eight members would miss one
// broadcast in fourteen: memberlist repairs the like by probing and by dialling, but a message has
// no such second chance.
const messageMult = 8

// broadcasts are the messages that travel by gossip: this node's own, and those that it passes on.
type broadcasts struct {
	queue *memberlist.TransmitLimitedQueue

	mu      sync.Mutex
	lastSeq uint64 // of this node's own
	seen    seen   // of the others'
}

// newBroadcasts returns none. members returns how many members there are.
func newBroadcasts(members func() int) *broadcasts {
	return &broadcasts{
		queue: &memberlist.TransmitLimitedQueue{RetransmitMult: messageMult, NumNodes: members},
		seen:  make(seen),
	}
}

// nextSeq returns the sequence number of the next message of this node.
func (b *broadcasts) nextSeq() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastSeq++
	return b.lastSeq
}

// note takes note of a message of another node, and reports whether it is news.
func (b *broadcasts) note(msg message, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen.add(msg.name(), msg.seq, now)
}

// Broadcast hands msg to all other members: to the members of a small cluster at once,
// and by gossip, within a few rounds of 100 ms, to all that this does not reach. A later
// broadcast with the same key replaces one that is still on its way: a member that has got it
// is not handed the earlier one any more. A node that joins later does not get it; that is what
// Config.LocalState is
// for. Broadcast does not block and does not keep msg.
func (m *Membership) Broadcast(key string, msg []byte) error {
	if len(key) > MaxKey {
		return fmt.Errorf("membership: broadcast: key %q: has %d bytes; want at most %d", key, len(key), MaxKey)
	}
	if len(msg) > MaxMessage {
		return fmt.Errorf("membership: broadcast %q: message has %d bytes; want at most %d", key, len(msg), MaxMessage)
	}
	seq := m.broadcasts.nextSeq()
	m.mu.Lock()
	msgOut := message{kindUser, m.table.self.clusterID, m.name, key, seq, slices.Clone(msg)}
	m.mu.Unlock()
	encoded := msgOut.encode()
	m.broadcasts.queue.QueueBroadcast(&broadcast{message: msgOut, encoded: encoded})
	m.sendDirectly(encoded)
	return nil
}

// directMembers is how many members a message is sent to without waiting for the next
// round of gossip, which spreads it to the others.
const directMembers = 16

func (m *Membership) sendDirectly(encoded []byte) {
	sent := 0
	for _, member := range m.View().Members {
		if member.Self {
			continue
		}
		if sent++; sent > directMembers {
			return
		}
		m.sendTo(member, encoded)
	}
}

// sendTo sends a message to one member. What does not arrive comes by gossip.
func (m *Membership) sendTo(member Member, encoded []byte) {
	addr, err := netip.ParseAddrPort(member.Addr)
	if err != nil {
		return
	}
	_ = m.ml.SendBestEffort(&memberlist.Node{
		Name: toNobodyElse + memberName(member.NodeID, member.InstanceID),
		Addr: addr.Addr().AsSlice(),
		Port: addr.Port(),
	}, encoded)
}

// broadcast is a message in memberlist's queue.
type broadcast struct {
	message
	encoded  []byte
	finished func() // called when it was sent as often as it will be; may be nil
}

var _ memberlist.NamedBroadcast = (*broadcast)(nil)

func (b *broadcast) Name() string { return b.message.name() }

func (b *broadcast) Message() []byte { return b.encoded }

func (b *broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*broadcast)
	return ok && o.Name() == b.Name()
}

func (b *broadcast) Finished() {
	if b.finished != nil {
		b.finished()
	}
}

// GetBroadcasts returns what is to be sent with the next packet.
func (c callbacks) GetBroadcasts(overhead, limit int) [][]byte {
	return c.m.broadcasts.queue.GetBroadcasts(overhead, limit)
}

// NotifyMsg takes a message off the wire. The first time that it is seen it is
// passed on as well: memberlist sends a message to a few members only, and does
// not spread it further.
func (c callbacks) NotifyMsg(b []byte) {
	m := c.m
	msg, err := decodeMessage(b)
	if err != nil || msg.origin == m.name {
		return
	}
	if !m.fresh(msg) {
		return
	}
	again := &broadcast{message: msg, encoded: slices.Clone(b)}
	again.payload = slices.Clone(msg.payload) // b is memberlist's
	m.broadcasts.queue.QueueBroadcast(again)
	if msg.kind == kindUser && m.cfg.OnMessage != nil {
		from, _, _ := splitName(msg.origin)
		take := func(content []byte) { m.cfg.OnMessage(from, content) }
		m.inbox.put(delivery{to: take, content: slices.Clone(again.payload)})
	}
}

// fresh reports whether msg is news from our own cluster, and takes note of it.
func (m *Membership) fresh(msg message) bool {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ours(msg.clusterID) {
		return false
	}
	switch msg.kind {
	case kindLeave:
		return m.noteLeaver(msg.origin, now)
	case kindUser:
		return m.broadcasts.note(msg, now)
	}
	return false
}

// ours reports whether traffic with a cluster id may be of our cluster. It is
// called with m.mu held.
func (m *Membership) ours(clusterID string) bool {
	return clusterID == "" || m.table.self.clusterID == "" || clusterID == m.table.self.clusterID
}

// noteLeaver notes that a member has said that it leaves, and reports whether that
// is news. It is called with m.mu held.
func (m *Membership) noteLeaver(name string, now time.Time) bool {
	r := m.table.records[name]
	if r == nil || r.left || r.stayed {
		return false
	}
	r.left, r.leftAt = true, now
	m.notify()
	return true
}

// LocalState returns what another node that synchronises with us is to know.
func (c callbacks) LocalState(bool) []byte {
	m := c.m
	m.mu.Lock()
	e := exchange{clusterID: m.table.self.clusterID, left: m.table.leavers(time.Now())}
	m.mu.Unlock()
	if m.cfg.LocalState != nil {
		if e.payload = m.cfg.LocalState(); len(e.payload) > MaxState {
			m.alarms.Raise(stateTooLarge, "", "bytes", len(e.payload), "max", MaxState)
			e.payload = nil
		} else {
			m.alarms.Clear(stateTooLarge, "")
		}
	}
	return e.encode()
}

// MergeRemoteState takes what LocalState of another node has returned.
func (c callbacks) MergeRemoteState(b []byte, _ bool) {
	m := c.m
	e, err := decodeExchange(b)
	if err != nil {
		return
	}
	now := time.Now()
	m.mu.Lock()
	ours := m.ours(e.clusterID) && !m.cfg.Single
	if ours {
		for _, name := range e.left {
			m.noteLeaver(name, now)
		}
	}
	m.mu.Unlock()
	if ours && len(e.payload) > 0 && m.cfg.MergeState != nil {
		m.inbox.put(delivery{to: m.cfg.MergeState, content: slices.Clone(e.payload)})
	}
}

// seen remembers the highest sequence number of each origin and key.
type seen map[string]seenSeq

type seenSeq struct {
	seq uint64
	at  time.Time
}

// Bounds of seen. Forgetting one costs at most that an old message is taken for
// news again, which takes that it was still travelling.
const (
	maxSeen = 4096
	// seenKept is how long a sequence number outranks lower ones. One message cannot make
	// all later ones of its origin old.
	seenKept = time.Minute
	// maxSeqStep bounds what is believed of a sequence number after the first one: no
	// member sends so many messages within seenKept.
	maxSeqStep = 1 << 20
)

func (s seen) add(name string, seq uint64, now time.Time) bool {
	if last, ok := s[name]; ok && now.Sub(last.at) <= seenKept && (seq <= last.seq || seq-last.seq > maxSeqStep) {
		return false
	}
	if len(s) >= maxSeen {
		for name, last := range s {
			if now.Sub(last.at) > seenKept {
				delete(s, name)
			}
		}
		for name := range s {
			if len(s) < maxSeen/2 {
				break
			}
			delete(s, name)
		}
	}
	s[name] = seenSeq{seq, now}
	return true
}

// delivery is something for the user, with the function that takes it.
type delivery struct {
	to      func([]byte)
	content []byte
}

// inbox queues deliveries for one goroutine that delivers them. When it is full, the
// oldest makes room.
type inbox struct {
	mu         sync.Mutex
	deliveries []delivery
	dropped    uint64
	arrived    chan struct{} // holds one element
}

const maxInbox = 1024

func newInbox() *inbox { return &inbox{arrived: make(chan struct{}, 1)} }

func (i *inbox) put(d delivery) {
	i.mu.Lock()
	if len(i.deliveries) >= maxInbox {
		i.deliveries = i.deliveries[1:]
		i.dropped++
	}
	i.deliveries = append(i.deliveries, d)
	i.mu.Unlock()
	select {
	case i.arrived <- struct{}{}:
	default:
	}
}

func (i *inbox) take() (delivery, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.deliveries) == 0 {
		return delivery{}, false
	}
	d := i.deliveries[0]
	i.deliveries[0] = delivery{}
	if i.deliveries = i.deliveries[1:]; len(i.deliveries) == 0 {
		i.deliveries = nil
	}
	return d, true
}

func (i *inbox) drops() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.dropped
}

// deliver calls the user until done.
func (i *inbox) deliver(done <-chan struct{}) {
	for {
		d, ok := i.take()
		if ok {
			select {
			case <-done:
				return
			default:
			}
			d.to(d.content)
			continue
		}
		select {
		case <-i.arrived:
		case <-done:
			return
		}
	}
}
