package casauthority

import (
	"context"
	"iter"
	"reflect"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

const (
	// pollMin and pollMax bound how often a store that does not report changes is read
	// while it has to be looked at closely; rarely is how often any is read while the
	// master is known to be alive by other evidence.
	pollMin    = 50 * time.Millisecond
	pollMax    = 500 * time.Millisecond
	pollRarely = time.Minute
)

// Observe reads, and reads again where there may be news: when the store reports a
// change, if it is a Watcher, and otherwise several times in a TTL; rarely while the
// master is known to be alive (Suspect); and not at all while this node renews its own grant,
// whose answers show as much.
func (a *Authority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		inner, cancel, err := a.bind(ctx)
		if err != nil {
			if ctx.Err() == nil {
				yield(driver.Mastership{}, err)
			}
			return
		}
		defer cancel()
		var last *driver.Mastership
		var mark uint64
		var reported bool
		var p rateLimit
		for {
			if err = a.readRecord(inner); err == nil {
				state, o := a.observed()
				if last == nil || !reflect.DeepEqual(state, *last) {
					last = &state
					if !yield(state, nil) {
						return
					}
				}
				if reported && p.pause(inner, o.revision) {
					_, o = a.observed()
				}
				mark, reported, err = a.await(inner, o, mark)
			}
			switch {
			case ctx.Err() != nil:
				return
			case a.ctx.Err() != nil:
				yield(driver.Mastership{}, a.ended(ctx))
				return
			case err != nil:
				yield(driver.Mastership{}, err)
				return
			}
		}
	}
}

// readRecord reads the record, unless a write of our own has shown it a moment ago.
func (a *Authority) readRecord(ctx context.Context) error {
	if a.fresh() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(2*time.Second, a.c.TTL))
	defer cancel()
	sent := clock.Now()
	v, err := a.c.Store.Read(ctx, a.m.p.key)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m.see(sent, clock.Now(), v)
	return nil
}

func (a *Authority) fresh() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.m.shows(a.m.active.nonce) && clock.Now().Sub(a.m.at) < a.m.record.TTL/2
}

// nextRead says how to wait for the next look.
type nextRead struct {
	limit   time.Duration
	closely bool          // let the store report changes
	recheck time.Duration // how often to look whether the holder is silent, 0 for never
	// revision is that of what was seen.
	revision driver.Revision
	news     <-chan struct{} // closed when there are some on this side
}

func (a *Authority) observed() (driver.Mastership, nextRead) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.m
	now := clock.Now()
	state, changes := m.mastership(now)
	ttl := m.ttl
	if m.record.Holder != nil {
		ttl = m.record.TTL
	}
	o := nextRead{limit: a.rarely, news: a.changed, revision: m.value.Revision}
	// What others say of the master counts as long as the store does not contradict it.
	confirmed := a.masterConfirmed && state.Holder != nil && !m.silent(now)
	_, reports := a.c.Store.(Watcher)
	switch {
	case m.shows(m.active.nonce) && state.Holder != nil:
		o.limit = ttl / 2
	case confirmed:
		o.recheck = ttl / 2
	case reports:
		o.limit, o.closely = ttl, true // no longer, so that the series of reads is not broken
	default:
		o.limit = min(max(ttl/8, pollMin), pollMax)
	}
	if changes != never && !confirmed {
		o.limit = min(o.limit, changes.Sub(now))
	}
	if left := m.unsettledFor(now); left > 0 && state.Warning != "" {
		o.limit = min(o.limit, left) // also while the master is known to be alive, or the warning stays
	}
	return state, o
}

// await waits for the next look. A mark is of the store's reports; reported says that it
// made one.
func (a *Authority) await(ctx context.Context, o nextRead, mark uint64) (next uint64, reported bool, err error) {
	if o.closely {
		wait, cancel := context.WithTimeout(ctx, o.limit)
		defer cancel()
		next, err := a.c.Store.(Watcher).Wait(wait, a.m.p.key, mark)
		if err != nil && wait.Err() != nil {
			return mark, false, nil // it is time, or ctx has ended
		}
		return next, true, err
	}
	end := clock.Now().Add(o.limit)
	for left := o.limit; left > 0; left = end.Sub(clock.Now()) {
		if o.recheck > 0 {
			left = min(left, o.recheck)
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
			if o.recheck > 0 && a.silent() {
				return mark, false, nil
			}
		case <-o.news:
			timer.Stop()
			return mark, false, nil
		case <-ctx.Done():
			timer.Stop()
			return mark, false, nil
		}
	}
	return mark, false, nil
}

func (a *Authority) silent() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.m.silent(clock.Now())
}

// rateLimit bounds what the reports of a store cost that are about something else.
type rateLimit struct {
	revision driver.Revision
	any      bool
	next     time.Duration
}

// pause is called after each look that followed a report. Where that has shown no change
// since the last one, it waits, each time for longer.
func (p *rateLimit) pause(ctx context.Context, revision driver.Revision) (waited bool) {
	if !p.any || p.revision != revision {
		p.any, p.revision, p.next = true, revision, 0
		return false
	}
	p.next = min(max(2*p.next, pollMax/2), pollMax)
	timer := time.NewTimer(p.next)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}
