package consul

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/secret"
)

// balancer gives each connection to the next of its targets, as one of TCP does.
type balancer struct {
	addr string

	mu      sync.Mutex
	targets []string
	next    int
	open    map[net.Conn]bool
}

func newBalancer(t *testing.T, addr string, targets ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{addr: l.Addr().String(), targets: targets, open: make(map[net.Conn]bool)}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { b.pass(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.lead()
		running.Wait()
	})
	return b
}

func (b *balancer) pass(conn net.Conn) {
	b.mu.Lock()
	if len(b.targets) == 0 {
		b.mu.Unlock()
		conn.Close()
		return
	}
	target := b.targets[b.next%len(b.targets)]
	b.next++
	b.mu.Unlock()
	to, err := net.Dial("tcp", target)
	if err != nil {
		conn.Close()
		return
	}
	b.mu.Lock()
	b.open[conn], b.open[to] = true, true
	b.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{conn, to}, {to, conn}} {
		both.Go(func() {
			io.Copy(way[0], way[1])
			conn.Close()
			to.Close()
		})
	}
	both.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, conn)
	delete(b.open, to)
}

// lead gives all connections to these targets from now on, and ends those that are open.
func (b *balancer) lead(targets ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.targets = targets
	for conn := range b.open {
		conn.Close()
	}
}

// services are the ids that an agent keeps.
func services(t *testing.T, c *testserver.Consul) map[string]bool {
	t.Helper()
	all, err := c.Client().Agent().Services()
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	for id := range all {
		ids[id] = true
	}
	return ids
}

// many keeps n instances registered by d, and returns what it does and logs.
func many(t *testing.T, d *Driver, n int) (*registrar.Registrar, *discovery.Registry, *syncBuffer) {
	t.Helper()
	logs := new(syncBuffer)
	logger := slog.New(slog.NewTextHandler(logs, nil))
	registry := discovery.New("consul", d, discovery.Options{Logger: logger})
	t.Cleanup(func() { registry.Close() })
	// A busy machine renews in time, or else a session is lost for no fault of an agent.
	r := registrar.New(registrar.Config{Registry: registry, TTL: 6 * time.Second, Logger: logger})
	t.Cleanup(func() { r.Stop(context.Background()) })
	var all []discovery.Instance
	for i := range n {
		all = append(all, discovery.Instance{Service: fmt.Sprintf("s%d", i%3), NodeID: "n", InstanceID: fmt.Sprintf("i%d", i), Addr: fmt.Sprintf("10.0.0.1:%d", 1000+i)})
	}
	if err := r.Set(all...); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(wait.Context(t)); err != nil {
		t.Fatal(err)
	}
	return r, registry, logs
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// agents starts two agents with separate state.
var agents = map[string]func(t *testing.T) (a, b *testserver.Consul){
	"of one datacenter": func(t *testing.T) (a, b *testserver.Consul) {
		server := testserver.StartConsul(t)
		return server, testserver.StartConsulAgent(t, server)
	},
	"of two datacenters": func(t *testing.T) (a, b *testserver.Consul) {
		return testserver.StartConsul(t), testserver.StartConsul(t)
	},
}

// Behind the address are several agents, each with registrations of its own. All is kept at one
// of them as long as that can be reached, and then at the other, and it is said why.
func TestAddressOfSeveralAgents(t *testing.T) {
	t.Parallel()
	for name, start := range agents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := start(t)
			b := newBalancer(t, "127.0.0.1:0", one.Addr(), two.Addr())
			const n = 9
			d := open(t, Config{Address: b.addr, HealthyOnly: true})
			r, registry, logs := many(t, d, n)
			keptAtOne(t, r, n, one, two)
			at, other := one, two
			if len(services(t, two)) > 1 {
				at, other = two, one
			}
			if text := registry.Warning(); !strings.Contains(text, at.Name()) || !strings.Contains(text, other.Name()) || !strings.Contains(text, "name one agent in address") {
				t.Errorf("the warning is %q", text)
			}
			names, err := d.Identify(wait.Context(t))
			if err != nil || len(names) != 2 {
				t.Errorf("identified %q, %v", names, err)
			}
			if s := r.Status(); s.Counters.SessionsLost > 0 || s.Warning == "" {
				t.Errorf("status %+v", s)
			}
			// The one fails.
			b.lead(other.Addr())
			wait.For(t, "registered at the other", func() bool { return len(services(t, other)) >= n && r.Status().Registered() })
			s := r.Status()
			if s.Counters.SessionsLost != 1 {
				t.Errorf("%d sessions were lost, want 1\n%s", s.Counters.SessionsLost, logs)
			}
			for _, want := range []string{"does not lead to agent " + at.Name(), "but to " + other.Name(), "name one agent in address", "leads to several agents"} {
				if !strings.Contains(logs.String(), want) {
					t.Errorf("the log does not say %q:\n%s", want, logs)
				}
			}
			// What was left behind is not shown after its TTL, and goes.
			wait.For(t, "what is left at the first is critical", func() bool {
				checks, err := at.Client().Agent().Checks()
				if err != nil {
					t.Fatal(err)
				}
				for _, check := range checks {
					if check.ServiceID != "" && check.Status != "critical" {
						return false
					}
				}
				return true
			})
		})
	}
}

// keptAtOne waits for some renewals and wants all at one agent and nothing at the other.
func keptAtOne(t *testing.T, r *registrar.Registrar, n int, one, two *testserver.Consul) {
	t.Helper()
	before := r.Status().Counters.Renewals
	wait.For(t, "renewed", func() bool { return r.Status().Counters.Renewals > before+5 })
	own := func(c *testserver.Consul) (n int) {
		for id := range services(t, c) {
			if id != "consul" {
				n++
			}
		}
		return n
	}
	if a, b := own(one), own(two); a+b != n || a != 0 && b != 0 {
		t.Fatalf("%d are registered at one agent and %d at the other, want %d at one of them", a, b, n)
	}
}

// The agent at the address is replaced by another one, as one in a container without a volume is
// at each start. What does not depend on a session, as mastership does not, goes on at once: it
// does not wait until a session is renewed or opened.
func TestAgentIsReplacedBetweenRenewals(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	one, two := testserver.StartConsulAgent(t, server), testserver.StartConsulAgent(t, server)
	b := newBalancer(t, "127.0.0.1:0", one.Addr())
	d := open(t, Config{Address: b.addr, HealthyOnly: true})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	list := func() bool {
		_, err := d.List(wait.Context(t), driver.Query{Service: "s"})
		return err == nil
	}
	if !list() {
		t.Fatal("not listed")
	}
	b.lead(two.Addr())
	wait.For(t, "listed by the other agent", list)
	if err := s.Renew(wait.Context(t)); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("the session of the agent that is gone: %v", err)
	}
}

// A restart of the agent is no change of it, and neither is a connection that breaks.
func TestSameAgentIsReachedAgain(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	agent := testserver.StartConsulAgent(t, server)
	b := newBalancer(t, "127.0.0.1:0", agent.Addr())
	r, registry, logs := many(t, open(t, Config{Address: b.addr, HealthyOnly: true}), 3)
	for range 3 {
		b.lead(agent.Addr())
		before := r.Status().Counters.Renewals
		wait.For(t, "renewed", func() bool { return r.Status().Counters.Renewals > before })
	}
	agent.Stop()
	agent.Restart()
	wait.For(t, "registered", func() bool { return r.Status().Registered() && len(services(t, agent)) == 3 })
	if text := registry.Warning(); text != "" || strings.Contains(logs.String(), "does not lead to") {
		t.Errorf("the warning is %q:\n%s", text, logs)
	}
}

// A token that may not read the agent registers as before, and the doctor reports it.
func TestAgentThatMayNotBeAsked(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t, testserver.WithACL())
	token := server.AddToken(`service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }`)
	d := open(t, Config{Address: server.Addr(), Token: secret.String(token), HealthyOnly: true})
	r, registry, _ := many(t, d, 3)
	before := r.Status().Counters.Renewals
	wait.For(t, "renewed", func() bool { return r.Status().Counters.Renewals > before+2 })
	if s := r.Status(); s.Counters.SessionsLost > 0 || !s.Registered() || registry.Warning() != "" {
		t.Errorf("%+v, warning %q", s, registry.Warning())
	}
	if _, err := d.Identify(wait.Context(t)); kind(err) != driver.ErrDenied {
		t.Errorf("identified: %v", err)
	}
}

// A name with several addresses leads to several agents, too.
func TestNameOfSeveralAgents(t *testing.T) {
	t.Parallel()
	one, two := agents["of one datacenter"](t)
	first := newBalancer(t, "127.0.0.1:0", one.Addr())
	_, port, err := net.SplitHostPort(first.addr)
	if err != nil {
		t.Fatal(err)
	}
	newBalancer(t, net.JoinHostPort("127.0.0.2", port), two.Addr())
	d := open(t, Config{Address: "consul.test:" + port, HealthyOnly: true})
	d.dialer.Resolver = roundRobin(t, "127.0.0.1", "127.0.0.2")
	r, registry, _ := many(t, d, 9)
	keptAtOne(t, r, 9, one, two)
	if text := registry.Warning(); !strings.Contains(text, one.Name()) || !strings.Contains(text, two.Name()) {
		t.Errorf("the warning is %q", text)
	}
}

// roundRobin is a resolver of which each answer begins with the next address.
func roundRobin(t *testing.T, addrs ...string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var first atomic.Int64
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			n := int(first.Add(1))
			for i := range addrs {
				answer.Answer = append(answer.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
					A:   net.ParseIP(addrs[(n+i)%len(addrs)]),
				})
			}
		}
		_ = w.WriteMsg(answer)
	})}
	var running sync.WaitGroup
	running.Go(func() { _ = server.ActivateAndServe() })
	t.Cleanup(func() { server.Shutdown(); conn.Close(); running.Wait() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// What passes on single requests gives each to an agent of its choice, whatever the
// connection. All agents cannot be kept apart then, but it is said.
func TestBalancerOfRequests(t *testing.T) {
	t.Parallel()
	one, two := agents["of one datacenter"](t)
	var requests atomic.Int64
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", one.Addr()
		if requests.Add(1)%2 == 0 {
			r.Out.URL.Host = two.Addr()
		}
	}})
	t.Cleanup(proxy.Close)
	d := open(t, Config{Address: proxy.URL, HealthyOnly: true})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Register(wait.Context(t), driver.Instance{Service: "s", InstanceID: "i", Addr: "10.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "told", func() bool {
		_ = s.Renew(wait.Context(t))
		return strings.Contains(d.Warning(), one.Name()) && strings.Contains(d.Warning(), two.Name())
	})
	if names, err := d.Identify(wait.Context(t)); len(names) != 2 || err != nil {
		t.Errorf("identified %q, %v", names, err)
	}
}

// An agent that has come back without what it knew is another one. A session of the first has
// nothing to remove there: to close it is no failure that another try could help.
func TestCloseAfterTheAgentLostItsState(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t)
	d := open(t, Config{Address: server.Addr()})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	i := driver.Instance{Service: "reborn", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	if err := s.Register(wait.Context(t), i); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	server.Restart()
	var last error
	wait.For(t, "the session is lost", func() bool {
		last = s.Close(wait.Context(t))
		return errors.Is(last, driver.ErrSessionLost)
	})
	if !strings.Contains(last.Error(), "does not lead to agent") {
		t.Errorf("Close returned %v", last)
	}
}

// What does not say who it is takes no place of an agent that is known, and so does not have
// another one used without asking.
func TestUnnamedInPlaceOfTheAgent(t *testing.T) {
	t.Parallel()
	one, two := testserver.StartConsul(t), testserver.StartConsul(t)
	unnamed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusForbidden)
	}))
	t.Cleanup(unnamed.Close)
	b := newBalancer(t, "127.0.0.1:0", one.Addr())
	d := open(t, Config{Address: b.addr})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: 2 * wait.Patience})
	if err != nil {
		t.Fatal(err)
	}
	b.lead(unnamed.Listener.Addr().String())
	for range 2 {
		if err := s.Renew(wait.Context(t)); err == nil || errors.Is(err, driver.ErrSessionLost) {
			t.Fatalf("renewed where nobody says who it is: %v", err)
		}
	}
	b.lead(two.Addr())
	wait.For(t, "lost at another agent", func() bool {
		err := s.Renew(wait.Context(t))
		if err == nil {
			t.Fatal("renewed at another agent")
		}
		return errors.Is(err, driver.ErrSessionLost)
	})
}
