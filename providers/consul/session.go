package consul

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/consul/internal/checks"
	"github.com/musterhq/muster/providers/consul/internal/registration"
	"github.com/musterhq/muster/providers/internal/format"
	"github.com/musterhq/muster/secret"
)

// DefaultSessionTTL is how long registrations outlive their last renewal if nothing
// else is asked for.
//
// It is renewed every third of it, and each registration is looked at once within it.
// With what is read afresh now and then that makes one request in 5.5 s for an idle node.
const DefaultSessionTTL = 36 * time.Second

// minTTL is the least of a session or a grant: the agent needs a moment to report to the
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
	s.agent = d.agentForSession()
	if err := s.ping(ctx); err != nil {
		d.leaveAgent(s.agent)
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

// session is a number of services, each with a check of the session's own. A renewal reports to the
// agent that each check passes.
//
// Consul would let a critical check pass again. A session that was not renewed in time has ended
// nevertheless: readers have treated it as ended.
type session struct {
	driver *Driver
	id     string
	ttl    time.Duration
	agent  *agent      // to the agent that keeps it
	keys   format.Keys // the IDs that may be registered

	mu      sync.Mutex
	renewed clock.Instant      // from before the last renewal that succeeded
	written map[string]written // by ID, the services that are registered, or may be
	expired bool               // it was not renewed in time
	closed  bool
}

// written is what is known of a service that this session has registered.
type written struct {
	certain bool
	// token is the one that it was registered with. The agent keeps it, and uses it
	// indefinitely to report the service to the servers: once it is revoked, they learn no more.
	token secret.String
	// again is how often the catalog had lost it.
	again int
	// renewed is from before its check was last renewed.
	renewed clock.Instant
}

func (s *session) TTL() time.Duration { return s.ttl }

// renewTogether is how many checks are renewed at a time: a host may have thousands, and a
// renewal is bounded in time.
const renewTogether = 8

// Renew reports to the agent that every check of the session passes, and continues if one is
// rejected: what is renewed stays registered. A service that was removed behind our back
// has no check; Register puts it back.
func (s *session) Renew(ctx context.Context) error {
	if err := s.over(); err != nil {
		return err
	}
	now := clock.Now()
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	ids := s.byRenewal()
	if len(ids) == 0 {
		if err := s.ping(ctx); err != nil {
			return cmp.Or(s.over(), err)
		}
	}
	var mu sync.Mutex
	var errs []error
	forgotten := false
	var renewing errgroup.Group
	renewing.SetLimit(renewTogether)
	for _, id := range ids {
		renewing.Go(func() error {
			err := s.driver.client.Agent().UpdateTTLOpts(registration.CheckID(s.id, id), "", api.HealthPassing, (&api.QueryOptions{}).WithContext(ctx))
			if err == nil {
				s.noteRenewed(id, now)
				return nil
			}
			s.noteUncertain(id) // its check may be critical by the time that it can be renewed again
			mu.Lock()
			defer mu.Unlock()
			if unknown(err) {
				forgotten = true
			} else {
				errs = append(errs, s.driver.failed(ctx, "renew the check of "+id, err))
			}
			return nil
		})
	}
	_ = renewing.Wait() // what has failed is in errs
	if forgotten {
		s.askWhoAnswers(ctx)
	}
	err := errors.Join(errs...)
	if len(errs) > 0 && len(errs) == len(ids) {
		return cmp.Or(s.over(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed = max(s.renewed, now)
	if err != nil {
		return fmt.Errorf("%w: %d of %d: %w", driver.ErrPartial, len(errs), len(ids), err)
	}
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

// Register registers i with the agent, unless it is. What an agent has it keeps in the catalog,
// indefinitely.
func (s *session) Register(ctx context.Context, i driver.Instance) error {
	own := map[string]string{registration.SessionMeta: s.id}
	if s.driver.config.Record == recordCheck {
		own = nil
	}
	want, err := s.driver.registration(i, own)
	if err != nil {
		return fmt.Errorf("consul: register: %w", err)
	}
	if err := s.addChecks(want, i); err != nil {
		return fmt.Errorf("consul: register: %w", err)
	}
	if err := s.over(); err != nil {
		return err
	}
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	s.keys.Add(i, want.ID)
	if err := s.put(ctx, want); err != nil {
		return err
	}
	return s.removeAll(ctx, s.keys.Former(i, want.ID))
}

// put registers a service with the agent, unless the agent has it and readers find it.
func (s *session) put(ctx context.Context, want *api.AgentServiceRegistration) error {
	token, err := s.driver.config.token()
	if err != nil {
		return s.driver.failed(ctx, "register "+want.ID, err)
	}
	w := s.lastWritten(want.ID)
	w.markRegisteredAgain(want)
	if w.certain && w.token == token {
		have, err := s.driver.service(ctx, want.ID)
		if err != nil {
			return err
		}
		if registration.SameService(have, want) {
			if there, err := s.driver.isThere(ctx, want); err != nil || there {
				return err
			}
			w.again++
			w.markRegisteredAgain(want)
		}
	}
	s.noteWritten(want.ID, written{token: token, again: w.again, renewed: w.renewed}) // also if the answer is lost
	options := api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx)
	if err := s.driver.client.Agent().ServiceRegisterOpts(want, options); err != nil {
		return s.driver.failed(ctx, "register "+want.ID, err)
	}
	s.noteWritten(want.ID, written{token: token, again: w.again, renewed: w.renewed, certain: true})
	return nil
}

// markRegisteredAgain writes into the registration how often it was lost. The agent sends the
// servers once in a minute what they lack, and at once what has changed: a service that is
// registered as it was is not sent again, and neither is a check.
func (w written) markRegisteredAgain(r *api.AgentServiceRegistration) {
	if w.again == 0 {
		return
	}
	if _, inMeta := r.Meta[registration.SessionMeta]; inMeta {
		r.Meta[registration.AgainMeta] = strconv.Itoa(w.again)
	} else {
		// Of what is left of a service this is what no reader looks at: it counts where a check
		// warns, and those of Muster do not.
		r.Weights = &api.AgentWeights{Passing: 1, Warning: 1 + w.again%math.MaxUint16}
	}
	for _, check := range r.Checks {
		var n registration.Note
		if json.Unmarshal([]byte(check.Notes), &n) == nil && n.Instance.Service != "" {
			n.Again = w.again
			if text, err := json.Marshal(n); err == nil {
				check.Notes = string(text)
				continue
			}
		}
		check.Notes = "registered again: " + strconv.Itoa(w.again)
	}
}

// isThere reports whether the catalog has a service of ours which the agent has. It asks
// only where the last reading did not show it.
func (d *Driver) isThere(ctx context.Context, want *api.AgentServiceRegistration) (bool, error) {
	if !d.isMissing(want.Name, want.ID) {
		return true, nil
	}
	r, err := d.read(ctx, want.Name, reading{dc: d.config.Datacenter, exact: true})
	return slices.Contains(r.own, want.ID), err
}

// addChecks adds the session's own check and the one that the instance asks for, or
// else the one that was configured.
func (s *session) addChecks(r *api.AgentServiceRegistration, i driver.Instance) error {
	r.Checks = api.AgentServiceChecks{{
		CheckID: registration.CheckID(s.id, r.ID),
		Name:    "kept by Muster",
		TTL:     checks.Duration(s.ttl),
		Status:  api.HealthPassing,

		DeregisterCriticalServiceAfter: checks.Duration(max(10*s.ttl, checks.LeastDeregisterAfter)),
	}}
	if s.driver.config.Record == recordCheck {
		text, err := json.Marshal(registration.Note{Instance: i})
		if err != nil {
			return fmt.Errorf("%w: %w", driver.ErrInvalid, err)
		}
		r.Checks[0].Notes = string(text)
	}
	check, asked, err := checks.FromMeta(i)
	if err != nil {
		return err
	}
	if !asked {
		check = s.driver.config.Check.check()
	}
	if !check.Enabled() {
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

// Deregister removes the service of i if it is of this session, also where the answer to
// its registration was lost: that may come after all.
func (s *session) Deregister(ctx context.Context, i driver.Instance) error {
	if err := s.over(); errors.Is(err, driver.ErrClosed) {
		return err
	}
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
// its registration and puts it back: the agent has no compare-and-set. That a service says
// that it is of this session is not enough, as anyone may write that: it is removed if the
// session has written it, or may have.
func (s *session) remove(ctx context.Context, id string) error {
	if !s.mayHave(id) {
		s.keys.Remove(id)
		return nil
	}
	have, err := s.driver.service(ctx, id)
	if err != nil {
		return err
	}
	ours, err := s.isOurs(ctx, have)
	if err != nil {
		return err
	}
	if ours {
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

// Occupant implements driver.Occupier: the agent has one service of an ID, whatever its name.
func (s *session) Occupant(ctx context.Context, i driver.Instance) (driver.Instance, bool, error) {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	id, err := s.driver.serviceID(i)
	if err != nil {
		return driver.Instance{}, false, err
	}
	have, err := s.driver.service(ctx, id)
	if err != nil || have == nil || have.Service == i.Service {
		return driver.Instance{}, false, err
	}
	entry := &api.ServiceEntry{Service: have, Node: &api.Node{}}
	checks, err := s.driver.client.Agent().ChecksWithFilterOpts(fmt.Sprintf("ServiceID == %q", id), (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return driver.Instance{}, false, s.driver.failed(ctx, "read the checks of "+id, err)
	}
	for _, check := range checks {
		entry.Checks = append(entry.Checks, &api.HealthCheck{CheckID: check.CheckID, ServiceID: check.ServiceID, Status: check.Status, Notes: check.Notes})
	}
	if registration.SessionOf(entry) == s.id || registration.HealthOf(entry) == registration.Ended {
		return driver.Instance{}, false, nil
	}
	other, err := registration.Decode(entry, false)
	if err != nil {
		// Whatever it is, it is there.
		return driver.Instance{Service: have.Service, InstanceID: id, Addr: net.JoinHostPort(have.Address, strconv.Itoa(have.Port))}, true, nil
	}
	return other, true, nil
}

// isOurs reports whether this session has registered what the agent has.
func (s *session) isOurs(ctx context.Context, have *api.AgentService) (bool, error) {
	if have == nil || s.driver.config.Record == recordMeta || have.Meta[registration.SessionMeta] != "" {
		return have != nil && have.Meta[registration.SessionMeta] == s.id, nil
	}
	check, err := s.driver.check(ctx, registration.CheckID(s.id, have.ID))
	return check != nil && check.ServiceID == have.ID, err
}

// check returns what the agent knows of a check, nil for nothing.
func (d *Driver) check(ctx context.Context, id string) (*api.AgentCheck, error) {
	checks, err := d.client.Agent().ChecksWithFilterOpts(fmt.Sprintf("CheckID == %q", id), (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, d.failed(ctx, "read check "+id, err)
	}
	return checks[id], nil
}

// Close removes all services of the session. Where the agent cannot be reached it
// may be called again, unless others alone are at its address: what it keeps ends with its TTL.
func (s *session) Close(ctx context.Context) error {
	ctx, cancel := s.driver.call(ctx)
	defer cancel()
	if err := s.removeAll(ctx, s.ids()); err != nil {
		if lost := s.over(); errors.Is(lost, driver.ErrSessionLost) && s.agent.Lost() != nil {
			return lost
		}
		return err
	}
	s.driver.setOwn(s.id, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// over says why nothing can be done on the session any more, or nil: it was closed, or
// not renewed in time.
func (s *session) over() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && !s.expired && !clock.Now().Before(s.renewed.Add(s.ttl)) {
		s.expired = true
		s.driver.setOwn(s.id, false)
	}
	moved := s.driver.agentChanged(s.agent)
	if moved != nil && !s.expired {
		s.expired = true
		s.driver.setOwn(s.id, false)
	}
	switch {
	case s.closed:
		return errSessionClosed(s.id)
	case moved != nil:
		return fmt.Errorf("consul: session %s: %w: %w", s.id, driver.ErrSessionLost, moved)
	case s.expired:
		return fmt.Errorf("consul: session %s: %w", s.id, driver.ErrSessionLost)
	}
	return nil
}

func errSessionClosed(id string) error {
	return fmt.Errorf("consul: session %s is %w", id, driver.ErrClosed)
}

// ids are those of the services that may be registered.
func (s *session) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.written))
}

// byRenewal returns the same, those first that were not renewed for longest: if time
// runs out, it is not the same ones that are left out again.
func (s *session) byRenewal() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.written), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.written[a].renewed, s.written[b].renewed), cmp.Compare(a, b))
	})
}

// noteRenewed notes that the check of a service was renewed.
func (s *session) noteRenewed(id string, at clock.Instant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, ok := s.written[id]; ok {
		w.renewed = at
		s.written[id] = w
	}
}

// mayHave reports whether the session has written a service, or may have: a call without an
// answer counts.
func (s *session) mayHave(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.written[id]
	return ok
}

func (s *session) lastWritten(id string) written {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written[id]
}

func (s *session) noteWritten(id string, w written) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written[id] = w
}

// noteUncertain has a service written again, unless it was deregistered meanwhile.
func (s *session) noteUncertain(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, ok := s.written[id]; ok {
		w.certain = false
		s.written[id] = w
	}
}
