package membership

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/watch"
)

// Membership is a running member. All methods are safe for concurrent use.
type Membership struct {
	cfg  Config
	log  *slog.Logger
	name string // in memberlist

	ml        *memberlist.Memberlist
	filter    *filterTransport
	gossip    *memberlist.TransmitLimitedQueue
	server    *http.Server
	dialer    *dialer
	inbox     *inbox
	view      watch.Value[View]
	counts    counters
	rateLimit rateLimit

	alarms *alarm.Set

	fetchSlots chan struct{}
	changed    chan struct{} // has run look again; holds one element
	regossip   chan struct{} // has announce run again; holds one element
	stopping   chan struct{} // serialises Leave, Close and the end by itself

	// ctx ends when everything stops. ended ends before that, when this membership
	// is known to be over.
	ctx    context.Context
	cancel context.CancelFunc
	ended  context.Context
	finish context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	table   table
	details encodedDetails
	meta    []byte
	bumped  bool // the claim was raised once
	started time.Time
	lastSeq uint64
	seen    seen
	stopped bool
	err     error
}

// The profile. Over kept connections it lets 50 nodes see each other in half of
// a second and a crash in some three seconds, for about a thousandth of a core.
const (
	gossipInterval   = 150 * time.Millisecond
	gossipNodes      = 3
	retransmitMult   = 8
	probeInterval    = 500 * time.Millisecond
	probeTimeout     = 250 * time.Millisecond
	suspicionMult    = 3
	suspicionMaxMult = 2
	pushPullInterval = 5 * time.Second
	streamTimeout    = 2 * time.Second

	// messageMult is retransmitMult for our own messages. With 4, one of eight
	// members would miss one broadcast in fourteen: memberlist repairs the like by
	// probing and by dialling, but a message has no such second chance.
	messageMult = 8

	// packetSize is how much memberlist puts into one packet. Packets travel in
	// frames over TCP, so that no MTU bounds them; a larger one carries more news
	// where many nodes start at once.
	packetSize = 8 << 10

	// claimWindow is how long after its start an instance may take a higher claim
	// of another for the mark of a clock that differs.
	claimWindow = 10 * time.Second
)

// Start starts a member that knows no other yet. It does not wait for the network.
// On error nothing is left running, and the transport is shut down if memberlist
// had been given it.
func Start(cfg Config) (*Membership, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	details, err := encodeDetails(cfg.Details)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.lookup == nil {
		cfg.lookup = lookup
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	cfg.Addr = unmap(cfg.Addr)
	m := &Membership{
		cfg:        cfg,
		log:        cfg.Logger,
		alarms:     alarm.New(cfg.Logger),
		name:       memberName(cfg.NodeID, cfg.InstanceID),
		inbox:      newInbox(),
		fetchSlots: make(chan struct{}, maxFetches),
		changed:    make(chan struct{}, 1),
		regossip:   make(chan struct{}, 1),
		stopping:   make(chan struct{}, 1),
		table:      newTable(),
		details:    details,
		started:    time.Now(),
		seen:       make(seen),
	}
	m.table.self = identity{cfg.NodeID, cfg.InstanceID, cfg.now().UnixMilli()}
	m.table.single = cfg.Single
	m.encodeSelf()
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.ended, m.finish = context.WithCancelCause(context.Background())
	m.dialer = newDialer(m)
	m.filter = newFilterTransport(cfg.Transport, m.isRefused)
	m.filter.others = m.others
	m.gossip = &memberlist.TransmitLimitedQueue{RetransmitMult: messageMult, NumNodes: func() int {
		if view, ok := m.view.Load(); ok {
			return len(view.Members)
		}
		return 1
	}}

	var ln net.Listener
	if ln, err = cfg.Network.Listen(protocolMember); err != nil {
		m.cancel()
		return nil, fmt.Errorf("membership: %w", err)
	}
	if m.ml, err = memberlist.Create(m.memberlistConfig()); err != nil {
		_ = ln.Close()
		_ = m.filter.Shutdown()
		m.cancel()
		return nil, fmt.Errorf("membership: %w", err)
	}
	m.server = m.serve(ln)
	fetches := make(fetching)
	m.refresh(fetches) // so that View never is without this node
	m.wg.Go(func() { m.run(fetches) })
	m.wg.Go(m.announce)
	m.wg.Go(func() { m.inbox.deliver(m.ctx.Done()) })
	if !cfg.Single {
		m.wg.Go(m.dialer.run)
	}
	return m, nil
}

func (m *Membership) memberlistConfig() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = m.name
	c.Label = m.cfg.Cluster
	c.Transport = m.filter
	c.AdvertiseAddr = m.cfg.Addr.Addr().String()
	c.AdvertisePort = int(m.cfg.Addr.Port())
	c.BindPort = int(m.cfg.Addr.Port())
	c.Logger = m.memberlistLogger()
	c.Delegate, c.Events, c.Alive, c.Merge = callbacks{m}, callbacks{m}, callbacks{m}, callbacks{m}

	c.GossipInterval, c.GossipNodes, c.RetransmitMult = gossipInterval, gossipNodes, retransmitMult
	c.ProbeInterval, c.ProbeTimeout = probeInterval, probeTimeout
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = cmp.Or(m.cfg.SuspicionMult, suspicionMult), suspicionMaxMult
	c.PushPullInterval = pushPullInterval
	c.TCPTimeout = streamTimeout
	c.UDPBufferSize = packetSize
	// Packets travel over TCP already: a fallback to it would try the same again,
	// with a connection of its own for each probe.
	c.DisableTcpPings = true
	c.EnableCompression = false // costs more than it saves
	return c
}

// encodeSelf puts together what this node gossips and shows of itself. It is called
// with m.mu held.
func (m *Membership) encodeSelf() {
	t := &m.table
	md := meta{InstanceID: t.self.instanceID, Claim: t.self.claim, ClusterID: t.clusterID, Single: m.cfg.Single}
	m.meta = md.encode(m.details)
	t.selfEntry = Member{
		NodeID:       t.self.nodeID,
		InstanceID:   t.self.instanceID,
		Addr:         m.cfg.Addr.String(),
		ClusterID:    t.clusterID,
		Details:      m.details.Details,
		DetailsKnown: true,
		State:        StateAlive,
		Self:         true,
	}
}

// View returns the cluster as this node sees it now. It does not block.
func (m *Membership) View() View {
	view, _ := m.view.Load()
	return view
}

// Watch yields the view now and the newest one after each change, until ctx or the
// membership ends. A listener that is slow misses views, but never the last.
func (m *Membership) Watch(ctx context.Context) iter.Seq[View] {
	return func(yield func(View) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(m.ended, cancel)()
		for view := range m.view.Watch(ctx) {
			if !yield(view) {
				return
			}
		}
	}
}

// SetPeers replaces the peers that are to be members: HOST:PORT each, where the
// host may be a name, which is resolved at each dial and stands for all of its
// addresses. Whichever is not the address of a member is dialled, without end. This
// node's own address among them does no harm. It does not block and keeps nothing
// of addrs.
func (m *Membership) SetPeers(addrs []string) { m.dialer.set(addrs) }

// UpdateDetails replaces what this node says about itself and tells the others. It
// fails for details that no member could take, and does not wait for the others.
func (m *Membership) UpdateDetails(d Details) error {
	details, err := encodeDetails(d)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.details = details
	m.encodeSelf()
	m.mu.Unlock()
	m.announceAgain()
	return nil
}

// SetClusterID says which cluster this is, once that is known, and tells the
// others. Members that know another id are rejected from then on, as this node
// is by them. It fails for an id that is not of at most MaxID letters, digits, '-'
// and '_', and does not wait for the others.
func (m *Membership) SetClusterID(id string) error {
	if err := validateID(id); err != nil {
		return fmt.Errorf("membership: cluster id %w", err)
	}
	m.mu.Lock()
	same := m.table.clusterID == id
	if !same {
		m.table.clusterID = id
		m.encodeSelf()
	}
	m.mu.Unlock()
	if !same {
		m.announceAgain()
	}
	return nil
}

// Done is closed when this membership is over: when Leave or Close have done their
// work, or by itself, and then Err says why.
func (m *Membership) Done() <-chan struct{} { return m.ended.Done() }

// Err returns why the membership ended by itself, such as [ErrDuplicateNodeID], and
// nil while it runs and after Leave and Close.
func (m *Membership) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *Membership) notify() {
	select {
	case m.changed <- struct{}{}:
	default: // one is pending, and will see what we have seen
	}
}

func (m *Membership) announceAgain() {
	m.notify()
	select {
	case m.regossip <- struct{}{}:
	default:
	}
}

// isRefused reports whether nothing is to be said to a member.
func (m *Membership) isRefused(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.table.records[name]
	return r != nil && m.table.compatible(&r.meta) != ""
}

// run brings the view up to date until the end.
func (m *Membership) run(fetches fetching) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if wake := m.refresh(fetches); wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
		select {
		case <-m.changed:
		case <-timer.C:
		case <-m.ctx.Done():
			return
		}
	}
}

// refresh works out the view, publishes it if it has changed, and does what follows
// from it. It returns when time alone will change the view, or zero.
func (m *Membership) refresh(fetches fetching) (wake time.Time) {
	now := time.Now()
	old := m.View()
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		return time.Time{}
	}
	successor := m.table.successor()
	if successor != nil && m.mayBump(successor, now) {
		m.bumped = true
		m.table.self.claim = successor.id.claim + 1
		m.encodeSelf()
		successor = nil
		defer m.announceAgain()
	}
	stayed := m.table.restore(now)
	changed, wake := m.table.compose(now)
	m.table.forget(now)
	view := old
	if changed {
		view = View{Seq: old.Seq + 1, Members: m.table.members, Departed: m.table.departed}
		m.view.Store(view)
	}
	want := m.table.wanted()
	m.mu.Unlock()

	fetches.reconcile(want, func(w wanted) context.CancelFunc {
		ctx, cancel := context.WithCancel(m.ctx)
		m.wg.Go(func() { m.fetch(ctx, w) })
		return cancel
	})
	if changed && m.cfg.Departed != nil {
		for _, instanceID := range departures(old, view) {
			m.cfg.Departed(instanceID)
		}
	}
	for _, name := range stayed {
		m.alarms.Raise(leaveForged, name)
	}
	if changed {
		m.report(Diff(old, view), view)
		m.dialer.viewChanged()
	}
	if successor != nil {
		m.end(fmt.Errorf("%w: node %q was started again as instance %s at %s; this instance, %s, leaves; if both are to run, give each a node.id of its own",
			ErrDuplicateNodeID, m.cfg.NodeID, successor.id.instanceID, successor.addr, m.cfg.InstanceID))
	}
	return wake
}

// mayBump reports whether the higher claim of another instance of this node is the
// mark of a clock that is ahead of ours, and not of a later start: this node has
// just been started, and the claim lies in its future. The other was here before
// then, and the claim that we raise above its own is the later one.
func (m *Membership) mayBump(other *record, now time.Time) bool {
	return !m.bumped && now.Sub(m.started) < claimWindow && other.id.claim > m.cfg.now().UnixMilli()
}

// wanted lists the details that members announce and that are not here.
func (t *table) wanted() []wanted {
	var want []wanted
	for _, member := range t.members {
		if member.Self || member.DetailsKnown {
			continue
		}
		r := t.records[memberName(member.NodeID, member.InstanceID)]
		want = append(want, wanted{r.name, member.InstanceID, member.Addr, r.meta.Digest})
	}
	return want
}

// report logs what has changed.
func (m *Membership) report(changes []Change, view View) {
	for _, c := range changes {
		if c.Member.Self {
			continue
		}
		args := []any{"member", c.Member.NodeID, "instance_id", c.Member.InstanceID, "addr", c.Member.Addr}
		switch c.Kind {
		case Joined:
			m.log.Info("member joined", args...)
		case Updated:
			m.log.Debug("member updated", append(args, "changed", c.Fields)...)
		case Left:
			m.log.Info("member left", append(args, "reason", c.Member.Reason)...)
		case Failed:
			m.alarms.Raise(memberFailed, c.Member.NodeID, "instance_id", c.Member.InstanceID, "addr", c.Member.Addr)
		}
	}
	m.reportRecovered(view)
}

// reportRecovered logs which members that had failed have not, or no longer count: they
// are back, or another instance of the node is, or they left after all, or are forgotten.
func (m *Membership) reportRecovered(view View) {
	failed := m.alarms.Raised(memberFailed)
	if len(failed) == 0 {
		return
	}
	why := make(map[string]string) // by node id
	for _, d := range view.Departed {
		why[d.NodeID] = d.Reason // the latest comes last
	}
	for _, here := range view.Members {
		why[here.NodeID] = "back"
	}
	for _, nodeID := range failed {
		switch reason, known := why[nodeID]; {
		case reason == departureSilent:
		case known:
			m.alarms.Clear(memberFailed, nodeID, "reason", reason)
		default:
			m.alarms.Clear(memberFailed, nodeID, "reason", "forgotten")
		}
	}
}

// announce gossips this node's metadata again when it has changed. What memberlist
// waits for here is only that it was sent; a member that misses it learns it with the
// next synchronisation.
func (m *Membership) announce() {
	for {
		select {
		case <-m.regossip:
			_ = m.ml.UpdateNode(4 * gossipInterval)
		case <-m.ctx.Done():
			return
		}
	}
}
