package faults

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/netlab"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/httpapi"
)

// Options say what is attacked.
type Options struct {
	// Name is that of the case. Its random choices come from it and Seed.
	Name string
	Seed uint64
	// Provider is static, etcd or consul.
	Provider string
	// Nodes is how many there are. 0: 3.
	Nodes int
	// Servers is how many the store consists of. 0: 1.
	Servers int
	// Proxied has each node go to the store by a proxy, which can delay.
	Proxied bool
	// Cabled joins the hosts of the nodes by cables for which Trouble can be made.
	Cabled bool
	// TTL is that of mastership. 0: 2 s, or of a static list its default.
	TTL time.Duration
	// LogLevel is that of the nodes. Empty: debug.
	LogLevel string
}

// Lab is a cluster under attack.
type Lab struct {
	*journal

	Net   *netlab.Net
	Hosts []*Host // all that are to run
	Rand  *rand.Rand

	retired     []*Host // those that are not to run any more
	t           testing.TB
	options     Options
	cluster     string
	dir         string // of all files
	worker      string // the program
	store       *store
	expect      int
	voters      []string
	ttl         time.Duration // as configured, 0 for the default
	sessionTTL  time.Duration
	register    register
	registerURL string
	wrappers    []*wrapper
	client      http.Client
	background  sync.WaitGroup // waits for processes
	bounds      checker.Bounds
	broken      bool // what the checker finds is wanted
}

// New makes the hosts and starts the servers, and no node.
func New(t testing.TB, o Options) *Lab {
	t.Helper()
	netlab.Require(t)
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Servers == 0 {
		o.Servers = 1
	}
	if o.TTL == 0 && o.Provider != "static" {
		o.TTL = 2 * time.Second
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(o.Name))
	l := &Lab{
		journal: newJournal(), t: t, options: o, cluster: "orders", dir: t.TempDir(), worker: build(t, workerPackage), Net: netlab.New(t),
		Rand: rand.New(rand.NewPCG(o.Seed, h.Sum64())), expect: o.Nodes, ttl: o.TTL,
	}
	l.registerURL = l.register.serve(t, l.Net.Self()+":9000")
	l.bounds = bounds(o)
	if o.Provider != "static" {
		l.sessionTTL = o.TTL
	}
	l.store = newStore(t, l, o.Provider, o.Servers)
	for i := range o.Nodes {
		l.AddHost(fmt.Sprintf("h%d", i+1))
	}
	l.bounds.Voters = nil
	for _, h := range l.Hosts {
		l.voters = append(l.voters, h.Addr())
		l.bounds.Voters = append(l.bounds.Voters, h.Name())
	}
	watching, stop := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		l.watchStalls(watching)
	}()
	t.Cleanup(func() {
		stop()
		<-watched
	})
	t.Cleanup(func() {
		for _, w := range l.wrappers {
			w.process.Kill()
		}
		for _, h := range slices.Concat(l.Hosts, l.retired) {
			if h.Running() {
				h.process.Kill()
			}
		}
		l.background.Wait()
		l.client.CloseIdleConnections()
	})
	return l
}

// AddHost adds a host on which no node runs.
func (l *Lab) AddHost(name string) *Host {
	l.t.Helper()
	join := l.Net.Host
	if l.options.Cabled {
		join = l.Net.HostByCable
	}
	h := &Host{Host: join(name), lab: l, NodeID: name}
	l.Hosts = append(l.Hosts, h)
	l.store.joined(h)
	return h
}

// bounds are how long things may take, which docs/reliability.md explains.
func bounds(o Options) checker.Bounds {
	b := checker.Bounds{Component: 5 * time.Second}
	if o.Provider == "static" {
		ttl := o.TTL
		if ttl == 0 {
			ttl = 900 * time.Millisecond
		}
		b.Isolation = ttl
		b.Clear = ttl + 12*time.Second
		b.Master = 2*ttl + time.Second + 10*time.Second
		return b
	}
	// A store that comes back starts its leases afresh: twice the TTL, and a second.
	failover := 2*o.TTL + time.Second
	b.Isolation = 20 * time.Second
	b.Clear = failover + 12*time.Second
	b.Master = failover + 10*time.Second
	b.Registry = o.TTL + 2*time.Second
	if o.Provider == "consul" && o.Servers > 1 {
		// An agent that failed to tell the servers of a check that has expired, as while
		// they elect a leader, tries again after 15 to 30 s; the leader may have been lost
		// again by then.
		b.Registry += 75 * time.Second
	}
	return b
}

// programs are what the tests have built, by the path of the package.
var programs = map[string]*program{workerPackage: {tags: "musterfault"}, musterPackage: {}}

const (
	workerPackage = "github.com/musterhq/muster/internal/testing/faults/worker"
	musterPackage = "github.com/musterhq/muster/cmd/muster"
)

type program struct {
	tags string
	once sync.Once
	path string
	err  error
}

// build builds a program once, and returns its path.
func build(t testing.TB, pkg string) string {
	t.Helper()
	p := programs[pkg]
	p.once.Do(func() {
		dir, err := os.MkdirTemp("", "muster-faults-")
		if err != nil {
			p.err = err
			return
		}
		p.path = filepath.Join(dir, filepath.Base(pkg))
		cmd := exec.Command("go", "build", "-trimpath", "-tags", p.tags, "-o", p.path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("build %s: %w\n%s", pkg, err, output)
		}
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.path
}

// A timer that is late by more than this is taken for a machine that stood still, as a
// virtual one does at times, or one with a lot else to do.
const stallLimit = time.Second

// watchStalls notes when the machine stood still, by timers of its own.
func (l *Lab) watchStalls(ctx context.Context) {
	const interval = 50 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for last := now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		at := now()
		if late := time.Duration(at-last) - interval; late > stallLimit {
			l.logf("the machine stood still for %v", late.Round(time.Millisecond))
			l.stall(at, late)
		}
		last = at
	}
}

// watchStore notes, until the test ends, when no server of the store takes a write.
func (l *Lab) watchStore() {
	if !l.store.has() {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for out := false; ; {
			asked := now()
			takes := l.store.takesWrites(ctx)
			if ctx.Err() != nil {
				return
			}
			switch {
			case !takes && !out:
				l.storeOut(asked)
			case takes && out:
				l.storeBack()
			}
			out = !takes
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	l.t.Cleanup(func() {
		stop()
		<-done
	})
}

// StartAll starts a node on every host that has none.
func (l *Lab) StartAll() {
	l.t.Helper()
	for _, h := range l.Hosts {
		if !h.Running() {
			h.Start()
		}
	}
}

// Form starts all nodes and waits until they are one cluster. It returns its master.
func (l *Lab) Form() (master *Host) {
	l.t.Helper()
	l.StartAll()
	l.eventually("all nodes are a cluster with a master", func(ctx context.Context) bool {
		for _, h := range l.Hosts {
			if !h.Running() {
				l.t.Fatalf("%s has ended instead of joining: %s", h.Name(), h.lastWords())
			}
		}
		master = l.agreed(ctx, l.Hosts, true)
		return master != nil
	})
	l.logf("all is well, %s is master", master.Name())
	return master
}

// eventually waits until done, or ends the test with what was waited for.
func (l *Lab) eventually(what string, done func(ctx context.Context) bool) {
	l.t.Helper()
	if !l.within(wait.Patience, done) {
		l.t.Fatalf("not within %v: %s; %s", wait.Patience, what, l.describe())
	}
}

// within waits until done, and reports whether it was in time.
func (l *Lab) within(limit time.Duration, done func(ctx context.Context) bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return wait.Until(ctx, func() bool { return done(ctx) })
}

// Sleep lets the fault last.
func (l *Lab) Sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// UpTo is a random time between lo and hi.
func (l *Lab) UpTo(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(l.Rand.Int64N(int64(hi-lo)+1))
}

func (l *Lab) describe() string {
	text := ""
	for _, h := range l.Hosts {
		if !h.Running() {
			text += fmt.Sprintf("\n%s does not run", h.Name())
			continue
		}
		var s httpapi.Status
		err := h.get(context.Background(), httpapi.PathStatus, &s)
		v, _ := h.view(context.Background())
		m, _ := masterOf(v)
		text += fmt.Sprintf("\n%s: %d members, master %q in term %d, waiting for %q, %v", h.Name(), len(v.Members), m.NodeID, v.Term, s.WaitingFor, err)
	}
	return text
}

// Well waits until the nodes that run agree on one of them as master and see each
// other, and returns that one.
func (l *Lab) Well() (master *Host) {
	l.t.Helper()
	l.eventually("the nodes that run see each other and agree on a master", func(ctx context.Context) bool {
		master = l.agreed(ctx, l.running(), true)
		return master != nil
	})
	l.logf("all is well, %s is master", master.Name())
	return master
}

// Master waits until these hosts agree on a master that runs and is not one of those
// before, whatever else they see.
func (l *Lab) Master(hosts []*Host, before ...*Host) (master *Host) {
	l.t.Helper()
	l.eventually("a new master", func(ctx context.Context) bool {
		m := l.agreed(ctx, hosts, false)
		if m == nil || slices.Contains(before, m) {
			return false
		}
		master = m
		return true
	})
	l.logf("%s is master", master.Name())
	return master
}

// Renewed waits until the mastership of a host is renewed once more.
func (l *Lab) Renewed(h *Host) {
	l.t.Helper()
	renewals := func() (n int) {
		log, err := h.readHistory()
		if err != nil {
			l.t.Fatal(err)
		}
		for _, r := range log.Records {
			if r.Kind == history.Renewed {
				n++
			}
		}
		return n
	}
	before := renewals()
	l.eventually(h.Name()+" renews its mastership", func(context.Context) bool { return renewals() > before })
}

// NoMaster waits until none of these hosts names a master.
func (l *Lab) NoMaster(hosts []*Host) {
	l.t.Helper()
	l.eventually("nobody names a master", func(ctx context.Context) bool {
		for _, h := range hosts {
			v, err := h.view(ctx)
			if err != nil {
				return false
			}
			if _, named := masterOf(v); named {
				return false
			}
		}
		return true
	})
	l.logf("nobody names a master")
}

// agreed is the master that all of the hosts name, nil if they do not. With whole they
// also see each other and nobody else.
func (l *Lab) agreed(ctx context.Context, hosts []*Host, whole bool) *Host {
	var id, node string
	var members []string
	for i, h := range hosts {
		v, err := h.view(ctx)
		if err != nil {
			return nil
		}
		m, named := masterOf(v)
		if !named || i > 0 && m.InstanceID != id {
			return nil
		}
		id, node = m.InstanceID, m.NodeID
		if !whole {
			continue
		}
		var seen []string
		for _, m := range v.Members {
			seen = append(seen, m.InstanceID)
		}
		slices.Sort(seen)
		if len(seen) != len(hosts) || i > 0 && !slices.Equal(seen, members) {
			return nil
		}
		members = seen
	}
	for _, h := range hosts {
		if h.NodeID == node {
			return h
		}
	}
	for _, h := range l.Hosts {
		if h.NodeID == node && !whole {
			return h
		}
	}
	return nil
}

func (l *Lab) running() (hosts []*Host) {
	for _, h := range l.Hosts {
		if h.Running() {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Others are all hosts but these.
func (l *Lab) Others(but ...*Host) (hosts []*Host) {
	for _, h := range l.Hosts {
		if !slices.Contains(but, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Any is a host by chance.
func (l *Lab) Any(hosts []*Host) *Host { return hosts[l.Rand.IntN(len(hosts))] }

// Shuffled is the hosts in an order by chance.
func (l *Lab) Shuffled() []*Host {
	hosts := slices.Clone(l.Hosts)
	l.Rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	return hosts
}

// Cut breaks the way from a host to another; the way back is not touched.
func (l *Lab) Cut(from, to *Host, mode netlab.Mode) {
	l.t.Helper()
	l.Net.Cut(from.IP(), to.IP(), mode)
	l.noteCuts([2]*Host{from, to})
}

// CutBoth breaks both ways between two hosts.
func (l *Lab) CutBoth(a, b *Host, mode netlab.Mode) {
	l.t.Helper()
	l.Cut(a, b, mode)
	l.Cut(b, a, mode)
}

// Part cuts all ways between groups of hosts.
func (l *Lab) Part(mode netlab.Mode, groups ...[]*Host) {
	l.t.Helper()
	var addrs [][]string
	var ways [][2]*Host
	for i, group := range groups {
		var ips []string
		for _, a := range group {
			ips = append(ips, a.IP())
			for j, other := range groups {
				for _, b := range other {
					if i != j {
						ways = append(ways, [2]*Host{a, b})
					}
				}
			}
		}
		addrs = append(addrs, ips)
	}
	l.Net.Part(mode, addrs...)
	l.noteCuts(ways...)
	l.logf("split: %s", names(groups...))
}

func names(groups ...[]*Host) string {
	text := ""
	for i, group := range groups {
		if i > 0 {
			text += "|"
		}
		for j, h := range group {
			if j > 0 {
				text += ","
			}
			text += h.Name()
		}
	}
	return text
}

// noteCuts has the checker know, once they are in force.
func (l *Lab) noteCuts(ways ...[2]*Host) {
	for _, w := range ways {
		l.cut(checker.Fault{Kind: checker.Cut, From: w[0].Name(), To: w[1].Name()})
	}
}

// Trouble has all packets of these hosts come late, out of order or twice.
func (l *Lab) Trouble(t netlab.Trouble, hosts ...*Host) {
	l.t.Helper()
	for _, h := range hosts {
		l.Net.Trouble(h.Host, t)
	}
	l.logf("packets of %s come %v later and up to %v more, %d %% of them twice", names(hosts), t.Delay, t.Jitter, t.Twice)
}

// CutStore cuts hosts off from all servers, or from the proxies before them.
func (l *Lab) CutStore(mode netlab.Mode, hosts ...*Host) {
	l.t.Helper()
	for _, h := range hosts {
		for _, ip := range l.store.ips() {
			l.Net.Cut(h.IP(), ip, mode)
			l.Net.Cut(ip, h.IP(), mode)
		}
	}
	for _, h := range hosts {
		l.cut(checker.Fault{Kind: checker.StoreCut, Host: h.Name()})
	}
	l.logf("%s cut off from the store", names(hosts))
}

// DelayStore has what the store answers these hosts come so much later.
func (l *Lab) DelayStore(by time.Duration, hosts ...*Host) {
	for _, h := range hosts {
		for _, way := range l.store.ways(h) {
			way.Delay(delayedWay, by)
		}
	}
	l.logf("answers of the store to %s come %v later", names(hosts), by)
}

// HoldStore has what these hosts ask the store arrive so much later. 0 ends it.
func (l *Lab) HoldStore(by time.Duration, hosts ...*Host) {
	for _, h := range hosts {
		for _, way := range l.store.ways(h) {
			way.Delay(faultproxy.Requests, by)
		}
	}
	l.logf("requests of %s to the store arrive %v later", names(hosts), by)
}

// HealNet ends all faults of the network and of the ways to the store.
func (l *Lab) HealNet() {
	l.t.Helper()
	l.cutsEnd()
	l.Net.Heal()
	for _, ways := range l.store.proxies {
		for _, way := range ways {
			way.Restore()
		}
	}
	l.logf("the network is well again")
}

// Heal ends all faults, and starts what does not run.
func (l *Lab) Heal() {
	l.t.Helper()
	l.HealNet()
	for _, h := range l.Hosts {
		h.Resume()
	}
	l.store.restore()
	l.StartAll()
}

// masterNow is the host that says itself that it is master, nil if none does.
func (l *Lab) masterNow() *Host {
	for _, h := range l.running() {
		h.mu.Lock()
		paused := h.paused
		h.mu.Unlock()
		if paused {
			continue
		}
		if v, err := h.view(context.Background()); err == nil {
			if m, ok := masterOf(v); ok && m.Self {
				return h
			}
		}
	}
	return nil
}
