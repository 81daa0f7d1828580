package host

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// cleanUp takes away what was left behind in one provider: once all that runs is known,
// and again on a timer.
func (r *Registrar) cleanUp(ctx context.Context, o *outlet) {
	if !o.registry.CanRegister() {
		return
	}
	retry := backoff.Backoff{Min: time.Second, Max: time.Minute}
	for {
		err := r.cleanUpOnce(ctx, o)
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

func (r *Registrar) cleanUpOnce(ctx context.Context, o *outlet) error {
	for range r.watcher.Watch(ctx) {
		if _, known := r.containerNames(); known {
			break
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	services, err := o.registry.Services(ctx)
	if err != nil {
		return err
	}
	for _, service := range services {
		if slices.Contains(r.config.Spared, service) {
			continue
		}
		found, err := o.registry.List(ctx, discovery.Query{Service: service})
		if err != nil {
			return fmt.Errorf("list %s: %w", service, err)
		}
		for _, i := range found.Instances {
			if err := r.evict(o, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// evict takes i away if it is of a container of this host that is gone.
func (r *Registrar) evict(o *outlet, i discovery.Instance) error {
	name, own := containerOf(r.config.Rules.Hostname, i.InstanceID)
	if !own {
		return nil
	}
	key := [2]string{i.Service, i.InstanceID}
	o.mu.Lock()
	defer o.mu.Unlock()
	// A service whose check has not passed yet may be kept by a predecessor meanwhile.
	if r.isDesired(o, i) || r.isDeclared(o, i) {
		delete(o.evicted, key)
		return nil
	}
	// As they are now: the container may have been started since the services were listed.
	running, known := r.containerNames()
	if !known || running[name] {
		return nil
	}
	switch again, before := o.evicted[key]; {
	case again:
		return nil
	case before:
		o.evicted[key] = true
		r.log.Warn("what was taken away has come back, so that somebody else keeps it registered; it is left alone",
			"provider", o.registry.Name(), "service", i.Service, "instance_id", i.InstanceID, "addr", i.Addr)
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
