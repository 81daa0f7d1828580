package consul

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// A session of Consul with a TTL of its own outlives its last renewal by 20 s and
// more. One that hangs on a check with a TTL ends with that check, which may be
// short. So a pulse is a small service with such a check, and a session that hangs on
// it and on nothing else: not on the health of the node, which gossip may get wrong.
type pulse struct {
	driver  *Driver
	service *api.AgentServiceRegistration
	id      pulseID
	session string
	ttl     time.Duration

	mu     sync.Mutex
	beaten clock.Instant // from before the last beat that was answered
	kept   clock.Instant // when the session was last renewed
	over   bool
	token  driver.Secret // that the service was registered with last
}

// pulseID is where a pulse is found in the catalog. It is of one pulse alone.
type pulseID struct {
	Node      string `json:"node"`
	ServiceID string `json:"service_id"`
	CheckID   string `json:"check_id"`
}

const (
	// backstop is the TTL of the session itself, for an agent that dies with its
	// checks passing. Consul takes no less, and lets it run for twice as long.
	backstop = 10 * time.Second
	// awaitCheck is how often it is tried to make a session while the servers do not
	// know of the check yet.
	awaitCheck = 5 * time.Millisecond
	// expiredOutput begins what Consul's agent says of a check whose TTL has run out
	// (agent/checks/check.go).
	expiredOutput = "TTL expired"
)

// startPulse registers the service and makes the session.
func (d *Driver) startPulse(ctx context.Context, service, cluster string, ttl time.Duration) (*pulse, error) {
	id := service + ":" + strings.ToLower(rand.Text())
	p := &pulse{driver: d, id: pulseID{ServiceID: id, CheckID: id}, ttl: ttl, beaten: clock.Now(), kept: clock.Now()}
	p.service = &api.AgentServiceRegistration{
		ID:   id,
		Name: service,
		Tags: []string{cluster},
		Check: &api.AgentServiceCheck{
			CheckID: id,
			Name:    "pulse of the master of " + cluster,
			TTL:     spell(ttl),
			Status:  api.HealthPassing,

			DeregisterCriticalServiceAfter: spell(leastDeregisterAfter),
		},
	}
	token, err := d.config.token()
	if err != nil {
		return nil, d.failed(ctx, "register service "+id, err)
	}
	if err := p.register(ctx, token); err != nil {
		return nil, err
	}
	if err := p.makeSession(ctx); err != nil {
		p.stop(context.WithoutCancel(ctx))
		return nil, err
	}
	return p, nil
}

// register tells the agent of the service. token is the one that it is told with, or
// was a moment ago.
func (p *pulse) register(ctx context.Context, token driver.Secret) error {
	if err := p.driver.client.Agent().ServiceRegisterOpts(p.service, api.ServiceRegisterOpts{}.WithContext(ctx)); err != nil {
		return p.driver.failed(ctx, "register service "+p.id.ServiceID, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.token = token
	return nil
}

// refresh registers the service again where the token is another than it was
// registered with. The agent would go on to use that one, and once it is revoked the
// servers do not hear from it that the check has run out.
//
// It has the check run for another TTL, as a beat does, but does not count as one. It
// does not make it run for less.
func (p *pulse) refresh(ctx context.Context) error {
	token, err := p.driver.config.token()
	if err != nil {
		return p.driver.failed(ctx, "renew check "+p.id.CheckID, err)
	}
	p.mu.Lock()
	same := token == p.token
	p.mu.Unlock()
	if same {
		return nil
	}
	return p.register(ctx, token)
}

// makeSession waits until the servers have heard of the check from the agent.
func (p *pulse) makeSession(ctx context.Context) error {
	// Not by Session().Create, which cannot say that no check of the node counts
	// where one of a service does.
	request := map[string]any{
		"Name":          p.id.ServiceID,
		"TTL":           spell(max(backstop, p.ttl)),
		"Behavior":      api.SessionBehaviorRelease,
		"LockDelay":     "1ms", // 0 stands for 15 s
		"ServiceChecks": []api.ServiceCheck{{ID: p.id.CheckID}},
		"NodeChecks":    []string{},
	}
	for {
		var created struct{ ID string }
		_, err := p.driver.client.Raw().Write("/v1/session/create", request, &created, (&api.WriteOptions{}).WithContext(ctx))
		if err == nil {
			p.session = created.ID
			break
		}
		if !said(err, "Missing check") {
			return p.driver.failed(ctx, "create a session", err)
		}
		select {
		case <-time.After(awaitCheck):
		case <-ctx.Done():
			return p.driver.failed(ctx, "create a session", err)
		}
	}
	// The node is where the session is.
	info, _, err := p.driver.client.Session().Info(p.session, p.driver.consistent(ctx, 0))
	switch {
	case err != nil:
		return p.driver.failed(ctx, "read the new session", err)
	case info == nil:
		return fmt.Errorf("consul: create a session: %w: it ended at once", driver.ErrUnavailable)
	}
	p.id.Node = info.Node
	return nil
}

// beat has the check pass for another TTL. It fails if the agent may have found the
// check expired before: then the session may be about to end.
func (p *pulse) beat(ctx context.Context) error {
	now := clock.Now()
	if p.isOver(now) {
		return p.lost()
	}
	if err := p.refresh(ctx); err != nil {
		return err
	}
	if now = clock.Now(); p.isOver(now) {
		return p.lost()
	}
	err := p.driver.client.Agent().UpdateTTLOpts(p.id.CheckID, "", api.HealthPassing, (&api.QueryOptions{}).WithContext(ctx))
	switch {
	case unknown(err):
		return p.lost()
	case err != nil:
		return p.driver.failed(ctx, "renew check "+p.id.CheckID, err)
	case p.isOver(clock.Now()):
		return p.lost()
	}
	p.mu.Lock()
	p.beaten = max(p.beaten, now)
	due := now.Sub(p.kept) > backstop/3
	p.mu.Unlock()
	if due {
		return p.keep(ctx, now)
	}
	return nil
}

// keep renews the session itself.
func (p *pulse) keep(ctx context.Context, now clock.Instant) error {
	switch there, err := p.driver.renewSession(ctx, p.session, ""); {
	case err != nil:
		return err
	case !there:
		return p.lost()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = max(p.kept, now)
	return nil
}

// isOver reports whether the check may have expired by now, as told by a clock that
// may be slower than the agent's. That is for good.
func (p *pulse) isOver(now clock.Instant) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !now.Before(p.beaten.Add(p.ttl - p.ttl/50)) {
		p.over = true
	}
	return p.over
}

func (p *pulse) lost() error {
	return fmt.Errorf("consul: session %s: %w", p.session, driver.ErrSessionLost)
}

// stop ends the session and removes the service, as far as that can be done before
// ctx ends. What is left ends by itself.
func (p *pulse) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if p.session != "" {
		_, _ = p.driver.client.Session().Destroy(p.session, (&api.WriteOptions{}).WithContext(ctx))
	}
	_ = p.driver.client.Agent().ServiceDeregisterOpts(p.id.ServiceID, (&api.QueryOptions{}).WithContext(ctx))
}

// expired reports whether the catalog shows that the pulse ended because its TTL ran
// out, and for no other reason.
func (d *Driver) expired(ctx context.Context, id pulseID) (bool, error) {
	if id.CheckID == "" || id.Node == "" {
		return false, nil
	}
	checks, _, err := d.client.Health().Node(id.Node, d.consistent(ctx, 0))
	if err != nil {
		return false, d.failed(ctx, "read the checks of node "+id.Node, err)
	}
	for _, check := range checks {
		if check.CheckID == id.CheckID {
			return check.Status == api.HealthCritical && strings.HasPrefix(check.Output, expiredOutput), nil
		}
	}
	return false, nil
}
