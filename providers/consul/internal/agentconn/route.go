// Package agentconn keeps to one agent of Consul, whatever is at its address.
//
// What a session registers is kept by one agent, which measures the time of its checks. Several may
// be behind an address: a balancer, a Service of Kubernetes, a name with several addresses. Each
// keeps what was registered with it, so that a session that reaches another agent with each
// connection is registered at all of them and renewed at none.
//
// So a [Route] asks at each connection whose it is, and does not use those to other agents. It
// keeps to one agent until no connection leads there any more.
package agentconn

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/backoff"
)

// identifyTimeout bounds the search for the agent.
const identifyTimeout = 5 * time.Second

// dialTries is how many connections are made in search of the agent: a balancer gives each to an
// agent of its choice.
const dialTries = 16

// What does not answer who it is, such as an agent that is overloaded, is asked askTries times at
// most, with a pause in between that doubles from firstPause to longestPause.
const (
	askTries     = 8
	firstPause   = 50 * time.Millisecond
	longestPause = 400 * time.Millisecond
)

// AgentID is what an agent calls itself.
type AgentID struct{ ID, Node, Datacenter string }

func (a AgentID) String() string {
	return fmt.Sprintf("%s (node id %s, datacenter %s)", a.Node, a.ID, a.Datacenter)
}

// DialFunc makes a connection that is ready for HTTP.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Route leads to one agent: to the first that it reached. It is safe for concurrent use.
type Route struct {
	address string // as configured
	ask     func(ctx context.Context, conn net.Conn) (AgentID, error)

	mu             sync.Mutex
	known          bool // agent is set
	agent          AgentID
	conns          map[*routeConn]bool // open ones, all of which lead to agent
	others         map[AgentID]bool    // met at the same address
	acceptsUnnamed bool                // use connections without asking, as the first did not say whose it is
	moved          error               // set once only other agents can be reached, and never cleared
}

// NewRoute returns a route that has reached no agent yet. address is named in errors. ask asks
// which agent is at the other end of a connection; Ask does.
func NewRoute(address string, ask func(context.Context, net.Conn) (AgentID, error)) *Route {
	return &Route{address: address, ask: ask, conns: make(map[*routeConn]bool), others: make(map[AgentID]bool)}
}

// Dialer returns a DialFunc that dials with dial and whose connections lead to the agent of w.
func (w *Route) Dialer(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
		defer cancel()
		var failed error
		failures, pause := 0, firstPause
		for range dialTries {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			if w.isUnnamed() {
				return conn, nil
			}
			who, err := w.ask(ctx, conn)
			switch {
			case errors.Is(err, ErrUnnamed) && w.acceptUnnamed():
				conn.Close() // it may be of no further use
			case err != nil:
				conn.Close()
				failed = err
				if failures++; failures < askTries {
					_ = backoff.Sleep(ctx, pause)
					pause = min(2*pause, longestPause)
				}
			default:
				if c, ok := w.use(conn, who); ok {
					return c, nil
				}
				conn.Close()
			}
			if ctx.Err() != nil {
				failed = errors.Join(failed, ctx.Err())
				break
			}
			if failures == askTries {
				break
			}
		}
		if failed != nil {
			return nil, failed // the agent may be one that did not answer
		}
		return nil, w.agentMissed()
	}
}

// use adds conn if it leads to the agent of w.
func (w *Route) use(conn net.Conn, who AgentID) (net.Conn, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known {
		w.known, w.agent = true, who
	}
	if who != w.agent {
		w.noteLocked(who)
		return nil, false
	}
	c := &routeConn{Conn: conn, route: w}
	w.conns[c] = true
	return c, true
}

// agentMissed returns the error of a search in which all connections led to other agents. If no
// connection to the agent of w is open, it cannot be reached any more.
func (w *Route) agentMissed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := &movedError{address: w.address, from: w.agent, to: w.othersLocked()}
	if len(w.conns) == 0 {
		w.moved = err
	}
	return err
}

func (w *Route) isUnnamed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acceptsUnnamed
}

// acceptUnnamed has connections used without asking from now on, unless the agent is known: what
// does not say who it is must not replace it. It reports whether they are.
func (w *Route) acceptUnnamed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acceptsUnnamed = w.acceptsUnnamed || !w.known
	return w.acceptsUnnamed
}

// Lost returns why a session that the agent keeps has ended for its owner, or nil if it has not.
func (w *Route) Lost() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moved
}

// IsCutOff reports whether there was a connection to the agent and none is open now.
func (w *Route) IsCutOff() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known && !w.acceptsUnnamed && len(w.conns) == 0
}

// Meet notes which agent has answered a request on some connection: a proxy of single requests
// gives each to an agent of its choice.
func (w *Route) Meet(who AgentID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known && who != w.agent {
		w.noteLocked(who)
	}
}

// maxOthers bounds the other agents that are remembered for the warning: new ones may come without
// end, as in containers that are replaced.
const maxOthers = 8

// noteLocked notes another agent at the address.
func (w *Route) noteLocked(who AgentID) {
	if len(w.others) < maxOthers {
		w.others[who] = true
	}
}

// othersLocked returns the other agents, sorted.
func (w *Route) othersLocked() []string {
	var names []string
	for a := range maps.Keys(w.others) {
		names = append(names, a.String())
	}
	slices.Sort(names)
	return names
}

// Warning says that other agents are at the address, and is "" if none was met.
func (w *Route) Warning() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.others) == 0 {
		return ""
	}
	return fmt.Sprintf("address %s leads to several agents, each of which keeps registrations of its own: those of this process are kept at %s, and %s was met; %s",
		w.address, w.agent, strings.Join(w.othersLocked(), " and "), oneAgent)
}

// oneAgent is the hint about an address that leads to several agents.
const oneAgent = "name one agent in address, the one on this host if there is one, or set mode: catalog, which needs none"

// movedError says that an address leads to other agents only.
type movedError struct {
	address string
	from    AgentID
	to      []string
}

func (e *movedError) Error() string {
	return fmt.Sprintf("address %s does not lead to agent %s any more, but to %s; %s", e.address, e.from, strings.Join(e.to, " and "), oneAgent)
}

// routeConn is a connection to the agent of a route.
type routeConn struct {
	net.Conn
	route *Route
}

// Close implements net.Conn.
func (c *routeConn) Close() error {
	c.route.mu.Lock()
	delete(c.route.conns, c)
	c.route.mu.Unlock()
	return c.Conn.Close()
}

// ErrUnnamed says that an agent does not say who it is: the token may not read it, a proxy does not
// pass the question on, or it is no agent.
var ErrUnnamed = errors.New("the agent does not say who it is")

// ErrNotConsul is an ErrUnnamed whose cause is that the answer is not one of Consul.
var ErrNotConsul = fmt.Errorf("%w: its answer is not one of Consul", ErrUnnamed)

// longestSelf bounds what an agent says of itself.
const longestSelf = 8 << 20

// Ask asks at conn, which the caller does not use meanwhile, which agent is at the other end. host
// is that of the request, and authorize sets its token. The error wraps ErrUnnamed if asking again
// would not help.
func Ask(ctx context.Context, conn net.Conn, host string, authorize func(*http.Request) error) (AgentID, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	id, err := askAt(ctx, conn, host, authorize)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil && ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return id, err
}

func askAt(ctx context.Context, conn net.Conn, host string, authorize func(*http.Request) error) (AgentID, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v1/agent/self", nil)
	if err != nil {
		return AgentID{}, err
	}
	if err := authorize(request); err != nil {
		return AgentID{}, err
	}
	if err := request.Write(conn); err != nil {
		return AgentID{}, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return AgentID{}, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, longestSelf))
	switch {
	case err != nil:
		return AgentID{}, err
	case response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests:
		return AgentID{}, fmt.Errorf("%d %s", response.StatusCode, strings.TrimSpace(string(body)))
	case response.StatusCode != http.StatusOK:
		return AgentID{}, fmt.Errorf("%w: it answers with %d %.200s", ErrUnnamed, response.StatusCode, strings.TrimSpace(string(body)))
	case response.Close || reader.Buffered() > 0:
		return AgentID{}, fmt.Errorf("%w: there is a proxy in front of it that ends each connection", ErrUnnamed)
	}
	var self Self
	if err := json.Unmarshal(body, &self); err != nil || self.Config.NodeName == "" {
		return AgentID{}, ErrNotConsul
	}
	return self.AgentID(), nil
}

// Self is what is read of an agent's answer to /v1/agent/self.
type Self struct {
	Config struct{ NodeID, NodeName, Datacenter string }
}

// AgentID returns what the agent calls itself.
func (s Self) AgentID() AgentID {
	return AgentID{ID: s.Config.NodeID, Node: s.Config.NodeName, Datacenter: s.Config.Datacenter}
}
