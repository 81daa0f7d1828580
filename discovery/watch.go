package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/watch"
	"github.com/musterhq/muster/internal/within"
)

// Watch yields what is known of the set that matches q: soon the first state, and
// then each change, until ctx ends or the registry is closed. It never gives up:
//
//  1. The first state is the set, or after a failure Known false with the reason.
//  2. A snapshot is yielded when the set changes or the entries that were skipped,
//     when it becomes stale or fresh, and when the reason is of another Kind. A new
//     revision of an unchanged set is not worth a snapshot of its own.
//  3. A failure makes the last good set stale, never smaller. Every failure is
//     retried with full jitter, also one that only an operator can fix.
//  4. A slow consumer holds up nobody: it misses states, never the newest.
//
// All who watch the same share one watch of the driver. A panic of the driver surfaces
// in the goroutines that range over the sequence.
func (r *Registry) Watch(ctx context.Context, q Query) iter.Seq[Snapshot] {
	return func(yield func(Snapshot) bool) {
		f, err := r.follow(q)
		if err != nil {
			yield(Snapshot{Err: err})
			return
		}
		defer r.unfollow(f)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(f.running, cancel)() // whatever ends it, nobody waits for more
		var last Snapshot
		first := true
		for s := range f.state.Watch(ctx) {
			if !first && same(last, s) {
				continue
			}
			first, last = false, s
			s.instances = slices.Clone(s.instances)
			s.Skipped = slices.Clone(s.Skipped)
			if !yield(s) {
				return
			}
		}
	}
}

// What an operator must know of.
var (
	providerFails = alarm.Kind{Name: "provider_fails", Raised: "provider fails", Cleared: "provider answers again"}
	entrySkipped  = alarm.Kind{Name: "entry_skipped", Raised: "entry skipped", Cleared: "entry no longer skipped"}
)

// follower keeps one watch going, for all consumers of one query.
type follower struct {
	registry *Registry
	query    Query
	key      string
	state    watch.Value[Snapshot]
	last     Snapshot // what was stored in state last
	reads    *backoff.Backoff
	watches  *backoff.Backoff

	users    int             // guarded by the lock of the registry
	running  context.Context // ends with the watch
	cancel   context.CancelFunc
	done     chan struct{}
	panicked string // set before done is closed
}

// follow returns the follower of q, which it starts if there is none. The caller gives
// it back.
func (r *Registry) follow(q Query) (*follower, error) {
	key, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("%w: query: %w", driver.ErrInvalid, err)
	}
	ctx, end, err := r.begin(context.Background())
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.watched[string(key)]; f != nil {
		f.users++
		end()
		return f, nil
	}
	f := &follower{
		registry: r, query: q, key: string(key), reads: r.backoff(), watches: r.backoff(),
		users: 1, done: make(chan struct{}),
	}
	f.running, f.cancel = context.WithCancel(ctx)
	r.watched[f.key] = f
	go func() {
		// Close waits for this goroutine and not for the consumers, one of which may
		// be the one that closes.
		defer close(f.done)
		defer end()
		defer func() {
			f.cancel()
			r.unwatched(f.query.Service)
			r.mu.Lock()
			defer r.mu.Unlock()
			f.forget()
		}()
		f.run(f.running)
	}()
	return f, nil
}

// unfollow gives f back, ends it with its last consumer, and raises the panic by which
// it may have ended.
func (r *Registry) unfollow(f *follower) {
	r.mu.Lock()
	f.users--
	last := f.users == 0
	if last {
		f.forget() // nobody else may take it up
	}
	r.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
	select {
	case <-f.done:
		if f.panicked != "" {
			panic(f.panicked)
		}
	default:
	}
}

// forget makes way for another follower of the same query. It wants the lock of the
// registry held.
func (f *follower) forget() {
	if f.registry.watched[f.key] == f {
		delete(f.registry.watched, f.key)
	}
}

func (f *follower) run(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			// It is raised again by the consumer, with the stack that it had here.
			f.panicked = fmt.Sprintf("discovery: watch of provider %s: %v\n\n%s", f.registry.name, p, debug.Stack())
		}
	}()
	watcher, _ := f.registry.driver.(driver.Watcher)
	compacted := false
	for {
		raw, s, err := f.registry.read(ctx, f.query)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.failed(err)
			if f.reads.Wait(ctx) != nil {
				return
			}
			continue
		}
		f.reads.Reset()
		f.succeeded(s)
		if watcher == nil {
			if backoff.Sleep(ctx, jitter(f.registry.options.PollInterval)) != nil {
				return
			}
			continue
		}
		progress, err := f.watch(ctx, watcher, raw)
		if ctx.Err() != nil {
			return
		}
		if progress {
			compacted = false
			f.watches.Reset()
		}
		switch {
		case err == nil: // due for another look
			compacted = false
			f.watches.Reset()
			continue
		case errors.Is(err, driver.ErrUnsupported):
			watcher = nil
			continue
		}
		f.registry.stats.restarted(err)
		if errors.Is(err, driver.ErrCompacted) {
			// Nothing is wrong with the provider, and nothing is gained by waiting;
			// but a second one in a row would make this a busy loop.
			if !compacted {
				compacted = true
				continue
			}
		} else {
			f.failed(err)
		}
		if f.watches.Wait(ctx) != nil {
			return
		}
	}
}

// watch passes on what the driver's watch yields from since on, until it is time
// to list again, which is no error, or the watch breaks. It reports whether the
// watch yielded anything.
func (f *follower) watch(ctx context.Context, w driver.Watcher, since driver.Snapshot) (progress bool, err error) {
	f.registry.stats.called("watch", nil)
	bounded, cancel := context.WithTimeout(ctx, jitter(f.registry.options.ResyncInterval))
	defer cancel()
	for raw, err := range f.registry.events(bounded, w, f.query, since) {
		if err != nil {
			if bounded.Err() != nil {
				return progress, nil
			}
			return progress, fmt.Errorf("provider %s: watch: %w", f.registry.name, err)
		}
		progress = true
		f.succeeded(f.registry.snapshot(f.query, raw, time.Now()))
	}
	if bounded.Err() != nil {
		return progress, nil
	}
	return progress, fmt.Errorf("provider %s: watch: %w: it ended without an error", f.registry.name, driver.ErrUnavailable)
}

// events yields what the driver's watch does, and ends with ctx, or within.Grace later,
// whether or not that ends.
func (r *Registry) events(ctx context.Context, w driver.Watcher, q Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	type event struct {
		snapshot driver.Snapshot
		err      error
	}
	return func(yield func(driver.Snapshot, error) bool) {
		if err := r.tooManyHang(); err != nil {
			yield(driver.Snapshot{}, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		events, done := make(chan event), make(chan struct{})
		panicked := ""
		go func() {
			defer r.hung.Add(-1)
			defer close(done)
			defer func() {
				if p := recover(); p != nil {
					panicked = fmt.Sprintf("%v\n\n%s", p, debug.Stack())
				}
			}()
			for s, err := range w.Watch(ctx, q, since) {
				select {
				case events <- event{s, err}:
				case <-ctx.Done():
					return
				}
			}
		}()
		defer r.hung.Add(1) // unless it has ended
		defer func() {
			cancel()
			if within.Done(ctx, done) == nil && panicked != "" {
				panic(panicked)
			}
		}()
		for {
			select {
			case e := <-events:
				if !yield(e.snapshot, e.err) {
					return
				}
			case <-done:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

func (f *follower) succeeded(s Snapshot) {
	f.registry.alarms.Clear(providerFails, f.query.Service, "instances", len(s.instances))
	f.last = s
	f.state.Store(s)
}

func (f *follower) failed(err error) {
	r := f.registry
	r.alarms.Raise(providerFails, f.query.Service, "addr", strings.Join(r.Addrs(), ","), "last_good", f.last.Known, "error", err)
	f.last.Stale = f.last.Known
	f.last.Err = err
	f.state.Store(f.last)
}

// jitter spreads the readers of one provider: d give or take a fifth.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
