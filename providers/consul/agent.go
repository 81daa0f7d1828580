package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul/internal/agentconn"
)

// askWhoAnswers asks which agent answers, after one did that does not know what was registered. It
// asks twice, since of two agents that take turns the other one answers then.
func (s *session) askWhoAnswers(ctx context.Context) {
	for range 2 {
		var self agentconn.Self
		if _, err := s.driver.client.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx)); err != nil {
			return // it may not be asked, or the next renewal shows
		}
		s.agent.Meet(self.AgentID())
	}
}

// agent is the one agent that keeps the sessions of a driver, and the connections to it.
type agent struct {
	*agentconn.Route
	transport *http.Transport
}

// askAgent asks at a connection which agent is at the other end.
func (d *Driver) askAgent(ctx context.Context, conn net.Conn) (agentconn.AgentID, error) {
	return agentconn.Ask(ctx, conn, d.endpoint.host, d.authorize)
}

// currentAgent returns the agent of this driver's sessions, nil before the first.
func (d *Driver) currentAgent() *agent {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.agent
}

// agentForSession returns the agent of a new session: that of the others, unless it was lost.
func (d *Driver) agentForSession() *agent {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.agent == nil || d.agent.Lost() != nil {
		d.replaceAgent()
	}
	return d.agent
}

// leaveAgent gives up an agent at which no session could be opened and which is not reached, so
// that the next attempt may find another agent.
func (d *Driver) leaveAgent(w *agent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.agent == w && w.IsCutOff() {
		d.replaceAgent()
	}
}

// replaceAgent wants the lock held.
func (d *Driver) replaceAgent() {
	if d.agent != nil {
		d.agent.transport.CloseIdleConnections()
	}
	w := agentconn.NewRoute(d.config.Address, d.askAgent)
	d.agent = &agent{Route: w, transport: newTransport(w.Dialer(d.dialer.plain), w.Dialer(d.dialer.secure))}
}

// agentChanged returns why what an agent keeps has ended for its owner, or nil if it has not.
func (d *Driver) agentChanged(w *agent) error {
	if moved := w.Lost(); moved != nil {
		return moved
	}
	if d.currentAgent() != w {
		return errAgentReplaced
	}
	return nil
}

var errAgentReplaced = errors.New("the agent was not reached any more, and another may be at its address")

// Warning implements driver.Warner.
func (d *Driver) Warning() string {
	if w := d.currentAgent(); w != nil {
		return w.Warning()
	}
	return ""
}

// identifyTries is how many connections Identify makes.
const identifyTries = 8

// Identify implements driver.Identifier: it makes several connections and asks at each which
// agent is there. In another mode than Agent it does not matter.
func (d *Driver) Identify(ctx context.Context) ([]string, error) {
	if d.config.Mode != Agent || d.kv != nil {
		return nil, nil
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	dial := d.dialer.plain
	if d.endpoint.scheme == "https" {
		dial = d.dialer.secure
	}
	met := make(map[string]bool)
	for range identifyTries {
		conn, err := dial(ctx, "tcp", d.endpoint.host)
		if err != nil {
			return nil, d.failed(ctx, "connect to the agent", err)
		}
		// Twice: what passes on single requests gives each to an agent of its choice.
		for range 2 {
			var who agentconn.AgentID
			if who, err = d.askAgent(ctx, conn); err != nil {
				break
			}
			met[who.String()] = true
		}
		conn.Close()
		switch {
		case errors.Is(err, agentconn.ErrNotConsul):
			return nil, fmt.Errorf("consul: ask the agent who it is: %w: %w; is something else at its address?", driver.ErrInvalid, err)
		case errors.Is(err, agentconn.ErrUnnamed):
			return nil, fmt.Errorf("consul: ask the agent who it is: %w: %w", driver.ErrDenied, err)
		case err != nil:
			return nil, d.failed(ctx, "ask the agent who it is", err)
		}
	}
	return slices.Sorted(maps.Keys(met)), nil
}
