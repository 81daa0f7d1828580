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
func (r *Registrar) cleanUp(ctx context.Context, o *outlet) {
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
		o.mu.Lock()
		known := o.err != nil
		o.err = err
		o.mu.Unlock()
		period := resyncsPerCleanup * r.config.Resync
		wait := period - period/10 + rand.N(period/5+1)
		switch {
		case errors.Is(err, driver.ErrUnsupported):
			r.log.Warn("cannot clean up", "provider", o.registry.Name(), "error", err)
			return
		case err != nil:
			if !known {
				r.log.Warn("cannot clean up, will retry", "provider", o.registry.Name(), "error", err)
			}
			wait = retry.Next()
		default:
			retry.Reset()
			found = now
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
// too, and just so: what others are about to remove or to write anew is none of that.
func (r *Registrar) search(ctx context.Context, o *outlet, before suspects) (suspects, error) {
	for range r.watcher.Watch(ctx) {
		if _, known := r.containerNames(); known {
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
	for _, service := range services {
		if slices.Contains(r.config.Spared, service) {
			continue
		}
		found, err := o.registry.List(ctx, discovery.Query{Service: service})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", service, err)
		}
		for _, i := range found.Instances {
			if !r.isLeft(o, i) {
				continue
			}
			key := [2]string{i.Service, i.InstanceID}
			now[key] = i
			if was, again := before[key]; !again || !reflect.DeepEqual(was, i) {
				continue
			}
			if err := r.evict(o, i); err != nil {
				return nil, err
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = nil
	for key, i := range now {
		if o.evicted[key] {
			o.kept = append(o.kept, i)
		}
	}
	return now, nil
}

// isLeft reports whether i is of a container of this host that is gone.
func (r *Registrar) isLeft(o *outlet, i discovery.Instance) bool {
	hostname := r.config.Rules.Hostname
	name, own := containerOf(hostname, i.InstanceID)
	if !own {
		return false
	}
	// A node that is named as its host, as it is by default, where its id is HOST:NODE:PORT.
	if name == hostname && i.NodeID == name {
		return false
	}
	// A service whose check has not passed yet may be kept by a predecessor meanwhile.
	if r.isDesired(o, i) || r.isDeclared(o, i) {
		o.mu.Lock()
		delete(o.evicted, [2]string{i.Service, i.InstanceID})
		o.mu.Unlock()
		return false
	}
	// As they are now: the container may have been started since the services were listed.
	running, known := r.containerNames()
	return known && !running[name]
}

// evict takes i away, once.
func (r *Registrar) evict(o *outlet, i discovery.Instance) error {
	key := [2]string{i.Service, i.InstanceID}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch again, before := o.evicted[key]; {
	case again:
		return nil
	case before:
		o.evicted[key] = true
		r.log.Warn("what was taken away has come back, so that somebody else keeps it registered; it is left alone",
			"provider", o.registry.Name(), "service", i.Service, "instance_id", i.InstanceID, "addr", i.Addr, "mend", mendOfKept(r.config.Rules.Hostname))
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
