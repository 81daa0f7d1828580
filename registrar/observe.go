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
	for _, e := range r.entries {
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
		if !s.Known || s.Stale || s.Err != nil {
			failing = true // an error says nothing about the set
			continue
		}
		r.compare(service, s)
		if failing {
			failing = false
			r.answersAgain()
		}
	}
}

// settling is how long after an instance was registered its readers may yet be told of
// what was before: a watch lags behind, and the agent of Consul that has confirmed
// tells the servers in its own time.
const settling = 500 * time.Millisecond

// compare finds the registrations that a fresh snapshot lacks or shows wrongly.
func (r *Registrar) compare(service string, s discovery.Snapshot) {
	shown := make(map[string]discovery.Instance, len(s.Instances))
	for _, i := range s.Instances {
		shown[i.Key()] = i
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	found := false
	for k, e := range r.entries {
		if k.service != service || !e.publishable() {
			continue
		}
		want := r.config.Registry.Reduce(e.instance)
		i, ok := shown[want.Key()]
		if ok && samePublished(i, want) {
			continue
		}
		e.doubts++
		if !e.registered || e.due {
			continue // it is on its way already
		}
		found = true
		bound := min(maxRetry, r.session.TTL/2)
		if !s.At.After(e.confirmed) || s.At.Before(e.since.Add(settling)) {
			// The snapshot may be the older one: ask, but draw no conclusion.
			e.doubt(now, bound)
			continue
		}
		e.contest(now, i.Addr)
		e.dispute(now, bound)
		switch {
		case !e.contested(now):
			r.log.Warn("registration missing or changed, will put it back", "service", service, "instance_id", k.id)
		case now.Sub(e.toldAt) >= contestTells:
			e.toldAt = now
			attrs := []any{"service", service, "instance_id", k.id, "addr", e.instance.Addr, "found", i.Addr}
			if mend := r.config.ContestedMend; mend != "" {
				attrs = append(attrs, "mend", mend)
			}
			r.log.Warn("somebody else registers the same id or takes it away, again and again", attrs...)
		}
	}
	if found {
		signal(r.kick)
		r.publish()
	}
}

// answersAgain ends the waits for the next try, after an outage.
func (r *Registrar) answersAgain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if e.err != nil {
			e.notBefore = time.Time{}
		}
	}
	signal(r.hurry)
	signal(r.kick)
}
