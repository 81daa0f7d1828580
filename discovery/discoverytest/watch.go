package discoverytest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

func watchClauses() []clause {
	return []clause{
		{"watch/from_the_list", "Watch yields each change after the snapshot that it is given, also one from before it was called", watchFromList},
		{"watch/no_event_lost", "between List and Watch no change is lost: who lists, and watches from there, comes to see the final state, whatever is written meanwhile", watchNoEventLost},
		{"watch/whole_sets_in_order", "each yielded snapshot is complete and has a revision higher than the one before", watchWholeSets},
		{"watch/cancelled", "the sequence ends when its context does", watchCancelled},
		{"watch/compacted", "if the changes after the given snapshot are no longer known, the sequence ends with ErrCompacted", watchCompacted},
		{"watch/outage", "an error is yielded last, with a zero snapshot; an outage never makes the set smaller, and no change is lost over it", watchOutage},
		{"watch/expiry", "the end of a session is a change like any other", watchExpiry},
	}
}

// event is what a watch yielded.
type event struct {
	snapshot driver.Snapshot
	err      error
}

// watch runs a watch until stop is called or the clause ends.
func (k *check) watch(w driver.Watcher, service string, since driver.Snapshot) (events <-chan event, stop func()) {
	ctx, cancel := context.WithCancel(k.Context())
	out := make(chan event)
	var done sync.WaitGroup
	done.Go(func() {
		defer close(out)
		for s, err := range w.Watch(ctx, driver.Query{Service: service}, since) {
			select {
			case out <- event{s, err}:
			case <-ctx.Done():
				return
			}
		}
	})
	stop = func() { cancel(); done.Wait() }
	k.Cleanup(stop)
	return out, stop
}

// next waits for an event. It returns false if the sequence is over.
func (k *check) next(events <-chan event, bound time.Duration) (event, bool) {
	k.Helper()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case e, ok := <-events:
		return e, ok
	case <-timer.C:
		k.broken("nothing was yielded for %v", bound)
	}
	return event{}, false
}

// until takes events until one has the wanted set. The watch may break if the
// provider is unavailable, and is then taken up again after a List.
func (k *check) until(w driver.Watcher, d driver.Driver, events <-chan event, service, why string, want ...driver.Instance) {
	k.Helper()
	deadline := time.After(k.Patience)
	diff := "nothing was yielded"
	for {
		select {
		case e, ok := <-events:
			switch {
			case !ok || (e.err != nil && (unavailable(e.err) || errors.Is(e.err, driver.ErrCompacted))):
				since := k.list(d, service)
				if diff = diffSets(want, since.Instances); diff == "" {
					return
				}
				events, _ = k.watch(w, service, since)
			case e.err != nil:
				k.broken("the watch ended with %q", e.err)
			default:
				if diff = diffSets(want, e.snapshot.Instances); diff == "" {
					return
				}
			}
		case <-deadline:
			k.broken("%v after %s, the watch has not shown it: %s", k.Patience, why, diff)
		}
	}
}

func watchFromList(k *check) {
	d := k.open()
	w := k.watcher(d)
	p := k.publisher(k.open())
	first := p.put(instance(service, 0))
	k.eventually(d, service, "one instance was published", first...)
	since := k.list(d, service)
	second := p.put(instance(service, 1))
	k.eventually(k.open(), service, "a second instance was published", slices.Concat(first, second)...)
	// The change lies wholly before the watch.
	events, _ := k.watch(w, service, since)
	k.until(w, d, events, service, "a change between List and Watch", slices.Concat(first, second)...)
	p.remove(second[0])
	k.until(w, d, events, service, "an instance was removed", first...)
}

// history is many states one after another, no two of them alike. Each is
// recorded before it is made, so that a reader never sees one that is not there.
type history struct {
	mu     sync.Mutex
	index  map[string]int
	states [][]driver.Instance
}

func (h *history) record(state []driver.Instance) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.index == nil {
		h.index = make(map[string]int)
	}
	h.index[keys(state)] = len(h.states)
	h.states = append(h.states, slices.Clone(state))
}

func (h *history) at(state []driver.Instance) (int, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, ok := h.index[keys(state)]
	return n, ok
}

// write adds n instances and then removes every other one. Where Seed stands in
// for a Registrar the instances have an address only, as that may be all it keeps.
func (h *history) write(k *check, p *publisher, n int) {
	var state []driver.Instance
	for i := range n {
		in := instance(service, i)
		if p.s == nil {
			in = driver.Instance{Service: service, Addr: in.Addr}
		}
		state = append(state, in)
		h.record(state)
		p.put(in)
	}
	for i := range n / 2 {
		gone := state[i]
		state = slices.Delete(slices.Clone(state), i, i+1)
		h.record(state)
		p.remove(gone)
	}
}

// final returns the last state.
func (h *history) final() []driver.Instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.states[len(h.states)-1]
}

const historySize = 40

func watchNoEventLost(k *check) {
	d := k.open()
	w := k.watcher(d)
	p := k.publisher(k.open())
	var h history
	h.record(nil)
	written := make(chan struct{})
	k.Cleanup(func() { <-written })
	go func() {
		defer close(written)
		h.write(k, p, historySize)
	}()
	// Several readers, each of which begins somewhere else in the history. A reader
	// that missed the last change while it went from List to Watch hangs.
	type reader struct {
		events <-chan event
		set    []driver.Instance
	}
	var readers []reader
	for range 8 {
		since := k.list(d, service)
		events, _ := k.watch(w, service, since)
		readers = append(readers, reader{events, since.Instances})
		// Not before something more was written: what is lost is lost in between.
		for n := len(since.Instances); ; k.sleep(time.Millisecond) {
			if now := len(k.list(d, service).Instances); now != n || closed(written) {
				break
			}
		}
	}
	<-written
	want := h.final()
	k.eventually(k.open(), service, "all was written", want...)
	for n := range readers {
		r := &readers[n]
		deadline := time.After(k.Patience)
		for keys(r.set) != keys(want) {
			select {
			case e, ok := <-r.events:
				if !ok || e.err != nil {
					k.broken("watch %d ended with the error %v", n, e.err)
				}
				r.set = e.snapshot.Instances
			case <-deadline:
				k.broken("%v after the last change, watch %d stands at another set: %s", k.Patience, n, diffSets(want, r.set))
			}
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func watchWholeSets(k *check) {
	d := k.open()
	w := k.watcher(d)
	p := k.publisher(k.open())
	var h history
	h.record(nil)
	since := k.list(d, service)
	events, _ := k.watch(w, service, since)
	written := make(chan struct{})
	k.Cleanup(func() { <-written })
	go func() {
		defer close(written)
		h.write(k, p, historySize)
	}()
	last, revision := 0, since.Revision
	for {
		e, ok := k.next(events, k.Patience)
		if !ok || e.err != nil {
			k.broken("the watch ended with the error %v", e.err)
		}
		n, known := h.at(e.snapshot.Instances)
		switch {
		case !known:
			k.broken("a set of %d instances was yielded that never was, after state %d of the history: %s",
				len(e.snapshot.Instances), last, keys(e.snapshot.Instances))
		case n < last:
			k.broken("state %d of the history was yielded after state %d", n, last)
		case revision != 0 && e.snapshot.Revision <= revision:
			k.broken("revision %d was yielded after revision %d", e.snapshot.Revision, revision)
		}
		last, revision = n, e.snapshot.Revision
		if last == historySize+historySize/2 { // the last of all
			return
		}
	}
}

func watchCancelled(k *check) {
	d := k.open()
	w := k.watcher(d)
	ctx, cancel := context.WithCancel(k.Context())
	defer cancel()
	since := k.list(d, service)
	done := make(chan error, 1)
	go func() {
		var last error
		for _, err := range w.Watch(ctx, driver.Query{Service: service}, since) {
			last = err
		}
		done <- last
	}()
	// Whether the watch has already begun makes no difference to what is promised.
	k.sleep(5 * pollEvery)
	cancel()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, context.Canceled) {
			k.broken("it ended with the error %v, which is not the context's", err)
		}
	case <-time.After(prompt):
		k.broken("%v after its context was cancelled it goes on", prompt)
	}
}

func watchCompacted(k *check) {
	k.needs("Compact", k.Compact != nil)
	d := k.open()
	w := k.watcher(d)
	p := k.publisher(k.open())
	first := p.put(instance(service, 0))
	k.eventually(d, service, "one instance was published", first...)
	since := k.list(d, service)
	second := p.put(instance(service, 1))
	k.eventually(d, service, "a second instance was published", slices.Concat(first, second)...)
	k.Compact(k)
	events, _ := k.watch(w, service, since)
	e, ok := k.next(events, k.Patience)
	switch {
	case !ok:
		k.broken("it ended without an error")
	case !errors.Is(e.err, driver.ErrCompacted):
		k.broken("it yielded %d instances and the error %v", len(e.snapshot.Instances), e.err)
	case len(e.snapshot.Instances) > 0:
		k.broken("it yielded %d instances with the error", len(e.snapshot.Instances))
	}
	if _, more := k.next(events, k.Patience); more {
		k.broken("it went on after ErrCompacted")
	}
}

func watchOutage(k *check) {
	k.needs("Stop and Start", k.Stop != nil)
	d := k.open()
	w := k.watcher(d)
	p := k.publisher(k.open())
	all := p.put(instance(service, 0), instance(service, 1))
	k.eventually(d, service, "two instances were published", all...)
	events, _ := k.watch(w, service, k.list(d, service))
	k.Stop(k)
	over := false
	// Less than a TTL: nothing may have expired.
	for quiet := time.After(k.SessionTTL / 4); !over; {
		select {
		case e, ok := <-events:
			switch {
			case !ok:
				over = true
			case e.err != nil && len(e.snapshot.Instances) > 0:
				k.broken("the error %q came with %d instances", e.err, len(e.snapshot.Instances))
			case e.err == nil && diffSets(all, e.snapshot.Instances) != "":
				k.broken("while the provider was stopped, a set was yielded that never was: %s", diffSets(all, e.snapshot.Instances))
			}
			continue
		case <-quiet:
		}
		break
	}
	k.Start(k)
	// The sessions may or may not have outlived the outage; a session of its own
	// makes the set known again.
	r := &publisher{k: k}
	if p.s != nil {
		r = k.publisher(k.open())
		r.put(all...)
	}
	all = append(all, r.put(instance(service, 2))...)
	k.until(w, d, events, service, "the provider was back and a third instance published", all...)
}

func watchExpiry(k *check) {
	d := k.open()
	w := k.watcher(d)
	mortal := k.session(k.open())
	stay, gone := instance(service, 0), instance(service, 1)
	k.register(k.liveSession(k.open()), stay)
	k.register(mortal, gone)
	since := k.list(d, service)
	events, _ := k.watch(w, service, since)
	if k.ExpireSession != nil {
		k.ExpireSession(k, mortal)
	}
	k.until(w, d, events, service, "a session ended", stay)
}
