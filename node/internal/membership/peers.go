package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The merge loop's bounds.
const (
	// maxDials bounds the dials that are under way; waveSize those that are begun
	// at once. One join makes two nodes know all that either knows, and gossip
	// spreads it: after a wave it pays to wait and see who is still missing.
	maxDials = 16
	waveSize = 4
	waveRest = 3 * gossipInterval

	// A peer of the list is dialled again after a time that doubles between these.
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second

	// A member that fell silent and stands on no list is dialled again for a day:
	// at first between these, and after some minutes less and less often, down to
	// once in lostRetryLast.
	lostRetryMin  = 500 * time.Millisecond
	lostRetryMax  = 4 * time.Second
	lostRetryLast = time.Minute
	lostKept      = 24 * time.Hour
	maxLost       = 4096

	lookupTimeout = 2 * time.Second

	// patientFailures is how often a peer may fail to answer before it is logged.
	patientFailures = 6
)

// peer is an address that is to belong to a member.
type peer struct {
	addr   string
	listed bool      // it was handed in
	nodeID string    // whose it was, if it was learnt from a member that fell silent
	lostAt time.Time // when that was

	resolved []netip.AddrPort          // at the last dial; fixed for an IP literal
	answers  map[netip.AddrPort]string // the instances that answer there but advertise another address
	failures int
	next     time.Time // no dial before
	busy     bool
	missing  bool
}

// dialer is the merge loop: it dials, without end, each address that is to be a member and is
// not. memberlist itself never looks again for a member that it has given up.
type dialer struct {
	m       *Membership
	notify  chan struct{} // holds one element
	results chan dialResult
	logged  rateLimit

	mu     sync.Mutex
	listed []string

	// The rest belongs to run.
	peers     map[string]*peer
	departed  map[string]bool // instances whose departure was seen
	underWay  int
	restUntil time.Time
	wg        sync.WaitGroup
}

type dialResult struct {
	addr     string
	resolved []netip.AddrPort
	answers  map[netip.AddrPort]string
	joined   bool
	err      error
}

func newDialer(m *Membership) *dialer {
	return &dialer{
		m:        m,
		notify:   make(chan struct{}, 1),
		results:  make(chan dialResult),
		peers:    make(map[string]*peer),
		departed: make(map[string]bool),
	}
}

func (d *dialer) set(addrs []string) {
	d.mu.Lock()
	d.listed = slices.Clone(addrs)
	d.mu.Unlock()
	d.viewChanged()
}

func (d *dialer) viewChanged() {
	select {
	case d.notify <- struct{}{}:
	default:
	}
}

func (d *dialer) run() {
	defer d.wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		d.adopt(now)
		if next := d.launch(now); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-d.notify:
		case <-timer.C:
		case r := <-d.results:
			d.settle(r)
		case <-d.m.life.ctx.Done():
			return
		}
	}
}

// adopt brings the peers up to date with the list and the view.
func (d *dialer) adopt(now time.Time) {
	view := d.m.View()
	live := newLive(view)

	d.mu.Lock()
	listed := make(map[string]bool, len(d.listed))
	for _, addr := range d.listed {
		listed[addr] = true
	}
	d.mu.Unlock()
	for addr := range listed {
		if d.peers[addr] == nil {
			p := &peer{addr: addr}
			if literal, err := netip.ParseAddrPort(addr); err == nil {
				p.resolved = []netip.AddrPort{unmap(literal)}
			}
			d.peers[addr] = p
		}
	}
	d.adoptLost(view, live)

	missing := 0
	for addr, p := range d.peers {
		p.listed = listed[addr]
		wasMissing := p.missing
		p.missing = !live.has(p)
		if !p.listed && !p.busy && (p.lostAt.IsZero() || !p.missing || live.nodes[p.nodeID] || now.Sub(p.lostAt) > lostKept) {
			delete(d.peers, addr)
			continue
		}
		if p.missing {
			missing++
			if !wasMissing {
				p.failures, p.next = 0, time.Time{} // it has just gone: it may be back soon
			}
		}
	}
	d.m.counts.peers.Store(int64(len(d.peers)))
	d.m.counts.missing.Store(int64(missing))
}

// adoptLost takes up the addresses of members that fell silent, so that a cluster
// that was cut in two becomes one again even where no list names the other half.
func (d *dialer) adoptLost(view View, live live) {
	departed := make(map[string]bool, len(view.Departed))
	for _, m := range view.Departed {
		departed[m.InstanceID] = true
		if m.State != StateDead || d.departed[m.InstanceID] || live.nodes[m.NodeID] {
			continue
		}
		p := d.peers[m.Addr]
		if p == nil {
			if d.lost() >= maxLost {
				continue
			}
			addr, err := netip.ParseAddrPort(m.Addr)
			if err != nil {
				continue
			}
			p = &peer{addr: m.Addr, resolved: []netip.AddrPort{addr}}
			d.peers[m.Addr] = p
		}
		p.nodeID, p.lostAt = m.NodeID, m.DepartedAt
	}
	d.departed = departed
}

func (d *dialer) lost() int {
	n := 0
	for _, p := range d.peers {
		if !p.listed {
			n++
		}
	}
	return n
}

// launch begins the dials that are due and returns when to look again, or zero.
func (d *dialer) launch(now time.Time) (next time.Time) {
	at := func(when time.Time) {
		if next.IsZero() || when.Before(next) {
			next = when
		}
	}
	var due []*peer
	for _, p := range d.peers {
		switch {
		case !p.missing || p.busy:
		case p.next.After(now):
			at(p.next)
		default:
			due = append(due, p)
		}
	}
	if len(due) == 0 || d.underWay >= maxDials {
		return next // a result will wake us
	}
	if now.Before(d.restUntil) {
		at(d.restUntil)
		return next
	}
	// Those of the list come first, and among them those that were tried least, or
	// many dead ones would keep a live one waiting. Otherwise any: if all began with
	// the same peer, it would have to serve them all.
	rand.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
	slices.SortStableFunc(due, func(a, b *peer) int {
		return cmp.Or(boolInt(b.listed)-boolInt(a.listed), cmp.Compare(a.failures, b.failures))
	})
	for _, p := range due[:min(len(due), waveSize, maxDials-d.underWay)] {
		p.busy = true
		d.underWay++
		addr, answers, skip := p.addr, maps.Clone(p.answers), d.satisfied(p)
		d.wg.Go(func() {
			r := d.m.dial(addr, answers, skip)
			select {
			case d.results <- r:
			case <-d.m.life.ctx.Done():
			}
		})
	}
	d.restUntil = now.Add(waveRest)
	if len(due) > waveSize {
		at(d.restUntil)
	}
	return next
}

// satisfied returns the addresses of p that belong to a member already.
func (d *dialer) satisfied(p *peer) map[netip.AddrPort]bool {
	live := newLive(d.m.View())
	addrs := make(map[netip.AddrPort]bool)
	for _, a := range p.resolved {
		if live.at(p, a) {
			addrs[a] = true
		}
	}
	return addrs
}

// settle takes note of how a dial went.
func (d *dialer) settle(r dialResult) {
	d.underWay--
	p := d.peers[r.addr]
	if p == nil {
		return
	}
	now := time.Now()
	p.busy = false
	if r.resolved != nil {
		p.resolved = r.resolved
	}
	p.answers = r.answers
	if r.joined {
		d.restUntil = now.Add(waveRest)
	}
	p.next = now.Add(p.retry(now))
	p.failures++
	// Nodes that are started together find each other's ports shut at first.
	if r.err != nil && p.failures > patientFailures && d.m.life.ctx.Err() == nil && d.logged.allow("dial: "+r.addr, now) {
		d.m.log.Info("peer cannot be joined", "peer", r.addr, "tries", p.failures, "error", r.err)
	}
}

// cause is the first of the errors that memberlist has put on lines of their own.
func cause(err error) error {
	var all interface{ WrappedErrors() []error }
	if errors.As(err, &all) && len(all.WrappedErrors()) > 0 {
		return all.WrappedErrors()[0]
	}
	return err
}

// retry returns how long to wait before the next dial of p, between half of a bound
// and all of it.
func (p *peer) retry(now time.Time) time.Duration {
	bound := min(firstRetry<<min(p.failures, 10), lastRetry)
	if !p.listed {
		lost := now.Sub(p.lostAt)
		bound = min(max(lost/10, lostRetryMin), lostRetryMax)
		bound = max(bound, min(lost/100, lostRetryLast))
	}
	return bound/2 + rand.N(bound/2+1)
}

// live says which addresses, instances and nodes are in a view.
type live struct {
	addrs     map[string]bool
	instances map[string]bool
	nodes     map[string]bool
}

func newLive(view View) live {
	l := live{make(map[string]bool), make(map[string]bool), make(map[string]bool)}
	for _, m := range view.Members {
		l.addrs[m.Addr], l.instances[m.InstanceID], l.nodes[m.NodeID] = true, true, true
	}
	return l
}

// has reports whether every address of p belongs to a member: a name may stand for
// a whole cluster, of which only a part is known here.
func (l live) has(p *peer) bool {
	for _, a := range p.resolved {
		if !l.at(p, a) {
			return false
		}
	}
	return len(p.resolved) > 0
}

func (l live) at(p *peer, a netip.AddrPort) bool {
	return l.addrs[a.String()] || l.instances[p.answers[a]]
}

// dial joins each address that addr stands for, except those in skip. It owns
// answers, which is what the dial before has found, and returns what it finds.
func (m *Membership) dial(addr string, answers map[netip.AddrPort]string, skip map[netip.AddrPort]bool) dialResult {
	if answers == nil {
		answers = make(map[netip.AddrPort]string)
	}
	r := dialResult{addr: addr, answers: answers}
	r.resolved, r.err = m.resolve(addr)
	for _, a := range r.resolved {
		if skip[a] || m.life.ctx.Err() != nil {
			continue
		}
		if _, err := m.ml.Join([]string{a.String()}); err != nil {
			r.err = cause(err)
			m.counts.joinFailures.Add(1)
			continue
		}
		m.counts.joins.Add(1)
		r.joined = true
		if m.advertised(a) {
			delete(r.answers, a)
			continue
		}
		// The node that answers here advertises another address, or is this node itself:
		// without knowing who it is we would dial without end.
		if instance, err := m.identifyPeer(m.life.ctx, a.String()); err == nil {
			r.answers[a] = instance
		}
	}
	if r.err != nil && len(r.resolved) == 0 {
		m.counts.joinFailures.Add(1)
	}
	return r
}

// advertised reports whether a is the address of a node that memberlist knows.
func (m *Membership) advertised(a netip.AddrPort) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.table.records {
		if r.live && r.addr == a {
			return true
		}
	}
	return a == m.cfg.Addr
}

// resolve returns the addresses that addr stands for.
func (m *Membership) resolve(addr string) ([]netip.AddrPort, error) {
	if literal, err := netip.ParseAddrPort(addr); err == nil {
		return []netip.AddrPort{unmap(literal)}, nil
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("peer %q: want HOST:PORT, with IPv6 in brackets", addr)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 || host == "" {
		return nil, fmt.Errorf("peer %q: want HOST:PORT with a port from 1 to 65535", addr)
	}
	ctx, cancel := context.WithTimeout(m.life.ctx, lookupTimeout)
	defer cancel()
	ips, err := m.cfg.lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("peer %q: %w", addr, err)
	}
	addrs := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return addrs, nil
}

func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
