package memory

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

// cluster is what the provider keeps of one cluster.
type cluster struct {
	version   uint64 // counts what Observe shows
	term      driver.Term
	clusterID string
	grant     *grant // the one that stands
	ends      int    // how often one was ended before its time
	records   map[string]driver.Record
}

// grant is what a Grant's Token points to.
type grant struct {
	holder  driver.Holder
	expires time.Time
	ttl     time.Duration
	timer   *time.Timer
	ended   bool // before its time, so that it keeps others out all the same
}

func (m *Server) cluster(name string) *cluster {
	c, ok := m.clusters[name]
	if !ok {
		c = &cluster{records: make(map[string]driver.Record)}
		m.clusters[name] = c
	}
	return c
}

func (c *cluster) wipe() {
	c.vacate()
	c.version++
	c.term, c.clusterID = 0, ""
	clear(c.records)
}

func (c *cluster) vacate() {
	if c.grant != nil {
		c.grant.timer.Stop()
		c.grant = nil
		c.version++
	}
}

// standing returns the grant that keeps others out now.
func (c *cluster) standing() *grant {
	if c.grant != nil && !time.Now().Before(c.grant.expires) {
		c.vacate()
	}
	return c.grant
}

// ExpireMastership ends the grant of cluster now, of any holder. It breaks the
// promise that a grant is valid for ValidFor: it is for tests of what a holder
// does once it is told.
func (m *Server) ExpireMastership(cluster string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cluster(cluster).vacate()
	m.touch(nil)
}

// EndMastership ends the grant of cluster now, of any holder, as a provider does
// that loses what a grant stands on: the holder is told, and nobody else is granted
// before the grant would have expired. See ExpireMastership for one that does not wait.
func (m *Server) EndMastership(cluster string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.cluster(cluster)
	if g := c.standing(); g != nil && !g.ended {
		g.ended = true
		c.ends++
		c.version++
	}
	m.touch(nil)
}

func (d *client) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-d.closed:
		return nil, errDriverClosed
	default:
	}
	if o.Cluster == "" || o.TTL < 0 {
		return nil, fmt.Errorf("%w: authority of cluster %q with TTL %v", driver.ErrInvalid, o.Cluster, o.TTL)
	}
	if o.TTL == 0 {
		o.TTL = memoryTTL
	}
	return &authority{d: &client{m: d.m, closed: make(chan struct{}), faults: d.faults}, parent: d, o: o}, nil
}

// authority is closed apart from the driver that it was opened by, and so
// has a client of its own.
type authority struct {
	d      *client
	parent *client
	o      driver.AuthorityOptions
	once   sync.Once
}

func (a *authority) enter(ctx context.Context) (*cluster, error) {
	select {
	case <-a.parent.closed:
		return nil, errDriverClosed
	case <-a.d.closed:
		return nil, fmt.Errorf("memory: the authority is %w", driver.ErrClosed)
	default:
	}
	if err := a.d.enter(ctx); err != nil {
		return nil, err
	}
	return a.d.m.cluster(a.o.Cluster), nil
}

func (a *authority) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
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
	if g == nil || g.ended || cluster.term <= c.MinTerm {
		cluster.vacate()
		cluster.term = max(cluster.term, c.MinTerm) + 1
		if cluster.clusterID == "" {
			cluster.clusterID = c.ClusterID
		}
		g = &grant{holder: c.Holder}
		g.holder.AppAddrs = maps.Clone(c.Holder.AppAddrs)
		cluster.grant = g
		cluster.version++
	}
	m.extend(cluster, g, a.o.TTL)
	m.touch(nil)
	if err := a.d.answered(); err != nil {
		return driver.Grant{}, err
	}
	return a.granted(cluster, g), nil
}

// extend wants the lock held.
func (m *Server) extend(c *cluster, g *grant, ttl time.Duration) {
	if g.timer != nil {
		g.timer.Stop()
	}
	g.expires, g.ttl = time.Now().Add(ttl), ttl
	g.timer = time.AfterFunc(ttl, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		c.standing()
		m.touch(nil)
	})
}

func (a *authority) granted(c *cluster, g *grant) driver.Grant {
	return driver.Grant{Term: c.term, ClusterID: c.clusterID, ValidFor: a.o.TTL, Token: g}
}

// CheckClaimPermission has nothing to try, as CheckPermission has not.
func (a *authority) CheckClaimPermission(ctx context.Context) error {
	if _, err := a.enter(ctx); err != nil {
		return err
	}
	a.d.m.mu.Unlock()
	return nil
}

func (a *authority) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	cluster, err := a.enter(ctx)
	if err != nil {
		return driver.Grant{}, err
	}
	defer a.d.m.mu.Unlock()
	standing := cluster.standing()
	if standing == nil || standing.ended || standing != g.Token || cluster.term != g.Term {
		return driver.Grant{}, driver.ErrSessionLost
	}
	a.d.m.extend(cluster, standing, a.o.TTL)
	if err := a.d.answered(); err != nil {
		return driver.Grant{}, err
	}
	return a.granted(cluster, standing), nil
}

func (a *authority) Release(ctx context.Context, g driver.Grant) error {
	cluster, err := a.enter(ctx)
	if err != nil {
		return err
	}
	defer a.d.m.mu.Unlock()
	if standing := cluster.standing(); standing != nil && standing == g.Token {
		cluster.vacate()
		a.d.m.touch(nil)
	}
	return a.d.answered()
}

func (a *authority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
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
			if cluster.grant != nil && !cluster.grant.ended {
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

func (a *authority) Close(context.Context) error {
	a.once.Do(func() { a.d.Close() })
	return nil
}

func (a *authority) Get(ctx context.Context, key string) (driver.Record, error) {
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

func (a *authority) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
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
	if err := a.d.answered(); err != nil {
		return 0, err
	}
	return revision, nil
}

func (a *authority) Delete(ctx context.Context, key string, prev driver.Revision) error {
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
	return a.d.answered()
}

func (a *authority) Records(ctx context.Context, prefix string) ([]driver.Record, error) {
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

func (a *authority) WatchRecords(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
	return func(yield func([]driver.Record, error) bool) {
		var last []driver.Record
		for first := true; ; {
			_, err := a.enter(ctx)
			if err != nil {
				if ctx.Err() == nil {
					yield(nil, err)
				}
				return
			}
			changed := a.d.m.changed
			a.d.m.mu.Unlock()
			records, err := a.Records(ctx, prefix)
			if err != nil {
				if ctx.Err() == nil {
					yield(nil, err)
				}
				return
			}
			if first || !slices.EqualFunc(records, last, func(a, b driver.Record) bool { return a.Key == b.Key && a.Revision == b.Revision }) {
				first, last = false, records
				if !yield(records, nil) {
					return
				}
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
