// Package memory is a whole provider without a server, for the tests of programs that use
// package discovery or a node. Its switches make it fail, answer late, lose answers, sessions
// or everything:
//
//	provider := memory.New()
//	r := discovery.New("memory", provider.Driver(), discovery.Options{})
//	...
//	provider.Fail(driver.ErrUnavailable)
//
// It does not promise to be as odd as a real provider: it has one server, whose clock never
// goes wrong. It is no provider for production: nothing outlives the process.
package memory

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

// Server stands in for the servers of a provider: it keeps the registrations, the
// sessions, the mastership and the records that a real one would keep on its
// servers. Its clients, made by Driver, implement every optional interface but
// driver.Normalizer and driver.TTLBounder: it keeps all of an instance, and any TTL.
//
// It is deterministic: what a call changed, every later call sees. It starts no
// goroutine, and measures time with the time package alone, so that a test in a
// testing/synctest bubble lives through TTLs in no time. A Server is to be made
// inside the bubble in which it is used.
//
// The other methods are what tests do to a provider: Fail, Delay, LoseResponses,
// and what happens behind a client's back. All methods are safe for concurrent
// use.
type Server struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced by each change
	revision driver.Revision
	services map[string]*registrations
	sessions map[*session]bool
	clusters map[string]*cluster

	fault    error
	delay    time.Duration
	lose     bool
	switched chan struct{} // closed and replaced by each change of a switch
}

type registrations struct {
	changed   chan struct{}   // closed and replaced by each change of it
	revision  driver.Revision // of its last change
	compacted driver.Revision // changes up to this one are forgotten
	entries   map[string]entry
	garbage   []driver.Skipped
}

type entry struct {
	instance driver.Instance
	session  *session // nil if Put wrote it
}

// New returns an empty provider.
func New() *Server {
	return &Server{
		changed:  make(chan struct{}),
		switched: make(chan struct{}),
		services: make(map[string]*registrations),
		sessions: make(map[*session]bool),
		clusters: make(map[string]*cluster),
	}
}

// Driver returns a new client of the provider.
func (m *Server) Driver() driver.Driver {
	return &client{m: m, closed: make(chan struct{})}
}

// FaultyDriver returns a new client of the provider, and what injects faults into the calls of
// this client alone.
func (m *Server) FaultyDriver() (driver.Driver, Faults) {
	w := Faults{m, new(faults)}
	return &client{m: m, closed: make(chan struct{}), faults: w.faults}, w
}

// Faults injects faults into the calls of one client. Its methods are what the suite wants of
// discoverytest.Faults, and are safe for concurrent use.
type Faults struct {
	m      *Server
	faults *faults
}

// Hold holds back each call of the client for as long as by, from now on and until Restore.
// The returned function waits until one is held back, or ctx ends.
func (w Faults) Hold(by time.Duration) (held func(context.Context) error) {
	holds := w.set(by, false)
	return func(ctx context.Context) error {
		select {
		case <-holds:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Lose has what the client asks for carried out, and loses the answers, until Restore.
func (w Faults) Lose() { w.set(0, true) }

// Restore ends both, and lets go what is held back.
func (w Faults) Restore() { w.set(0, false) }

func (w Faults) set(hold time.Duration, lose bool) (holds <-chan struct{}) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.faults.hold, w.faults.lose, w.faults.held = hold, lose, make(chan struct{})
	w.m.flip()
	return w.faults.held
}

// faults are those of one client. The lock of the Server guards them. A call does all
// that it does in one step, so that it is held back before that.
type faults struct {
	hold time.Duration
	held chan struct{} // closed when a call is held
	lose bool
}

// holds notes that a call is held back, and returns for how long.
func (f *faults) holds() time.Duration {
	if f == nil || f.hold == 0 {
		return 0
	}
	select {
	case <-f.held:
	default:
		close(f.held)
	}
	return f.hold
}

// Fail makes every call of every client return err, before it has done anything,
// and ends the watches with it. Time goes on, and TTLs with it. Nil ends it.
func (m *Server) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = err
	m.flip()
}

// Delay makes every call take d, or until its context ends, before it does
// anything. 0 ends it, also for the calls that wait.
func (m *Server) Delay(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = d
	m.flip()
}

// LoseResponses makes every call that changes something return
// driver.ErrUnavailable although it has done it.
func (m *Server) LoseResponses(lose bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lose = lose
}

// Put registers instances on no session: they stay until Remove or Wipe.
func (m *Server) Put(instances ...driver.Instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range instances {
		s := m.service(i.Service)
		s.entries[i.Key()] = entry{instance: clone(i)}
		m.touch(s)
	}
}

// Remove deletes the registration of i, on any session.
func (m *Server) Remove(i driver.Instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(i.Service, i.Key())
}

// AddGarbage puts an entry that cannot be read beside the registrations of
// service.
func (m *Server) AddGarbage(service, key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.service(service)
	s.garbage = append(s.garbage, driver.Skipped{Key: service + "/" + key, Reason: errors.New("not an instance")})
	m.touch(s)
}

// ExpireSessions ends every session now, as if none had been renewed for its TTL.
func (m *Server) ExpireSessions() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.sessions {
		m.end(s)
	}
}

// ExpireSession ends one session, made by any of the clients, now.
func (m *Server) ExpireSession(s driver.Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := s.(*session); ok {
		m.end(s)
	}
}

// Compact makes the provider forget the changes up to now: a Watch from an older
// revision gets driver.ErrCompacted. Running watches go on.
func (m *Server) Compact() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.services {
		s.compacted = s.revision
	}
}

// Wipe forgets everything, terms and records and sessions too, as a provider does
// that comes back with an empty disk. Revisions go on rising.
func (m *Server) Wipe() {
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

// Dump returns all that the provider keeps, with its revisions: a Harness.Dump.
func (m *Server) Dump() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]string{"revision": fmt.Sprint(m.revision), "sessions": fmt.Sprint(len(m.sessions))}
	for name, s := range m.services {
		for key, e := range s.entries {
			all["services/"+name+"/"+key] = fmt.Sprintf("%+v, on a session: %v", e.instance, e.session != nil)
		}
		for n, skipped := range s.garbage {
			all[fmt.Sprintf("services/%s, garbage %d", name, n)] = skipped.Key
		}
	}
	for name, c := range m.clusters {
		all["clusters/"+name] = fmt.Sprint(c.version, " ", c.term, " ", c.clusterID, " ", c.ends)
		for key, r := range c.records {
			all["records/"+name+"/"+key] = fmt.Sprintf("%d %q", r.Revision, r.Value)
		}
	}
	return all
}

// The methods below want the lock held.

func (m *Server) service(name string) *registrations {
	s, ok := m.services[name]
	if !ok {
		s = &registrations{changed: make(chan struct{}), entries: make(map[string]entry)}
		m.services[name] = s
	}
	return s
}

// touch makes a new revision, in which s changed, and wakes its watches.
func (m *Server) touch(s *registrations) driver.Revision {
	m.revision++
	if s != nil {
		s.revision = m.revision
		s.notify()
	}
	m.notify()
	return m.revision
}

func (m *Server) flip() {
	close(m.switched)
	m.switched = make(chan struct{})
	// Watches wait for changes of the data alone.
	for _, s := range m.services {
		s.notify()
	}
	m.notify()
}

func (m *Server) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (s *registrations) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (m *Server) remove(service, key string) {
	s := m.service(service)
	if _, ok := s.entries[key]; ok {
		delete(s.entries, key)
		m.touch(s)
	}
}

func (m *Server) snapshot(q driver.Query) driver.Snapshot {
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

func (m *Server) end(s *session) {
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
func (d *client) enter(ctx context.Context) error {
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
		rest := max(m.delay, d.faults.holds()) - time.Since(start)
		if rest <= 0 {
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

var errDriverClosed = fmt.Errorf("memory: the driver is %w", driver.ErrClosed)

// answered is the response to a call that changed something; it wants the lock.
func (d *client) answered() error {
	if d.m.lose || d.faults != nil && d.faults.lose {
		return fmt.Errorf("%w: response lost", driver.ErrUnavailable)
	}
	return nil
}
