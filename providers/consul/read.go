package consul

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul/internal/registration"
)

// waitTime is how long a query waits for a change. Consul adds up to a sixteenth.
const waitTime = 5 * time.Minute

// reading says what is read.
type reading struct {
	dc    string
	index uint64 // 0, or the one after which a change is waited for
	exact bool   // whatever is configured, a majority makes sure of it; it is not one that readers see
}

// reply is what one datacenter has of a service.
type reply struct {
	index   uint64            // of the service in that datacenter
	passing []driver.Instance // all of whose checks pass, and our own
	failing []driver.Instance // of which some check does not pass
	skipped []driver.Skipped

	own      []string // the IDs of what is our own
	ours     int      // how many of passing are
	heldKeys keySet   // of sessions that hang on keys, nil if there are none
	orphans  []orphan // what such sessions have left behind
}

// read reads what one datacenter has of a service.
func (d *Driver) read(ctx context.Context, service string, r reading) (reply, error) {
	ctx, cancel := d.call(ctx)
	defer cancel()
	if d.kv != nil {
		return d.readKeys(ctx, service, r)
	}
	request := question{what: "list service " + service, needs: `service "` + service + `" and node_prefix "" read`}
	entries, index, err := ask(ctx, d, request.in(r.dc), d.query(ctx, r), func(q *api.QueryOptions) ([]*api.ServiceEntry, *api.QueryMeta, error) {
		return d.client.Health().Service(service, "", false, q)
	})
	if err != nil {
		return reply{}, err
	}
	// After the entries: a session whose key is not there now has ended for good.
	alive, err := d.keysHeldFor(ctx, r.dc, entries)
	if err != nil {
		return reply{}, err
	}
	all := d.sortEntries(entries, index, alive)
	if !r.exact {
		d.noteShown(service, r.dc, all.own)
	}
	return all, nil
}

// query returns the options of a reading.
func (d *Driver) query(ctx context.Context, r reading) *api.QueryOptions {
	q := &api.QueryOptions{Datacenter: r.dc, WaitIndex: r.index}
	if r.index > 0 {
		q.WaitTime = waitWithin(ctx, waitTime)
	}
	switch {
	case r.exact, d.config.Consistency == Consistent:
		q.RequireConsistent = true
	case d.config.Consistency == Stale:
		q.AllowStale = true
	}
	return q.WithContext(ctx)
}

// sortEntries sorts entries by health, and leaves out those of sessions that have ended.
func (d *Driver) sortEntries(entries []*api.ServiceEntry, index uint64, alive keySet) reply {
	r := reply{index: index, heldKeys: alive}
	// Of an instance that is on several nodes, what was written last.
	entries = slices.SortedFunc(slices.Values(entries), func(a, b *api.ServiceEntry) int {
		return cmp.Compare(b.Service.ModifyIndex, a.Service.ModifyIndex)
	})
	seen, ids := make(map[string]bool), make(map[string]int)
	for _, entry := range entries {
		ids[entry.Service.ID]++ // an ID is unique to its node
	}
	for _, entry := range entries {
		skip := func(reason error) {
			r.skipped = append(r.skipped, driver.Skipped{Key: entry.Node.Node + "/" + entry.Service.ID, Reason: reason})
		}
		h := registration.HealthOf(entry)
		if key := entry.Service.Meta[registration.LivenessMeta]; key != "" {
			if err := d.isReadable(key); err != nil {
				skip(err)
				continue
			}
			if !alive[key] {
				if g, err := d.orphanOf(entry); err != nil {
					skip(err)
				} else {
					r.orphans = append(r.orphans, g)
				}
				continue
			}
		}
		if h == registration.Ended {
			continue
		}
		i, err := registration.Decode(entry, ids[entry.Service.ID] > 1)
		if err != nil {
			skip(err)
			continue
		}
		session := registration.SessionOf(entry)
		own := d.isOwn(session)
		if own {
			r.own = append(r.own, entry.Service.ID)
		}
		if session != "" && seen[i.Key()] {
			continue
		}
		seen[i.Key()] = true
		if own {
			r.ours++
		}
		if h == registration.Passing || own {
			r.passing = append(r.passing, i)
		} else {
			r.failing = append(r.failing, i)
		}
	}
	return r
}

// snapshot puts together what the datacenters have: with healthy_only, those that pass
// apart from those that fail.
func (d *Driver) snapshot(service string, replies []reply) driver.Snapshot {
	keyed := false
	s := driver.Snapshot{Instances: []driver.Instance{}}
	for _, r := range replies {
		s.Revision += driver.Revision(r.index)
		s.Instances = append(s.Instances, r.passing...)
		if d.config.HealthyOnly {
			s.Failing = append(s.Failing, r.failing...)
		} else {
			s.Instances = append(s.Instances, r.failing...)
		}
		s.Own += r.ours
		s.Skipped = append(s.Skipped, r.skipped...)
		keyed = keyed || r.heldKeys != nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keyed[service] = keyed
	return s
}

// usesKeys reports whether some sessions of a service hung on keys when it was read
// last, and whether it was read.
func (d *Driver) usesKeys(service string) (keyed, read bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	keyed, read = d.keyed[service]
	return keyed, read
}

// noteShown notes what readers of a datacenter saw last of our own.
func (d *Driver) noteShown(service, dc string, own []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shown[service] == nil {
		d.shown[service] = make(map[string][]string)
	}
	d.shown[service][dc] = own
}

// isMissing reports whether the service was read and the ID of our own was not there.
func (d *Driver) isMissing(service, id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, own := range d.shown[service] {
		if slices.Contains(own, id) {
			return false
		}
	}
	return len(d.shown[service]) > 0
}

// A process knows that it is there, whatever a check says of it. If it did not see
// itself, its registrar would register it again and again.
func (d *Driver) isOwn(session string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.own[session]
}

func (d *Driver) setOwn(session string, own bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if own {
		d.own[session] = true
	} else {
		delete(d.own, session)
	}
}
