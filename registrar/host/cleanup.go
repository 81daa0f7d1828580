package host

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
)

// Between two searches pass so many resyncs, since each lists every service that there
// is. What is left behind with a TTL goes by itself.
const resyncsPerCleanup = 10

// What is taken away was seen in two searches, the same. After a start the second comes
// soon, or after a resync if that is sooner.
const secondSearch = 5 * time.Second

// listTimeout bounds the reading of one service in a search.
const listTimeout = 5 * time.Second

// ownID is the form of an id that tells the host and the container: that of
// gliderlabs/registrator, and Muster's, which differs in that it knows sctp.
var ownID = regexp.MustCompile(`^(.+?):([a-zA-Z0-9][a-zA-Z0-9_.-]+):[0-9]+(?::(?:udp|sctp))?$`)

// containerOf returns the name of the container that id is of, if it is one of this host
// and of the form that tells.
func containerOf(hostname, id string) (name string, ok bool) {
	parts := ownID.FindStringSubmatch(id)
	if parts == nil || parts[1] != hostname {
		return "", false
	}
	return parts[2], true
}

// suspects are what a search has found to be left behind, by service and id.
type suspects map[[2]string]discovery.Instance

// cleanUp takes away what was left behind in one provider: once all that runs is known,
// and again on a timer.
func (r *Registrar) cleanUp(ctx context.Context, o *target) {
	if !o.registry.CanRegister() {
		return
	}
	retry := backoff.Backoff{Min: time.Second, Max: time.Minute}
	var found suspects // nil before the first search
	for {
		first := found == nil
		now, err := r.search(ctx, o, found)
		if ctx.Err() != nil {
			return
		}
		if now != nil {
			found = now
		}
		o.mu.Lock()
		o.err = err
		o.mu.Unlock()
		period := resyncsPerCleanup * r.config.Resync
		wait := period - period/10 + rand.N(period/5+1)
		switch {
		case errors.Is(err, driver.ErrUnsupported):
			r.log.Info("no cleanup with this provider", "provider", o.registry.Name(), "error", err)
			return
		case err != nil:
			r.alarms.Raise(cleanupFails, o.registry.Name(), "error", err)
			// Two searches are no closer together than after a start.
			wait = max(retry.Next(), min(secondSearch, r.config.Resync))
		default:
			r.alarms.Clear(cleanupFails, o.registry.Name())
			retry.Reset()
			if first {
				wait = min(secondSearch, r.config.Resync)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// search looks for what was left behind, and takes away what the search before has found,
// too, and just so: what others are about to remove or to write again is none of that. What
// it found is worth something beside an error, too.
func (r *Registrar) search(ctx context.Context, o *target, before suspects) (suspects, error) {
	for range r.watcher.Watch(ctx) {
		if r.watcher.View().Complete() {
			break
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	services, err := o.registry.Services(ctx)
	if err != nil {
		return nil, err
	}
	now := make(suspects)
	var again []discovery.Instance
	declared := r.declared(o)
	var errs []error // of services, each of which keeps none of the others
	for _, service := range services {
		if slices.Contains(r.config.Spared, service) {
			continue
		}
		found, err := r.list(ctx, o, service)
		if err != nil {
			errs = append(errs, fmt.Errorf("list %s: %w", service, err))
			for key, i := range before {
				if key[0] == service {
					now[key] = i // not known to be gone
				}
			}
			continue
		}
		instances, _ := found.Instances() // known: a list that is not is an error
		for _, i := range instances {
			if !r.isLeft(o, declared, i) {
				continue
			}
			key := [2]string{i.Service, i.InstanceID}
			now[key] = i
			if was, found := before[key]; found && reflect.DeepEqual(was, i) {
				again = append(again, i)
			}
		}
	}
	for _, i := range again {
		if !r.isLeft(o, declared, i) {
			continue // it has become desired while the other services were listed
		}
		if err := r.evict(o, i); err != nil {
			errs = append(errs, fmt.Errorf("take %s of %s away: %w", i.InstanceID, i.Service, err))
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, again := range o.evicted {
		if _, here := now[key]; again && !here {
			r.alarms.Clear(keptByOthers, keptSubject(o, key))
		}
	}
	o.kept = nil
	for key, i := range now {
		if o.evicted[key] {
			o.kept = append(o.kept, i)
		}
	}
	return now, errors.Join(errs...)
}

// list reads one service in a bounded time, after which the next one has its turn.
func (r *Registrar) list(ctx context.Context, o *target, service string) (discovery.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	return o.registry.List(ctx, discovery.Query{Service: service})
}

// isLeft reports whether i is of a container of this host that is gone, where declared has
// what is seen of the services of the configuration.
func (r *Registrar) isLeft(o *target, declared map[[2]string]bool, i discovery.Instance) bool {
	hostname := r.config.Rules.Hostname
	name, own := containerOf(hostname, i.InstanceID)
	if !own {
		return false
	}
	// A node that is named as its host, as it is by default if its id is HOST:NODE:PORT.
	if name == hostname && i.NodeID == name {
		return false
	}
	// A service whose check has not passed yet may be kept by a predecessor meanwhile.
	if o.isDesired(i) || declared[keyOf(i)] {
		o.mu.Lock()
		delete(o.evicted, [2]string{i.Service, i.InstanceID})
		o.mu.Unlock()
		return false
	}
	// As they are now: the container may have been started since the services were listed.
	v := r.watcher.View()
	return v.Complete() && !v.Has(name)
}

// How often it is looked for what registrars of this host have left behind that were killed:
// often after the start, as the predecessor's session may be about to end, and then with each
// search.
const (
	reclaimEvery = 10 * time.Second
	reclaimOften = 5 * time.Minute
)

// reclaim removes what sessions that are over have left behind under the name of this host,
// where the provider keeps such for a while.
func (r *Registrar) reclaim(ctx context.Context, o *target) {
	if !o.registry.CanRegister() {
		return
	}
	wait := time.Second // by then most of what runs here is known, and registered again
	for start := time.Now(); ; {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		gone, err := o.registry.Reclaim(ctx, func(i discovery.Instance) bool { return r.wasOurs(i) && !o.isDesired(i) })
		if ctx.Err() != nil {
			return
		}
		o.mu.Lock()
		o.reclaimErr = err
		o.evictions += uint64(len(gone))
		o.mu.Unlock()
		if err != nil {
			r.alarms.Raise(reclaimFails, o.registry.Name(), "provider", o.registry.Name(), "error", err)
		} else {
			r.alarms.Clear(reclaimFails, o.registry.Name())
		}
		for _, i := range gone {
			r.log.Info("taken away what a registrar of this host has left behind that is gone",
				"provider", o.registry.Name(), "service", i.Service, "instance_id", i.InstanceID, "addr", i.Addr)
		}
		wait = reclaimEvery
		if time.Since(start) > reclaimOften {
			wait = max(wait, resyncsPerCleanup*r.config.Resync)
		}
	}
}

// random is the form of the instance ids that nodes give themselves at each start.
var random = regexp.MustCompile(`^[0-9a-f]{32}$`)

// wasOurs reports whether a registrar of this host has registered i, and not a node.
func (r *Registrar) wasOurs(i discovery.Instance) bool {
	return i.NodeID == r.config.Rules.Hostname && !random.MatchString(i.InstanceID) && !slices.Contains(r.config.Spared, i.Service)
}

// evict takes i away, once.
func (r *Registrar) evict(o *target, i discovery.Instance) error {
	key := [2]string{i.Service, i.InstanceID}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch again, before := o.evicted[key]; {
	case again:
		return nil
	case before:
		o.evicted[key] = true
		r.alarms.Raise(keptByOthers, keptSubject(o, key), "service", i.Service, "instance_id", i.InstanceID, "addr", i.Addr,
			"hint", hintOfKept(r.config.Rules.Hostname))
		return nil
	}
	if err := o.Evict(i); err != nil {
		return err
	}
	o.evicted[key] = false
	o.evictions++
	r.log.Info("taking away what a container has left behind that is gone",
		"provider", o.registry.Name(), "service", i.Service, "instance_id", i.InstanceID, "addr", i.Addr)
	return nil
}
