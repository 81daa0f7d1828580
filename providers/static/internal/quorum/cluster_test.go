package quorum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/testnet"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/static/internal/voter"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a set of nodes over one network.
type cluster struct {
	t     testing.TB
	net   *testnet.Net
	ttl   time.Duration
	nodes []*peer
	check *checker
}

// peer is one node, which can be started and stopped.
type peer struct {
	c        *cluster
	name     string
	port     *testnet.Port
	addr     string
	dir      string
	list     atomic.Pointer[[]string]
	eligible bool

	tweak func(*voter.Config)

	auth    *Authority
	net     *testnet.Node
	starts  int
	elector *elector
}

func newCluster(t testing.TB, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, net: testnet.New(), ttl: voter.DefaultTTL, check: newChecker()}
	for range n {
		c.add()
	}
	c.setList(c.addrs()...)
	t.Cleanup(func() {
		c.net.Heal()
		for _, p := range c.nodes {
			p.crash()
		}
		c.check.verify(t)
	})
	return c
}

func (c *cluster) add() *peer {
	c.t.Helper()
	port := c.net.Port(c.t)
	p := &peer{c: c, name: fmt.Sprintf("n%d", len(c.nodes)+1), port: port, addr: port.Addr(), eligible: true}
	p.dir = filepath.Join(c.t.TempDir(), p.name)
	c.nodes = append(c.nodes, p)
	return p
}

func (c *cluster) addrs() []string {
	var all []string
	for _, p := range c.nodes {
		all = append(all, p.addr)
	}
	return all
}

func (c *cluster) setList(list ...string) {
	for _, p := range c.nodes {
		p.setList(list...)
	}
}

func (p *peer) setList(list ...string) {
	l := slices.Clone(list)
	p.list.Store(&l)
}

func (c *cluster) start() {
	c.t.Helper()
	for _, p := range c.nodes {
		p.start()
	}
}

func (p *peer) open() error {
	p.starts++
	p.net = p.port.Node()
	level := slog.LevelError
	if os.Getenv("QUORUM_LOG") != "" {
		level = slog.LevelDebug
	}
	cfg := voter.Config{
		Cluster: "test",
		Self:    p.addr,
		Voters:  func() ([]string, error) { return *p.list.Load(), nil },
		TTL:     p.c.ttl,
		DataDir: p.dir,
		Network: p.net,
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("node", p.name),
	}
	cfg.FoundPatience = time.Millisecond
	if p.tweak != nil {
		p.tweak(&cfg)
	}
	a, err := Open(context.Background(), cfg)
	if err != nil {
		p.net.Close()
		p.net = nil
		return err
	}
	p.auth = a
	return nil
}

func (p *peer) start() {
	p.c.t.Helper()
	if err := p.open(); err != nil {
		p.c.t.Fatal(err)
	}
	p.elector = startElector(p)
}

// crash ends the node without a word to anyone: the leases that it gave are still running.
func (p *peer) crash() {
	if p.auth == nil {
		return
	}
	if p.elector != nil { // not one that only open made
		p.elector.stop()
	}
	p.net.Close() // nothing leaves the node from here on
	p.auth.Close(context.Background())
	p.auth = nil
}

// leave ends the node in good order.
func (p *peer) leave() {
	p.elector.resign()
	p.elector.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	p.auth.Close(ctx)
	p.net.Close()
	p.auth = nil
}

// holder is what p claims as in its present life.
func (p *peer) holder() driver.Holder {
	return driver.Holder{NodeID: p.name, InstanceID: fmt.Sprintf("%s/%d", p.name, p.starts), Addr: p.addr}
}

// master waits until one of the nodes that run is master, and returns it.
func (c *cluster) master() *peer { c.t.Helper(); return c.masterNot(nil) }

func (c *cluster) masterNot(old *peer) *peer {
	c.t.Helper()
	var found *peer
	c.eventually("a master", func() bool {
		for _, p := range c.nodes {
			if p != old && p.auth != nil && p.elector.active() {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

func (c *cluster) eventually(what string, f func() bool) {
	c.t.Helper()
	wait.For(c.t, what, f, func() string {
		var state strings.Builder
		for _, p := range c.nodes {
			if p.auth != nil {
				m, err := p.auth.mastership()
				fmt.Fprintf(&state, "%s %s: %+v %v; %+v\n", p.name, p.addr, m, err, p.auth.voter.Status())
			}
		}
		return state.String()
	})
}

// elector is the least that stands on an authority: it claims where nobody
// holds, renews, and believes in its mastership until the deadline, which it
// counts from before the call.
type elector struct {
	p      *peer
	auth   *Authority
	holder driver.Holder
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	grant    driver.Grant
	deadline clock.Instant
	resigned chan struct{}
	done     chan struct{}
}

func startElector(p *peer) *elector {
	ctx, cancel := context.WithCancel(context.Background())
	e := &elector{p: p, auth: p.auth, holder: p.holder(), cancel: cancel, resigned: make(chan struct{}), done: make(chan struct{})}
	e.wg.Go(func() { defer close(e.done); e.run(ctx) })
	return e
}

func (e *elector) stop() { e.cancel(); e.wg.Wait() }

func (e *elector) resign() {
	select {
	case <-e.resigned:
	default:
		close(e.resigned)
	}
	<-e.done
}

func (e *elector) active() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return clock.Now().Before(e.deadline)
}

func (e *elector) term() driver.Term {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.grant.Term
}

func (e *elector) run(ctx context.Context) {
	vacant := make(chan struct{}, 1)
	e.wg.Go(func() {
		for m, err := range e.auth.Observe(ctx) {
			if err == nil && m.Holder == nil && m.Ineligible == "" {
				select {
				case vacant <- struct{}{}:
				default:
				}
			}
		}
	})
	if !e.p.eligible {
		<-ctx.Done()
		return
	}
	ttl := e.p.c.ttl
	for ctx.Err() == nil {
		select {
		case <-vacant:
		case <-time.After(ttl):
		case <-ctx.Done():
			return
		case <-e.resigned:
			return
		}
		if e.campaign(ctx, ttl) {
			return
		}
	}
}

// campaign reports whether the elector has resigned for good.
func (e *elector) campaign(ctx context.Context, ttl time.Duration) bool {
	before := clock.Now()
	call, cancel := context.WithTimeout(ctx, 4*ttl)
	g, err := e.auth.Acquire(call, driver.Claim{Holder: e.holder, ClusterID: "minted-by-" + e.holder.InstanceID})
	cancel()
	if err != nil {
		return false
	}
	e.hold(g, before)
	for {
		select {
		case <-time.After(ttl / 4):
		case <-ctx.Done():
			return true
		case <-e.resigned:
			e.hold(driver.Grant{}, 0)
			rel, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if err := e.auth.Release(rel, g); err != nil {
				e.p.c.t.Logf("%s: release: %v", e.p.name, err)
			}
			return true
		}
		before := clock.Now()
		call, cancel := context.WithTimeout(ctx, ttl)
		next, err := e.auth.Renew(call, g)
		cancel()
		switch {
		case err == nil:
			g = next
			e.hold(g, before)
		case errors.Is(err, driver.ErrSessionLost):
			e.forget()
			return false
		case !e.active():
			return false
		}
	}
}

// forget ends the belief and not what the checker holds the grant to: its validity
// was granted, whatever became of the leader.
func (e *elector) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.grant, e.deadline = driver.Grant{}, 0
}

// hold takes over a grant and tells the checker for how long it is believed in.
// A grant of 0 ends the belief.
func (e *elector) hold(g driver.Grant, before clock.Instant) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.grant = g
	if g.Term == 0 {
		e.deadline = 0
		e.p.c.check.end(e.holder.InstanceID)
		return
	}
	e.deadline = before.Add(g.ValidFor)
	e.p.c.check.believe(e.holder.InstanceID, g.Term, g.ClusterID, e.deadline)
}

// checker holds how long the grants were valid, and what they were worth together: no
// two holders at one moment, and terms that rise. It takes the grants at their
// word, without the margin that a careful holder keeps.
type checker struct {
	mu      sync.Mutex
	granted []*grantRecord
}

type grantRecord struct {
	who        string
	term       driver.Term
	cluster    string
	from, till clock.Instant
}

func newChecker() *checker { return &checker{} }

func (c *checker) believe(who string, term driver.Term, cluster string, until clock.Instant) {
	now := clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.granted {
		if t.who == who && t.term == term {
			if t.till.Before(until) {
				t.till = until
			}
			return
		}
	}
	c.granted = append(c.granted, &grantRecord{who, term, cluster, now, until})
}

func (c *checker) end(who string) {
	now := clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.granted {
		if t.who == who && now.Before(t.till) {
			t.till = now
		}
	}
}

func (c *checker) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.granted)
}

func (c *checker) verify(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, a := range c.granted {
		for _, b := range c.granted[:i] {
			if a.who != b.who && a.from < b.till && b.from < a.till {
				t.Errorf("two masters: %+v and %+v overlap by %v", *b, *a, min(a.till, b.till).Sub(max(a.from, b.from)))
			}
			if a.term == b.term {
				t.Errorf("one term twice: %+v and %+v", *b, *a)
			}
			if a.cluster != b.cluster {
				t.Errorf("two cluster ids: %+v and %+v", *b, *a)
			}
			if a.from >= b.from && a.term < b.term {
				t.Errorf("terms fall: %+v then %+v", *b, *a)
			}
		}
	}
}

// wipe loses the node's directory.
func (p *peer) wipe() {
	p.c.t.Helper()
	if err := os.RemoveAll(p.dir); err != nil {
		p.c.t.Fatal(err)
	}
}

// forget drops what was seen so far: what follows is another cluster.
func (c *checker) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.granted = nil
}
