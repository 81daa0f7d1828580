package registrar

import (
	"context"
	"time"

	"github.com/musterhq/muster/discovery"
)

// watchServices watches the services that have instances to publish, and no
// others. It wants the lock held.
func (r *Registrar) watchServices() {
	services := make(map[string]bool)
	for _, e := range r.entries.all {
		if e.publishable() {
			services[e.instance.Service] = true
		}
	}
	for service, cancel := range r.watching {
		if !services[service] {
			cancel()
			delete(r.watching, service)
		}
	}
	for service := range services {
		if _, ok := r.watching[service]; ok {
			continue
		}
		ctx, cancel := context.WithCancel(r.running)
		r.watching[service] = cancel
		r.watchers.Go(func() {
			defer cancel()
			r.observe(ctx, service)
		})
	}
}

// observe compares what readers of service see with what they should see.
func (r *Registrar) observe(ctx context.Context, service string) {
	failing := false
	for s := range r.config.Registry.Watch(ctx, discovery.Query{Service: service}) {
		instances, known := s.Instances()
		if !known || s.Stale || s.Err != nil {
			failing = true // an error says nothing about the set
			continue
		}
		r.compare(service, instances, s.At)
		r.rest(len(instances))
		if failing {
			failing = false
			r.answersAgain()
		}
	}
}

// A comparison costs as much as there are instances, and while they are registered there is one
// snapshot for each of them. After one of many, the next are taken as one.
const (
	manyInstances   = 100
	restPerInstance = 50 * time.Microsecond
)

// rest returns after a pause that goes with n, or when the Registrar is stopped.
func (r *Registrar) rest(n int) {
	if n < manyInstances {
		return
	}
	timer := time.NewTimer(time.Duration(n) * restPerInstance)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.running.Done():
	}
}

// settling is how long after an instance was registered its readers may not have learned yet
// what was before: a watch lags behind, and the agent of Consul that has confirmed
// tells the servers in its own time.
const settling = 500 * time.Millisecond

// compare finds the registrations that a set, which was read at, lacks or shows wrongly.
func (r *Registrar) compare(service string, instances []discovery.Instance, at time.Time) {
	shown := make(map[string]discovery.Instance, len(instances))
	for _, i := range instances {
		shown[i.Key()] = i
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	differ := false
	for k, e := range r.entries.services[service] {
		if !e.publishable() {
			continue
		}
		want := e.shown
		i, ok := shown[want.Key()]
		if e.contest.yielding {
			if !ok && e.contest.occupant == nil || ok && samePublished(i, want) {
				e.resume()
				differ = true
			}
			continue
		}
		if ok && samePublished(i, want) {
			r.alarms.Clear(differs, k.subject())
			continue
		}
		e.doubts++
		if !e.registered || e.next.due {
			continue // it is on its way already
		}
		differ = true
		bound := min(maxRetry, r.session.TTL/2)
		if !at.After(e.confirmed) || at.Before(e.since.Add(settling)) {
			// The snapshot may be the older one: ask, but draw no conclusion.
			e.doubt(now, bound)
			continue
		}
		found, rival := i, i.Addr
		if !ok && e.contest.occupant != nil {
			found, rival = *e.contest.occupant, e.contest.rival
		}
		e.contest.noteUndone(now, rival)
		e.dispute(now, bound)
		if rival != "" && e.contest.mustYield(now, want, found) {
			e.yield(now)
		}
		switch {
		case !e.contest.established(now):
			r.alarms.Raise(differs, k.subject(), "service", service, "instance_id", k.id, "addr", e.instance.Addr)
		default:
			r.reportContest(k, e)
		}
	}
	if differ {
		signal(r.notify)
		r.publish()
	}
}

// reportContest reports that somebody else registers the same. It wants the lock held.
func (r *Registrar) reportContest(k key, e *entry) {
	attrs := []any{"service", k.service, "instance_id", k.id, "addr", e.instance.Addr, "found", e.contest.rival, "yields", e.contest.yielding}
	if hint := r.config.ContestedHint; hint != "" {
		attrs = append(attrs, "hint", hint)
	}
	r.alarms.Raise(contested, k.subject(), attrs...)
	r.alarms.Clear(differs, k.subject())
}

// answersAgain ends the waits for the next try, after an outage.
func (r *Registrar) answersAgain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries.all {
		if e.err != nil && !e.contest.yielding {
			e.next.notBefore = time.Time{}
		}
	}
	signal(r.recovered)
	signal(r.notify)
}
