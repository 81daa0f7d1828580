package call

import (
	"container/list"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node/call/internal/share"
)

// DefaultCapLease is Options.CapLease where that is 0.
const DefaultCapLease = 15 * time.Second

// MaxCap is the highest total of a Cap.
const MaxCap = share.MaxTotal

const (
	minCapLease = time.Second
	maxCapLease = 5 * time.Minute
	// capPrefix begins the keys of the records of caps.
	capPrefix = "caps/"
	// maxCapName bounds a name, and maxCaps how many a master divides.
	maxCapName = 100
	maxCaps    = 1000
	// capPatience bounds what a node that leaves waits for.
	capPatience = 250 * time.Millisecond
)

var (
	// ErrCapNotSet means that a Cap has no total yet: Set gives it one.
	ErrCapNotSet = errors.New("the cap is not set")

	// ErrPlaceLost is the cause of the end of a context that Cap.Acquire has returned, if the place
	// was lost: see context.Cause.
	ErrPlaceLost = errors.New("the place under the cap was lost")
)

// Cap bounds what all nodes of the cluster do at a time, together: what a system behind them can
// bear does not grow with the cluster. It has a name, and a total in the cluster's Store that can
// be changed at run time. The master hands out shares of it, as leases, and each node admits up to
// its share without asking.
//
// There are never more places than the total, on all nodes together, also across a failover: a
// place whose lease cannot be renewed is lost, and its context ends. What a lower total does not
// allow any more is lost within Options.CapLease, if it is not released before. Work that goes on
// after the end of its context, or in a process that was paused, is not bounded by anything.
//
// All methods are safe for concurrent use.
type Cap struct {
	mesh *Mesh
	name string
	wake chan struct{} // for run; holds one element

	// endsAt is when the first place may be lost, on the boot clock: 0 if none may.
	endsAt atomic.Int64

	mu      sync.Mutex
	holder  *share.Holder
	places  list.List // of *place, in the order in which they were taken
	waiters list.List // of *capWaiter
	planned clock.Instant
	running bool
	over    bool
	asked   int           // requests for a share: one at a time
	gone    chan struct{} // closed when run has ended
	last    error         // how the last request failed; nil if it was answered
	counts  capCounts
}

type capCounts struct{ acquired, lost uint64 }

// capWaiter waits for a place.
type capWaiter struct {
	ctx  context.Context
	done chan struct{} // closed once one of these is there
	got  *place
	err  error
	// asked is how many requests had been sent when it came: what they learn may be older.
	asked int
}

// place is a context that ends when the place is lost, and what is known of it.
type place struct {
	context.Context
	cap    *Cap
	cancel context.CancelCauseFunc
	at     *list.Element // nil once it was released; under the lock of cap
	lost   bool          // the same
}

// Err is that of the context. It looks at the clock: after a pause of the process timers are late.
func (p *place) Err() error {
	if at := p.cap.endsAt.Load(); at != 0 && int64(clock.Now()) >= at && p.Context.Err() == nil {
		p.cap.mu.Lock()
		p.cap.settle(clock.Now())
		p.cap.mu.Unlock()
	}
	return p.Context.Err()
}

// Cap returns the cap of that name, the same one for each call. It panics if the name is empty,
// longer than 100 bytes, or has other bytes than letters, digits, ".", "-" and "_".
//
// The mesh asks the master for a share once Acquire is called, and has to be started.
func (m *Mesh) Cap(name string) *Cap {
	if !isCapName(name) {
		panic(fmt.Sprintf("call: Cap %q: want letters, digits, dots, dashes and underscores, %d at most", name, maxCapName))
	}
	m.caps.mu.Lock()
	defer m.caps.mu.Unlock()
	if c := m.caps.own[name]; c != nil {
		return c
	}
	c := &Cap{
		mesh: m, name: name, wake: make(chan struct{}, 1), gone: make(chan struct{}),
		holder: share.NewHolder(rand.Text(), share.Divide(m.options.CapLease)),
	}
	if m.caps.own == nil {
		m.caps.own = make(map[string]*Cap)
	}
	m.caps.own[name] = c
	return c
}

func isCapName(s string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
	return s != "" && len(s) <= maxCapName && strings.Trim(s, allowed) == "" && strings.Trim(s, ".") != ""
}

// Name returns the name.
func (c *Cap) Name() string { return c.name }

// Set sets the total, for all nodes, from now on: a higher one at once, and a lower one for what is
// acquired from now on at once, and for all places within Options.CapLease. 0 admits nobody.
func (c *Cap) Set(ctx context.Context, total int) error {
	return c.change(ctx, total, func(share.Record, bool) bool { return true })
}

// Init sets the total where none is set yet: for programs that bring a first value, which is not to
// undo what was set at run time.
func (c *Cap) Init(ctx context.Context, total int) error {
	return c.change(ctx, total, func(_ share.Record, found bool) bool { return !found })
}

// change writes a total if it is to be written over what is recorded.
func (c *Cap) change(ctx context.Context, total int, wanted func(r share.Record, found bool) bool) error {
	if total < 0 || total > MaxCap {
		return fmt.Errorf("call: cap %s: a total of %d: want 0 to %d", c.name, total, MaxCap)
	}
	again := backoff.Backoff{Min: 5 * time.Millisecond, Max: 250 * time.Millisecond}
	for {
		r, revision, found, err := c.mesh.readCap(ctx, c.name)
		if errors.Is(err, errCapRecord) {
			r, found, err = share.Record{}, true, nil // it is of no use to anybody
		}
		if err != nil {
			return fmt.Errorf("call: cap %s: %w", c.name, err)
		}
		if !wanted(r, found) || found && r.Total == total && r.Reign != nil {
			return nil
		}
		r.Total = total
		_, err = c.mesh.node.Store().Set(ctx, capPrefix+c.name, r.Bytes(), revision)
		if err == nil {
			return nil
		}
		// It may have been written all the same: what is recorded says so.
		if !errors.Is(err, discovery.ErrConflict) && !errors.Is(err, discovery.ErrUnavailable) {
			return fmt.Errorf("call: cap %s: %w", c.name, err)
		}
		if again.Wait(ctx) != nil {
			return fmt.Errorf("call: cap %s: %w: %w", c.name, ctx.Err(), err)
		}
	}
}

// errCapRecord is that of a record that cannot be read.
var errCapRecord = errors.New("record of no cap")

func (m *Mesh) readCap(ctx context.Context, name string) (r share.Record, _ driver.Revision, found bool, err error) {
	stored, err := m.node.Store().Get(ctx, capPrefix+name)
	switch {
	case errors.Is(err, discovery.ErrNotFound):
		return r, 0, false, nil
	case err != nil:
		return r, 0, false, err
	}
	if r, err = share.Parse(stored.Value); err != nil {
		return r, stored.Revision, false, fmt.Errorf("%w: %s%s: %w", errCapRecord, capPrefix, name, err)
	}
	return r, stored.Revision, true, nil
}

// Get returns the total that is set, or ErrCapNotSet. It reads the Store.
func (c *Cap) Get(ctx context.Context) (total int, _ error) {
	r, _, found, err := c.mesh.readCap(ctx, c.name)
	switch {
	case err != nil:
		return 0, fmt.Errorf("call: cap %s: %w", c.name, err)
	case !found:
		return 0, fmt.Errorf("call: cap %s: %w", c.name, ErrCapNotSet)
	}
	return r.Total, nil
}

// Acquire waits for a place until ctx ends. The context that it returns is derived from ctx, and
// also ends when the place is lost, with ErrPlaceLost as its cause: then the work has a twentieth
// of the lease, which is two thirds of Options.CapLease, to return. The caller calls release once
// the work has ended. It may be called again, and ends the context.
//
// Where no total is set Acquire returns ErrCapNotSet at once. Where no place can be had because
// there is no master, or it does not answer, it waits.
func (c *Cap) Acquire(ctx context.Context) (_ context.Context, release func(), _ error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("call: cap %s: %w", c.name, err)
	}
	c.mu.Lock()
	if c.over || c.mesh.ctx.Err() != nil {
		c.mu.Unlock()
		return nil, nil, fmt.Errorf("call: cap %s: %w", c.name, errStopped)
	}
	if !c.running {
		c.running = true
		c.mesh.wg.Go(c.run)
	}
	now := clock.Now()
	if c.waiters.Len() == 0 && c.holder.Take(now) {
		p := c.newPlace(ctx, now)
		c.mu.Unlock()
		return p, p.release, nil
	}
	w := &capWaiter{ctx: ctx, done: make(chan struct{}), asked: c.asked}
	at := c.waiters.PushBack(w)
	c.settle(now)
	c.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		c.mu.Lock()
		select {
		case <-w.done: // meanwhile
		default:
			c.waiters.Remove(at)
			w.err = ctx.Err()
			if c.last != nil {
				w.err = fmt.Errorf("%w: the last request for a share: %w", ctx.Err(), c.last)
			}
			c.settle(clock.Now())
		}
		c.mu.Unlock()
	}
	if w.err != nil {
		return nil, nil, fmt.Errorf("call: cap %s: %w", c.name, w.err)
	}
	return w.got, w.got.release, nil
}

// newPlace makes a place of one that the holder has taken, with the lock held.
func (c *Cap) newPlace(ctx context.Context, now clock.Instant) *place {
	p := &place{cap: c}
	p.Context, p.cancel = context.WithCancelCause(ctx)
	p.at = c.places.PushBack(p)
	c.counts.acquired++
	if c.endsAt.Load() == 0 {
		c.noteEnd(now)
	}
	return p
}

// noteEnd notes when the first place may be lost, with the lock held.
func (c *Cap) noteEnd(now clock.Instant) {
	at, ok := c.holder.Ends(now)
	if !ok || c.places.Len() == 0 {
		at = 0
	}
	c.endsAt.Store(int64(at))
}

// release gives the place back.
func (p *place) release() {
	c := p.cap
	c.mu.Lock()
	if p.at != nil {
		c.places.Remove(p.at)
		p.at = nil
		now := clock.Now()
		c.holder.Put(now, p.lost)
		c.settle(now)
	}
	c.mu.Unlock()
	p.cancel(context.Canceled)
}

// settle has what has no place any more end, lets in who waits, and has run look if a request is
// due before it would. The lock is held.
func (c *Cap) settle(now clock.Instant) {
	if excess := c.holder.Excess(now); excess > 0 {
		c.lose(excess)
	}
	for c.waiters.Len() > 0 && c.holder.Take(now) {
		w := c.waiters.Remove(c.waiters.Front()).(*capWaiter)
		w.got = c.newPlace(w.ctx, now)
		close(w.done)
	}
	c.holder.Wait(now, c.waiters.Len())
	c.noteEnd(now)
	if at, ok := c.holder.Due(now); ok && (c.planned == 0 || at.Before(c.planned)) {
		signal(c.wake)
	}
}

// lose ends the contexts of so many that have begun last.
func (c *Cap) lose(n int) {
	c.holder.Lose(n)
	c.counts.lost += uint64(n)
	for e := c.places.Back(); e != nil && n > 0; e = e.Prev() {
		if p := e.Value.(*place); !p.lost {
			p.lost = true
			p.cancel(ErrPlaceLost)
			n--
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is pending
	}
}

// nudge has the holder ask soon.
func (c *Cap) nudge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holder.Nudge()
	c.settle(clock.Now())
}

// run asks for shares until the mesh ends, and ends the places that are lost.
func (c *Cap) run() {
	defer close(c.gone)
	answers := make(chan capResult, 1)
	for {
		c.mu.Lock()
		now := clock.Now()
		c.settle(now)
		if at, ok := c.holder.Due(now); ok && !now.Before(at) {
			q, timeout := c.holder.Send(now), c.holder.Timeout()
			c.asked++
			c.noteEnd(now)
			c.mesh.wg.Go(func() { answers <- c.mesh.askCap(c.name, q, timeout) })
		}
		wait := time.Hour
		if at, ok := c.holder.Due(now); ok {
			wait = min(wait, at.Sub(now))
		}
		if at, ok := c.holder.Ends(now); ok {
			wait = min(wait, at.Sub(now))
		}
		c.planned = now.Add(wait)
		c.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case r := <-answers:
			c.take(r)
		case <-c.wake:
		case <-timer.C:
		case <-c.mesh.ctx.Done():
			timer.Stop()
			c.end()
			return
		}
		timer.Stop()
	}
}

// take takes the answer to a request.
func (c *Cap) take(r capResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := clock.Now()
	if c.last = r.err; r.err == nil {
		c.holder.Answered(r.answer, now)
	}
	c.holder.Failed(now) // unless it was answered
	if errors.Is(r.err, ErrCapNotSet) || errors.Is(r.err, discovery.ErrUnsupported) {
		c.turnAway(r.err, c.asked)
	}
	c.settle(now)
}

// turnAway has those that wait end that came before a request was sent, with the lock held. They
// stand in the order in which they came.
func (c *Cap) turnAway(err error, request int) {
	for c.waiters.Len() > 0 && c.waiters.Front().Value.(*capWaiter).asked < request {
		w := c.waiters.Remove(c.waiters.Front()).(*capWaiter)
		w.err = err
		close(w.done)
	}
}

// end ends all places, since the mesh has ended.
func (c *Cap) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.holder.Close()
	c.lose(c.holder.Counts(clock.Now()).Using)
	c.turnAway(errStopped, math.MaxInt)
	c.endsAt.Store(0)
}

// CapStats are what a node knows of one Cap.
type CapStats struct {
	Name string
	// Total is that of the last answer of the master, and Share how much of it this node may use.
	Total, Share int
	// InUse counts the places of this node, Waiting those that wait for one, and Lost those that
	// were lost and not released yet.
	InUse, Waiting, Lost int
	// Acquired and LostEver count places since the mesh was opened.
	Acquired, LostEver uint64
}

// Stats returns what this node knows of the cap. It does not block.
func (c *Cap) Stats() CapStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.holder.Counts(clock.Now())
	return CapStats{
		Name: c.name, Total: n.Total, Share: n.Share, InUse: n.Using, Waiting: c.waiters.Len(), Lost: n.Lost,
		Acquired: c.counts.acquired, LostEver: c.counts.lost,
	}
}

// Caps returns what this node knows of each cap that it uses, by name.
func (m *Mesh) Caps() []CapStats {
	m.caps.mu.Lock()
	defer m.caps.mu.Unlock()
	var all []CapStats
	for _, c := range m.caps.own {
		all = append(all, c.Stats())
	}
	slices.SortFunc(all, func(a, b CapStats) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// leave gives back what is not in use, and admits nobody any more.
func (c *Cap) leave(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.holder.Close()
	c.turnAway(errStopped, math.MaxInt)
	now := clock.Now()
	c.settle(now)
	if !c.running || !c.holder.Leaves(now) {
		return
	}
	q := c.holder.Send(now)
	c.mu.Unlock()
	c.mesh.askCapIn(ctx, c.name, q)
	c.mu.Lock()
	c.holder.Failed(clock.Now())
}

// enterCap waits for a place for a call of a method that is under a cap. After an error ctx is the
// one that was given.
func (m *Mesh) enterCap(ctx context.Context, method string) (context.Context, func(), error) {
	name, ok := m.options.Caps[method]
	if !ok {
		name, ok = m.options.Caps[serviceOf(method)]
	}
	if !ok {
		return ctx, func() {}, nil
	}
	under, release, err := m.Cap(name).Acquire(ctx)
	if err != nil {
		return ctx, nil, err
	}
	return under, release, nil
}
