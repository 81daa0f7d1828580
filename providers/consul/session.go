package consul

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/internal/format"
)

// DefaultSessionTTL is how long registrations outlive their last renewal if nothing
// else is asked for.
//
// It is renewed every third of it, and each registration is looked at once within it.
// With what is read afresh now and then that makes one request in 5.5 s for an idle node.
const DefaultSessionTTL = 36 * time.Second

// minTTL is the least of a session or a grant: the agent needs a moment to tell the
// servers.
const minTTL = 500 * time.Millisecond

// OpenSession returns a session. In mode agent Consul learns of it with its first
// registration; the agent is asked whether there is a leader, since without one
// nothing would come of that.
func (d *Driver) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	ttl := o.TTL
	if ttl == 0 {
		ttl = DefaultSessionTTL
	}
	if ttl < minTTL {
		return nil, fmt.Errorf("consul: %w: a TTL of %v; want %v at least", driver.ErrInvalid, o.TTL, minTTL)
	}
	if d.config.Mode == Catalog {
		return d.openCatalogSession(ctx, ttl)
	}
	if err := d.rightDatacenter(ctx); err != nil {
		return nil, err
	}
	if d.kv != nil {
		return d.openKVSession(ctx, ttl)
	}
	s := &session{driver: d, id: strings.ToLower(rand.Text()), ttl: ttl, renewed: clock.Now(), written: make(map[string]written)}
	if err := s.ping(ctx); err != nil {
		return nil, err
	}
	d.setOwn(s.id, true)
	return s, nil
}

// rightDatacenter makes sure that the agent is where the configuration wants to
// register.
func (d *Driver) rightDatacenter(ctx context.Context) error {
	want := d.config.Datacenter
	if want == "" {
		return nil
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	var self struct{ Config struct{ Datacenter string } }
	if _, err := d.client.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx)); err != nil {
		return d.failed(ctx, "ask the agent for its datacenter", err)
	}
	if have := self.Config.Datacenter; have != want {
		return fmt.Errorf("consul: datacenter: %q: %w: the agent is in %q; name an agent of %s in address, or leave datacenter out",
			want, driver.ErrInvalid, have, want)
	}
	return nil
}

// session is a number of services, each with a check of the session's own. Renewing
// it is telling the agent that each check passes.
//
// Consul would let a critical check pass again. A session that was not renewed in
// time is over all the same: its readers have seen it so.
type session struct {
	driver *Driver
	id     string
	ttl    time.Duration
	keys   format.Keys // the IDs that may be registered

	mu      sync.Mutex
	renewed clock.Instant      // from before the last renewal that succeeded
	written map[string]written // by ID, the services that are registered, or may be
	closed  bool
}

// written is what is known of a service that this session has registered.
type written struct {
	forSure bool
	// token is the one that it was registered with. The agent keeps it, and
	// uses it for ever to tell the servers of the service: once it is revoked, they
	// hear no more.
	token driver.Secret
	// again is how often the catalog had lost it.
	again int
}

func (s *session) TTL() time.Duration { return s.ttl }

// Renew tells the agent that every check of the session passes. A service that was
// removed behind our back has none; Register puts it back.
func (s *session) Renew(ctx context.Context) error {
	if s.over() {
		return s.lost()
	}
	now := clock.Now()
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	ids := s.ids()
	if len(ids) == 0 {
		if err := s.ping(ctx); err != nil {
			return err
		}
	}
	for _, id := range ids {
		err := s.driver.client.Agent().UpdateTTLOpts(checkID(s.id, id), "", api.HealthPassing, (&api.QueryOptions{}).WithContext(ctx))
		switch {
		case err == nil:
		case unknown(err):
			s.doubt(id)
		default:
			return s.driver.failed(ctx, "renew the check of "+id, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed = max(s.renewed, now)
	return nil
}

// ping makes sure that the agent answers and that there is a leader.
func (s *session) ping(ctx context.Context) error {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	leader, err := s.driver.client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return s.driver.failed(ctx, "reach the agent", err)
	}
	if leader == "" {
		return fmt.Errorf("consul: %w: the datacenter has no leader", driver.ErrUnavailable)
	}
	return nil
}

// Register tells the agent of i unless it knows. What the agent knows it makes the
// catalog hold, for ever.
func (s *session) Register(ctx context.Context, i driver.Instance) error {
	want, err := s.driver.registration(i, map[string]string{metaSession: s.id})
	if err != nil {
		return fmt.Errorf("consul: register: %w", err)
	}
	if err := s.addChecks(want, i); err != nil {
		return fmt.Errorf("consul: register: %w", err)
	}
	if s.over() {
		return s.lost()
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	s.keys.Add(i, want.ID)
	if err := s.put(ctx, want); err != nil {
		return err
	}
	return s.removeAll(ctx, s.keys.Former(i, want.ID))
}

// put tells the agent of a service unless it knows and readers find it.
func (s *session) put(ctx context.Context, want *api.AgentServiceRegistration) error {
	token, err := s.driver.config.token()
	if err != nil {
		return s.driver.failed(ctx, "register "+want.ID, err)
	}
	w := s.last(want.ID)
	w.mark(want)
	if w.forSure && w.token == token {
		have, err := s.driver.service(ctx, want.ID)
		if err != nil {
			return err
		}
		if sameService(have, want) {
			if there, err := s.driver.isThere(ctx, want); err != nil || there {
				return err
			}
			w.again++
			w.mark(want)
		}
	}
	s.note(want.ID, written{token: token, again: w.again}) // also if the answer is lost
	options := api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx)
	if err := s.driver.client.Agent().ServiceRegisterOpts(want, options); err != nil {
		return s.driver.failed(ctx, "register "+want.ID, err)
	}
	s.note(want.ID, written{token: token, again: w.again, forSure: true})
	return nil
}

// mark has the registration tell how often it was lost. The agent tells the servers
// once in a minute what they lack, and at once what has changed: a service that is
// registered as it was is not sent again, and neither is a check.
func (w written) mark(r *api.AgentServiceRegistration) {
	if w.again == 0 {
		return
	}
	r.Meta[metaAgain] = strconv.Itoa(w.again)
	for _, check := range r.Checks {
		check.Notes = "registered again: " + strconv.Itoa(w.again)
	}
}

// isThere reports whether the catalog has a service of ours which the agent has. It asks
// only where the last reading did not show it.
func (d *Driver) isThere(ctx context.Context, want *api.AgentServiceRegistration) (bool, error) {
	if !d.lacks(want.Name, want.ID) {
		return true, nil
	}
	r, err := d.read(ctx, want.Name, reading{dc: d.config.Datacenter, exact: true})
	return slices.Contains(r.own, want.ID), err
}

// addChecks adds the session's own check and the one that the instance asks for, or
// else the one that was configured.
func (s *session) addChecks(r *api.AgentServiceRegistration, i driver.Instance) error {
	r.Checks = api.AgentServiceChecks{{
		CheckID: checkID(s.id, r.ID),
		Name:    "kept by Muster",
		TTL:     spell(s.ttl),
		Status:  api.HealthPassing,

		DeregisterCriticalServiceAfter: spell(max(10*s.ttl, leastDeregisterAfter)),
	}}
	check, asked, err := askedCheck(i)
	if err != nil {
		return err
	}
	if !asked {
		check = s.driver.config.Check
	}
	if !check.enabled() {
		return nil
	}
	made, err := check.For(i.Addr)
	if err != nil {
		return err
	}
	if asked {
		// The name under which registrator's users know it, who may have to keep its
		// TTL.
		made.CheckID = "service:" + r.ID
	}
	r.Checks = append(r.Checks, made)
	return nil
}

// service returns what the agent knows of a service, nil for nothing.
func (d *Driver) service(ctx context.Context, id string) (*api.AgentService, error) {
	have, _, err := d.client.Agent().Service(id, (&api.QueryOptions{}).WithContext(ctx))
	switch {
	case err == nil:
		return have, nil
	case unknown(err):
		return nil, nil
	}
	return nil, d.failed(ctx, "read service "+id, err)
}

// Deregister removes the service of i if it is of this session, also if this
// session knows of none: an answer that was lost may have been of a registration
// that comes after all.
func (s *session) Deregister(ctx context.Context, i driver.Instance) error {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	id, err := s.driver.serviceID(i)
	if err != nil {
		id = "" // not valid any more, but maybe under a former ID
	}
	return s.removeAll(ctx, s.keys.Last(i, id))
}

func (s *session) removeAll(ctx context.Context, ids []string) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, s.remove(ctx, id))
	}
	return errors.Join(errs...)
}

// remove reads and then removes. A successor who registers between the two loses
// its registration and puts it back: the agent has no compare-and-set.
func (s *session) remove(ctx context.Context, id string) error {
	have, err := s.driver.service(ctx, id)
	if err != nil {
		return err
	}
	if have != nil && have.Meta[metaSession] == s.id {
		err := s.driver.client.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
		if err != nil && !unknown(err) {
			return s.driver.failed(ctx, "deregister "+id, err)
		}
	}
	s.keys.Remove(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.written, id)
	return nil
}

// Close removes all services of the session. Where the agent cannot be reached it
// may be called again.
func (s *session) Close(ctx context.Context) error {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	if err := s.removeAll(ctx, s.ids()); err != nil {
		return err
	}
	s.driver.setOwn(s.id, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// over reports whether the session was closed or not renewed in time.
func (s *session) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && !clock.Now().Before(s.renewed.Add(s.ttl)) {
		s.closed = true
		s.driver.setOwn(s.id, false)
	}
	return s.closed
}

func (s *session) lost() error {
	return fmt.Errorf("consul: session %s: %w", s.id, driver.ErrSessionLost)
}

// ids are those of the services that may be registered.
func (s *session) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.written))
}

func (s *session) last(id string) written {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written[id]
}

func (s *session) note(id string, w written) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written[id] = w
}

// doubt has a service written again, unless it was deregistered meanwhile.
func (s *session) doubt(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, ok := s.written[id]; ok {
		w.forSure = false
		s.written[id] = w
	}
}
