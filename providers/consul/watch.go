package consul

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
)

// answerTime is how much later than waitTime the answer of a query may come.
const answerTime = 30*time.Second + waitTime/16

// Watch asks Consul again and again for what has changed after an index, in each
// datacenter.
func (d *Driver) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return func(yield func(driver.Snapshot, error) bool) {
		if q.Service == "" {
			yield(driver.Snapshot{}, errNoService())
			return
		}
		inner, cancel := d.call(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		dcs := d.datacenters()
		from := make(chan update)
		for n, dc := range dcs {
			f := &follower{driver: d, service: q.Service, dc: dc, number: n, to: from, running: &running}
			running.Go(func() { f.follow(inner, d.start(q.Service, len(dcs), since)) })
		}
		for s, err := range d.merge(inner, q.Service, len(dcs), since, from) {
			if ctx.Err() != nil || !yield(s, err) {
				return
			}
		}
	}
}

// start returns the index from which a datacenter is followed so that no change is
// missed, 0 for reading it from the start. A snapshot of several has the sum of their indices as
// its revision, and says nothing of the keys on which lives hang.
func (d *Driver) start(service string, dcs int, since driver.Snapshot) uint64 {
	if keyed, read := d.usesKeys(service); !read || keyed || dcs > 1 {
		return 0
	}
	return uint64(since.Revision)
}

// update is the news of one datacenter.
type update struct {
	from  int
	reply reply
	err   error
}

// merge yields what the datacenters have together, each time that it has changed,
// until one of them fails.
func (d *Driver) merge(ctx context.Context, service string, dcs int, since driver.Snapshot, from <-chan update) iter.Seq2[driver.Snapshot, error] {
	return func(yield func(driver.Snapshot, error) bool) {
		known := make(map[int]reply)
		for last, first := since, true; ; {
			var got update
			select {
			case got = <-from:
			case <-ctx.Done():
				if d.closed.Load() {
					yield(driver.Snapshot{}, d.errClosed("watch"))
				}
				return
			}
			if got.err != nil {
				yield(driver.Snapshot{}, got.err)
				return
			}
			known[got.from] = got.reply
			if len(known) < dcs {
				continue
			}
			s := d.snapshot(service, slices.Collect(maps.Values(known)))
			if first && s.Revision < since.Revision {
				yield(driver.Snapshot{}, wentBack(uint64(since.Revision), uint64(s.Revision)))
				return
			}
			first = false
			if sameSet(last, s) {
				continue
			}
			// The end of a session does not move the index of a service. It is itself
			// a change, so that the index of Consul is higher than the last by now.
			s.Revision = max(s.Revision, last.Revision+1)
			last = s
			if !yield(s, nil) {
				return
			}
		}
	}
}

// wentBack is the error of an index that did: Consul was restored from a backup, or
// started without its state. What has changed is not known.
func wentBack(from, to uint64) error {
	return fmt.Errorf("consul: watch: %w: the index went back from %d to %d", driver.ErrCompacted, from, to)
}

// sameSet reports whether readers of a and b see the same.
func sameSet(a, b driver.Snapshot) bool {
	return sameInstances(a.Instances, b.Instances) && sameInstances(a.Failing, b.Failing) && a.Own == b.Own && sameSkipped(a.Skipped, b.Skipped)
}

func sameReply(a, b reply) bool {
	return sameInstances(a.passing, b.passing) && sameInstances(a.failing, b.failing) && sameSkipped(a.skipped, b.skipped)
}

// sameInstances and sameSkipped compare without regard to order, of which Consul has
// none to rely on.
func sameInstances(a, b []driver.Instance) bool {
	byKey := func(x, y driver.Instance) int {
		return cmp.Or(cmp.Compare(x.Key(), y.Key()), cmp.Compare(x.Addr, y.Addr))
	}
	a, b = slices.SortedFunc(slices.Values(a), byKey), slices.SortedFunc(slices.Values(b), byKey)
	return slices.EqualFunc(a, b, func(x, y driver.Instance) bool { return reflect.DeepEqual(x, y) })
}

func sameSkipped(a, b []driver.Skipped) bool {
	keys := func(all []driver.Skipped) []string {
		var keys []string
		for _, s := range all {
			keys = append(keys, s.Key)
		}
		return slices.Sorted(slices.Values(keys))
	}
	return slices.Equal(keys(a), keys(b))
}

// follower follows a service in one datacenter.
type follower struct {
	driver  *Driver
	service string
	dc      string
	number  int
	to      chan<- update
	running *sync.WaitGroup // has all that it starts, which ends with its context

	mu        sync.Mutex
	last      *reply             // nil before the first
	guarded   bool               // whether the keys are watched
	stale     bool               // a key has gone since the last reading
	interrupt context.CancelFunc // ends the reading that waits
}

// follow sends each change after index, and the error that ends it.
func (f *follower) follow(ctx context.Context, index uint64) {
	var p rateLimit
	for {
		began := time.Now()
		r, err := f.await(ctx, index)
		if err == nil && r.index < max(index, 1) {
			err = wentBack(index, r.index)
		}
		if err != nil {
			f.send(ctx, update{err: err})
			return
		}
		index = r.index
		changed := f.noteReply(ctx, r)
		if changed && !f.send(ctx, update{reply: r}) {
			return
		}
		if !p.pause(ctx, time.Since(began), len(r.passing)+len(r.failing)) {
			return
		}
	}
}

// send reports whether n was received before ctx ended.
func (f *follower) send(ctx context.Context, n update) bool {
	n.from = f.number
	select {
	case f.to <- n:
		return true
	case <-ctx.Done():
		return false
	}
}

// await waits for a change. When a key has gone it reads at once.
func (f *follower) await(ctx context.Context, index uint64) (reply, error) {
	waiting, interrupt := context.WithCancel(ctx)
	defer interrupt()
	if !f.isStale(interrupt) {
		r, err := f.readAfter(waiting, index)
		if err == nil || ctx.Err() != nil || !f.isStale(nil) {
			return r, err
		}
	}
	f.mu.Lock()
	f.stale = false
	f.mu.Unlock()
	at, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return f.driver.read(at, f.service, reading{dc: f.dc})
}

// readAfter reads when the service has changed after an index, once it is its turn to wait. From
// then on it has a bound of its own, since a connection may go silent.
func (f *follower) readAfter(ctx context.Context, index uint64) (reply, error) {
	if index > 0 {
		defer f.driver.waitTurn(ctx)()
	}
	ctx, cancel := context.WithTimeout(ctx, waitTime+answerTime)
	defer cancel()
	return f.driver.read(ctx, f.service, reading{dc: f.dc, index: index})
}

// isStale reports whether a key has gone since the last reading, and has the next
// such event call interrupt.
func (f *follower) isStale(interrupt context.CancelFunc) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.interrupt = interrupt
	return f.stale
}

// noteReply starts what a reading calls for, and reports whether it differs from the one
// before.
func (f *follower) noteReply(ctx context.Context, r reply) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.last == nil || !sameReply(*f.last, r)
	f.last = &r
	if r.heldKeys != nil && !f.guarded {
		f.guarded = true
		f.running.Go(func() { f.guard(ctx) })
	}
	return changed
}

// guard watches the keys on which lives hang, and interrupts when one has gone.
func (f *follower) guard(ctx context.Context) {
	var p rateLimit
	for index := uint64(0); ; {
		began := time.Now()
		end := f.driver.waitTurn(ctx)
		bounded, cancel := context.WithTimeout(ctx, waitTime+answerTime)
		alive, now, err := f.driver.keysHeld(bounded, reading{dc: f.dc, index: index})
		end()
		cancel()
		if err != nil {
			f.send(ctx, update{err: err})
			return
		}
		if now < index {
			now = 0 // restored from a backup: begin again
		}
		index = now
		f.compare(alive)
		if !p.pause(ctx, time.Since(began), len(alive)) {
			return
		}
	}
}

func (f *follower) compare(alive keySet) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.last.heldKeys { // there was one, it had us started
		if !alive[key] {
			f.stale = true
			if f.interrupt != nil {
				f.interrupt()
			}
			return
		}
	}
}

// rateLimit bounds what readings cost. The first change is read at once. After each reading
// there is a pause, in which a burst of changes comes to its end: a millisecond for each
// instance, as a reading costs as much, and a quarter of a second at least. While one
// follows the other, as in a long burst or where an index moves although nothing has
// changed for us, the pauses get longer, until nothing comes for a while.
type rateLimit struct{ busy time.Duration }

const (
	shortestPause = 250 * time.Millisecond
	longestPause  = time.Second
	quiet         = 2 * time.Second
)

// pause waits after an answer that took so long and has n instances. It reports
// whether ctx has not ended.
func (p *rateLimit) pause(ctx context.Context, took time.Duration, n int) bool {
	if took > quiet {
		p.busy = 0
	} else {
		p.busy = min(max(2*p.busy, shortestPause), longestPause)
	}
	wait := min(max(shortestPause, p.busy, time.Duration(n)*time.Millisecond), longestPause)
	return backoff.Sleep(ctx, wait/2+rand.N(wait)) == nil
}
