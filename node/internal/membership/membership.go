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

	alarms *alarm.Set
	counts counters

	ml         *memberlist.Memberlist
	filter     *filterTransport
	server     *http.Server
	dialer     *dialer
	broadcasts *broadcasts
	inbox      *inbox
	fetches    fetches

	view     watch.Value[View]
	changed  chan struct{} // has run look again; holds one element
	regossip chan struct{} // has announce run again; holds one element

	life *lifetime

	mu      sync.Mutex
	table   table
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

	// packetSize is how much memberlist puts into one packet. Packets travel in
	// frames over TCP, so that no MTU bounds them; a larger one carries more news
	// where many nodes start at once.
	packetSize = 8 << 10
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
		cfg:      cfg,
		log:      cfg.Logger,
		alarms:   alarm.New(cfg.Logger),
		name:     memberName(cfg.NodeID, cfg.InstanceID),
		inbox:    newInbox(),
		fetches:  newFetches(),
		changed:  make(chan struct{}, 1),
		regossip: make(chan struct{}, 1),
		life:     newLifetime(),
		table:    newTable(newSelf(cfg, details)),
	}
	m.dialer = newDialer(m)
	m.filter = newFilterTransport(cfg.Transport, m.isRefused)
	m.filter.others = m.others
	m.broadcasts = newBroadcasts(func() int { return max(len(m.View().Members), 1) })

	var ln net.Listener
	if ln, err = cfg.Network.Listen(protocolMember); err != nil {
		m.life.cancel()
		return nil, fmt.Errorf("membership: %w", err)
	}
	if m.ml, err = memberlist.Create(m.memberlistConfig()); err != nil {
		_ = ln.Close()
		_ = m.filter.Shutdown()
		m.life.cancel()
		return nil, fmt.Errorf("membership: %w", err)
	}
	m.server = m.serve(ln)
	m.refresh() // so that View never is without this node
	m.life.wg.Go(m.run)
	m.life.wg.Go(m.announce)
	m.life.wg.Go(func() { m.inbox.deliver(m.life.ctx.Done()) })
	if !cfg.Single {
		m.life.wg.Go(m.dialer.run)
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
		defer context.AfterFunc(m.life.ended, cancel)()
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
	m.table.self.setDetails(details)
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
	changed := m.table.self.setClusterID(id)
	m.mu.Unlock()
	if changed {
		m.announceAgain()
	}
	return nil
}

// Done is closed when this membership is over: when Leave or Close have done their
// work, or by itself, and then Err says why.
func (m *Membership) Done() <-chan struct{} { return m.life.ended.Done() }

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
func (m *Membership) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if wake := m.refresh(); wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
		select {
		case <-m.changed:
		case <-timer.C:
		case <-m.life.ctx.Done():
			return
		}
	}
}

// refresh works out the view, publishes it if it has changed, and does what follows
// from it. It returns when time alone will change the view, or zero.
func (m *Membership) refresh() (wake time.Time) {
	now := time.Now()
	old := m.View()
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		return time.Time{}
	}
	successor := m.table.successor()
	if successor != nil && m.table.self.mayRaise(successor.id, now, m.cfg.now()) {
		m.table.self.raiseAbove(successor.id)
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

	m.fetches.reconcile(want, func(w wanted) context.CancelFunc {
		ctx, cancel := context.WithCancel(m.life.ctx)
		m.life.wg.Go(func() { m.fetch(ctx, w) })
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
		case <-m.life.ctx.Done():
			return
		}
	}
}
