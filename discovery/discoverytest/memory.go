package discoverytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Memory is a provider in memory, for tests: it keeps the registrations, the
// sessions, the mastership and the records that a real one would keep on its
// servers. Its clients, made by Driver, implement every optional interface but
// driver.Reducer and driver.TTLBounder: it keeps all of an instance, and any TTL.
//
// It is deterministic: what a call changed, every later call sees. It starts no
// goroutine, and measures time with the time package alone, so that a test in a
// testing/synctest bubble lives through TTLs in no time. A Memory is to be made
// inside the bubble in which it is used.
//
// The other methods are what tests do to a provider: Fail, Delay, LoseResponses,
// and what happens behind a client's back. All methods are safe for concurrent
// use.
type Memory struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced by each change
	revision driver.Revision
	services map[string]*memoryService
	sessions map[*memorySession]bool
	clusters map[string]*memoryCluster

	fault    error
	delay    time.Duration
	lose     bool
	switched chan struct{} // closed and replaced by each change of a switch
}

type memoryService struct {
	revision  driver.Revision // of its last change
	compacted driver.Revision // changes up to this one are forgotten
	entries   map[string]memoryEntry
	garbage   []driver.Skipped
}

type memoryEntry struct {
	instance driver.Instance
	session  *memorySession // nil where Put wrote it
}

// NewMemory returns an empty provider.
func NewMemory() *Memory {
	return &Memory{
		changed:  make(chan struct{}),
		switched: make(chan struct{}),
		services: make(map[string]*memoryService),
		sessions: make(map[*memorySession]bool),
		clusters: make(map[string]*memoryCluster),
	}
}

// Driver returns a new client of the provider.
func (m *Memory) Driver() driver.Driver {
	return &memoryDriver{m: m, closed: make(chan struct{})}
}

// Fail makes every call of every client return err, before it has done anything,
// and ends the watches with it. Time goes on, and TTLs with it. Nil ends it.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = err
	m.flip()
}

// Delay makes every call take d, or until its context ends, before it does
// anything. 0 ends it, also for the calls that wait.
func (m *Memory) Delay(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = d
	m.flip()
}

// LoseResponses makes every call that changes something return
// driver.ErrUnavailable although it has done it.
func (m *Memory) LoseResponses(lose bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lose = lose
}

// Put registers instances on no session: they stay until Remove or Wipe.
func (m *Memory) Put(instances ...driver.Instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range instances {
		s := m.service(i.Service)
		s.entries[i.Key()] = memoryEntry{instance: clone(i)}
		m.touch(s)
	}
}

// Remove deletes the registration of i, whoever's it is.
func (m *Memory) Remove(i driver.Instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(i.Service, i.Key())
}

// AddGarbage puts an entry that cannot be read beside the registrations of
// service.
func (m *Memory) AddGarbage(service, key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.service(service)
	s.garbage = append(s.garbage, driver.Skipped{Key: service + "/" + key, Reason: errors.New("not an instance")})
	m.touch(s)
}

// ExpireSessions ends every session now, as if none had been renewed for its TTL.
func (m *Memory) ExpireSessions() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.sessions {
		m.end(s)
	}
}

// ExpireSession ends one session, made by any of the clients, now.
func (m *Memory) ExpireSession(s driver.Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := s.(*memorySession); ok {
		m.end(s)
	}
}

// Compact makes the provider forget the changes up to now: a Watch from an older
// revision gets driver.ErrCompacted. Running watches go on.
func (m *Memory) Compact() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.services {
		s.compacted = s.revision
	}
}

// Wipe forgets everything, terms and records and sessions too, as a provider does
// that comes back with an empty disk. Revisions go on rising.
func (m *Memory) Wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.sessions {
		m.end(s)
	}
	for _, s := range m.services {
		clear(s.entries)
		s.garbage = nil
		m.touch(s)
	}
	for _, c := range m.clusters {
		c.wipe()
	}
	m.touch(nil)
}

// The methods below want the lock held.

func (m *Memory) service(name string) *memoryService {
	s, ok := m.services[name]
	if !ok {
		s = &memoryService{entries: make(map[string]memoryEntry)}
		m.services[name] = s
	}
	return s
}

// touch makes a new revision, in which s changed, and wakes the watches.
func (m *Memory) touch(s *memoryService) driver.Revision {
	m.revision++
	if s != nil {
		s.revision = m.revision
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return m.revision
}

func (m *Memory) flip() {
	close(m.switched)
	m.switched = make(chan struct{})
	// Watches wait for changes of the data alone.
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Memory) remove(service, key string) {
	s := m.service(service)
	if _, ok := s.entries[key]; ok {
		delete(s.entries, key)
		m.touch(s)
	}
}

func (m *Memory) snapshot(q driver.Query) driver.Snapshot {
	s, ok := m.services[q.Service]
	if !ok {
		return driver.Snapshot{Revision: m.revision}
	}
	// The revision of the read, not of the last change: as etcd's header has it.
	snap := driver.Snapshot{Revision: m.revision, Skipped: slices.Clone(s.garbage)}
	for _, key := range slices.Sorted(maps.Keys(s.entries)) {
		snap.Instances = append(snap.Instances, clone(s.entries[key].instance))
	}
	return snap
}

func (m *Memory) end(s *memorySession) {
	if !m.sessions[s] {
		return
	}
	delete(m.sessions, s)
	s.timer.Stop()
	for _, service := range m.services {
		for key, e := range service.entries {
			if e.session == s {
				delete(service.entries, key)
				m.touch(service)
			}
		}
	}
}

// clone keeps clients from sharing maps and slices through the provider.
func clone(i driver.Instance) driver.Instance {
	i.Tags = slices.Clone(i.Tags)
	i.Meta = maps.Clone(i.Meta)
	i.AppAddrs = maps.Clone(i.AppAddrs)
	return i
}

// enter is the way of every call into the provider: the delay, then the fault,
// then the lock, with which it returns nil.
func (d *memoryDriver) enter(ctx context.Context) error {
	m := d.m
	start := time.Now()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.mu.Lock()
		select {
		case <-d.closed:
			m.mu.Unlock()
			return errDriverClosed
		default:
		}
		rest := m.delay - time.Since(start)
		if m.delay <= 0 || rest <= 0 {
			if m.fault != nil {
				defer m.mu.Unlock()
				return m.fault
			}
			return nil
		}
		switched := m.switched
		m.mu.Unlock()
		timer := time.NewTimer(rest)
		select {
		case <-timer.C:
		case <-switched:
		case <-d.closed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

var errDriverClosed = fmt.Errorf("%w: the driver is closed", driver.ErrInvalid)

// answered is the response to a call that changed something; it wants the lock.
func (m *Memory) answered() error {
	if m.lose {
		return fmt.Errorf("%w: response lost", driver.ErrUnavailable)
	}
	return nil
}

func equal(a, b driver.Instance) bool {
	return a.Service == b.Service && a.NodeID == b.NodeID && a.InstanceID == b.InstanceID &&
		a.Addr == b.Addr && a.Zone == b.Zone && a.Version == b.Version &&
		a.RegisteredAt.Equal(b.RegisteredAt) && slices.Equal(a.Tags, b.Tags) &&
		maps.Equal(a.Meta, b.Meta) && maps.Equal(a.AppAddrs, b.AppAddrs)
}
