package discoverytest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// memoryCluster is what the provider keeps of one cluster.
type memoryCluster struct {
	version   uint64 // counts what Observe shows
	term      driver.Term
	clusterID string
	grant     *memoryGrant // the one that stands
	records   map[string]driver.Record
}

// memoryGrant is what a Grant's Token points to.
type memoryGrant struct {
	holder  driver.Holder
	expires time.Time
	timer   *time.Timer
}

func (m *Memory) cluster(name string) *memoryCluster {
	c, ok := m.clusters[name]
	if !ok {
		c = &memoryCluster{records: make(map[string]driver.Record)}
		m.clusters[name] = c
	}
	return c
}

func (c *memoryCluster) wipe() {
	c.vacate()
	c.version++
	c.term, c.clusterID = 0, ""
	clear(c.records)
}

func (c *memoryCluster) vacate() {
	if c.grant != nil {
		c.grant.timer.Stop()
		c.grant = nil
		c.version++
	}
}

// standing returns the grant that is valid now.
func (c *memoryCluster) standing() *memoryGrant {
	if c.grant != nil && !time.Now().Before(c.grant.expires) {
		c.vacate()
	}
	return c.grant
}

// ExpireMastership ends the grant of cluster now, whoever holds it. It breaks the
// promise that a grant is valid for ValidFor: it is for tests of what a holder
// does once it is told.
func (m *Memory) ExpireMastership(cluster string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cluster(cluster).vacate()
	m.touch(nil)
}

func (d *memoryDriver) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.Cluster == "" || o.TTL < 0 {
		return nil, fmt.Errorf("%w: authority of cluster %q with TTL %v", driver.ErrInvalid, o.Cluster, o.TTL)
	}
	if o.TTL == 0 {
		o.TTL = memoryTTL
	}
	return &memoryAuthority{d: &memoryDriver{m: d.m, closed: make(chan struct{})}, parent: d, o: o}, nil
}

// memoryAuthority is closed apart from the driver that it was opened by, and so
// has a client of its own.
type memoryAuthority struct {
	d      *memoryDriver
	parent *memoryDriver
	o      driver.AuthorityOptions
	once   sync.Once
}

func (a *memoryAuthority) enter(ctx context.Context) (*memoryCluster, error) {
	select {
	case <-a.parent.closed:
		return nil, errDriverClosed
	default:
	}
	if err := a.d.enter(ctx); err != nil {
		return nil, err
	}
	return a.d.m.cluster(a.o.Cluster), nil
}

func (a *memoryAuthority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	cluster, err := a.enter(ctx)
	if err != nil {
		return driver.Grant{}, err
	}
	m := a.d.m
	defer m.mu.Unlock()
	if c.Known && cluster.clusterID != "" && cluster.clusterID != c.ClusterID {
		return driver.Grant{}, fmt.Errorf("%w: recorded is %q, claimed %q", driver.ErrClusterMismatch, cluster.clusterID, c.ClusterID)
	}
	g := cluster.standing()
	if g != nil && g.holder.InstanceID != c.Holder.InstanceID {
		return driver.Grant{}, fmt.Errorf("%w: %s is master", driver.ErrConflict, g.holder.InstanceID)
	}
	if g == nil || cluster.term <= c.MinTerm {
		cluster.vacate()
		cluster.term = max(cluster.term, c.MinTerm) + 1
		if cluster.clusterID == "" {
			cluster.clusterID = c.ClusterID
		}
		g = &memoryGrant{holder: c.Holder}
		g.holder.AppAddrs = maps.Clone(c.Holder.AppAddrs)
		cluster.grant = g
		cluster.version++
	}
	m.extend(cluster, g, a.o.TTL)
	m.touch(nil)
	if err := m.answered(); err != nil {
		return driver.Grant{}, err
	}
	return a.granted(cluster, g), nil
}

// extend wants the lock held.
func (m *Memory) extend(c *memoryCluster, g *memoryGrant, ttl time.Duration) {
	if g.timer != nil {
		g.timer.Stop()
	}
	g.expires = time.Now().Add(ttl)
	g.timer = time.AfterFunc(ttl, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		c.standing()
		m.touch(nil)
	})
}

func (a *memoryAuthority) granted(c *memoryCluster, g *memoryGrant) driver.Grant {
	return driver.Grant{Term: c.term, ClusterID: c.clusterID, ValidFor: a.o.TTL, Token: g}
}

// RehearseClaim has nothing to try, as Rehearse has not.
func (a *memoryAuthority) RehearseClaim(ctx context.Context) error {
	if _, err := a.enter(ctx); err != nil {
		return err
	}
	a.d.m.mu.Unlock()
	return nil
}

func (a *memoryAuthority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	cluster, err := a.enter(ctx)
	if err != nil {
		return driver.Grant{}, err
	}
	defer a.d.m.mu.Unlock()
	standing := cluster.standing()
	if standing == nil || standing != g.Token || cluster.term != g.Term {
		return driver.Grant{}, driver.ErrSessionLost
	}
	a.d.m.extend(cluster, standing, a.o.TTL)
	if err := a.d.m.answered(); err != nil {
		return driver.Grant{}, err
	}
	return a.granted(cluster, standing), nil
}

func (a *memoryAuthority) Release(ctx context.Context, g driver.Grant) error {
	cluster, err := a.enter(ctx)
	if err != nil {
		return err
	}
	defer a.d.m.mu.Unlock()
	if standing := cluster.standing(); standing != nil && standing == g.Token {
		cluster.vacate()
		a.d.m.touch(nil)
	}
	return a.d.m.answered()
}

func (a *memoryAuthority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		var seen uint64
		for first := true; ; first = false {
			cluster, err := a.enter(ctx)
			if err != nil {
				if ctx.Err() == nil {
					yield(driver.Mastership{}, err)
				}
				return
			}
			cluster.standing()
			version, changed := cluster.version, a.d.m.changed
			state := driver.Mastership{Term: cluster.term, ClusterID: cluster.clusterID}
			if cluster.grant != nil {
				holder := cluster.grant.holder
				holder.AppAddrs = maps.Clone(holder.AppAddrs)
				state.Holder = &holder
			}
			a.d.m.mu.Unlock()
			if first || version != seen {
				seen = version
				if !yield(state, nil) {
					return
				}
				continue
			}
			select {
			case <-changed:
			case <-a.d.closed:
			case <-a.parent.closed:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (a *memoryAuthority) Close(context.Context) error {
	a.once.Do(func() { a.d.Close() })
	return nil
}

func (a *memoryAuthority) Get(ctx context.Context, key string) (driver.Record, error) {
	cluster, err := a.enter(ctx)
	if err != nil {
		return driver.Record{}, err
	}
	defer a.d.m.mu.Unlock()
	r, ok := cluster.records[key]
	if !ok {
		return driver.Record{}, fmt.Errorf("%w: record %q", driver.ErrNotFound, key)
	}
	r.Value = slices.Clone(r.Value)
	return r, nil
}

func (a *memoryAuthority) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	if len(value) > driver.MaxRecordSize {
		return 0, fmt.Errorf("%w: record %q has %d bytes, more than %d", driver.ErrInvalid, key, len(value), driver.MaxRecordSize)
	}
	cluster, err := a.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer a.d.m.mu.Unlock()
	if have := cluster.records[key].Revision; have != prev {
		return 0, fmt.Errorf("%w: record %q is at revision %d, not %d", driver.ErrConflict, key, have, prev)
	}
	revision := a.d.m.touch(nil)
	cluster.records[key] = driver.Record{Key: key, Value: append([]byte{}, value...), Revision: revision}
	if err := a.d.m.answered(); err != nil {
		return 0, err
	}
	return revision, nil
}

func (a *memoryAuthority) Delete(ctx context.Context, key string, prev driver.Revision) error {
	cluster, err := a.enter(ctx)
	if err != nil {
		return err
	}
	defer a.d.m.mu.Unlock()
	have, ok := cluster.records[key]
	switch {
	case !ok:
		return fmt.Errorf("%w: record %q", driver.ErrNotFound, key)
	case have.Revision != prev:
		return fmt.Errorf("%w: record %q is at revision %d, not %d", driver.ErrConflict, key, have.Revision, prev)
	}
	delete(cluster.records, key)
	a.d.m.touch(nil)
	return a.d.m.answered()
}

func (a *memoryAuthority) Records(ctx context.Context, prefix string) ([]driver.Record, error) {
	cluster, err := a.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer a.d.m.mu.Unlock()
	records := []driver.Record{}
	for _, key := range slices.Sorted(maps.Keys(cluster.records)) {
		if strings.HasPrefix(key, prefix) {
			r := cluster.records[key]
			r.Value = slices.Clone(r.Value)
			records = append(records, r)
		}
	}
	return records, nil
}
