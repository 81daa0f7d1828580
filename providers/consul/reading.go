package consul

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
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
	failing []driver.Instance // that some check finds unwell
	skipped []driver.Skipped

	own   []string // the IDs of what is our own
	peers bool     // whether an instance passes that is not our own
	alive liveness // of sessions that hang on keys, nil if there are none
	dead  []grave  // what such sessions have left behind
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
	alive, err := d.livesOf(ctx, r.dc, entries)
	if err != nil {
		return reply{}, err
	}
	all := d.sort(entries, index, alive)
	if !r.exact {
		d.show(service, r.dc, all.own)
	}
	return all, nil
}

// query returns the options of a reading.
func (d *Driver) query(ctx context.Context, r reading) *api.QueryOptions {
	q := &api.QueryOptions{Datacenter: r.dc, WaitIndex: r.index}
	if r.index > 0 {
		q.WaitTime = waitTime
	}
	switch {
	case r.exact, d.config.Consistency == Consistent:
		q.RequireConsistent = true
	case d.config.Consistency == Stale:
		q.AllowStale = true
	}
	return q.WithContext(ctx)
}

// sort tells the living from the dead, and those who are well from those who are not.
func (d *Driver) sort(entries []*api.ServiceEntry, index uint64, alive liveness) reply {
	r := reply{index: index, alive: alive}
	// Of an instance that stands on several nodes, what was written last.
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
		h := healthOf(entry)
		if key := entry.Service.Meta[metaAlive]; key != "" {
			if err := d.readable(key); err != nil {
				skip(err)
				continue
			}
			if !alive[key] {
				if g, err := d.graveOf(entry); err != nil {
					skip(err)
				} else {
					r.dead = append(r.dead, g)
				}
				continue
			}
		}
		if h == gone {
			continue
		}
		i, err := decode(entry, ids[entry.Service.ID] > 1)
		if err != nil {
			skip(err)
			continue
		}
		session := entry.Service.Meta[metaSession]
		own := d.isOwn(session)
		if own {
			r.own = append(r.own, entry.Service.ID)
		}
		if session != "" && seen[i.Key()] {
			continue
		}
		seen[i.Key()] = true
		r.peers = r.peers || h == passing && !own
		if h == passing || own {
			r.passing = append(r.passing, i)
		} else {
			r.failing = append(r.failing, i)
		}
	}
	return r
}

// memory is what the driver remembers of a service.
type memory struct {
	settled bool // a peer was seen to pass
	keyed   bool // some sessions hung on keys at the last reading
}

// snapshot puts together what the datacenters have.
//
// With healthy_only it has those that pass. When everybody starts at once nobody does
// yet, and nobody would if that takes the others: so those that fail are shown as
// well in the first snapshot, and until a peer was seen to pass.
func (d *Driver) snapshot(service string, replies []reply) driver.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	had := d.services[service]
	now := memory{settled: had.settled}
	s := driver.Snapshot{Instances: []driver.Instance{}}
	for _, r := range replies {
		s.Revision += driver.Revision(r.index)
		s.Instances = append(s.Instances, r.passing...)
		if !d.config.HealthyOnly || !had.settled {
			s.Instances = append(s.Instances, r.failing...)
		}
		s.Skipped = append(s.Skipped, r.skipped...)
		now.settled = now.settled || r.peers
		now.keyed = now.keyed || r.alive != nil
	}
	d.services[service] = now
	return s
}

// remembered returns what is known of a service from before, if anything is.
func (d *Driver) remembered(service string) (memory, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, ok := d.services[service]
	return m, ok
}

// show notes what readers of a datacenter saw last of our own.
func (d *Driver) show(service, dc string, own []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shown[service] == nil {
		d.shown[service] = make(map[string][]string)
	}
	d.shown[service][dc] = own
}

// lacks reports whether the service was read and the ID of our own was not there.
func (d *Driver) lacks(service, id string) bool {
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
