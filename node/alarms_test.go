package node_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/settings"
	"github.com/musterhq/muster/internal/testing/alarmlog"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/providers/static"
	"github.com/musterhq/muster/registrar/advertise"
)

// has reports whether there is a line of an alarm at this level.
func (b *logBuffer) has(t testing.TB, level, name string) bool {
	t.Helper()
	return slices.ContainsFunc(b.records(t), func(r map[string]any) bool {
		return r["level"] == level && r[alarm.AttrAlarm] == name
	})
}

// line returns the last line of an alarm at this level.
func (b *logBuffer) line(t testing.TB, level, name string) map[string]any {
	t.Helper()
	var last map[string]any
	for _, r := range b.records(t) {
		if r["level"] == level && r[alarm.AttrAlarm] == name {
			last = r
		}
	}
	return last
}

// waitRaised waits for the warning of each alarm.
func (b *logBuffer) waitRaised(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		wait.For(t, "a warning of "+name, func() bool { return b.has(t, "WARN", name) })
	}
}

// waitQuiet waits until the log has no warning that is not over.
func (b *logBuffer) waitQuiet(t testing.TB) {
	t.Helper()
	var open []string
	defer func() {
		if t.Failed() {
			t.Logf("open: %s", strings.Join(open, "\n"))
		}
	}()
	wait.For(t, "every warning is over", func() bool {
		b.mu.Lock()
		text := b.lines.String()
		b.mu.Unlock()
		var err error
		if open, err = alarmlog.Open(strings.NewReader(text), ""); err != nil {
			t.Fatal(err)
		}
		return len(open) == 0
	})
}

// logInto has a node write to b, and its registry as well, as an agent does.
func (c *cluster) logInto(b *logBuffer, id string) func(*node.Config) {
	return func(cfg *node.Config) {
		cfg.Logger = b.logger()
		registry := discovery.New("memory", c.memory.Driver(), discovery.Options{Logger: b.logger().With("node_id", id)})
		c.t.Cleanup(func() { _ = registry.Close() })
		cfg.Registries = []*discovery.Registry{registry}
	}
}

// Each line says which node it is of, once.
func checkNodeID(t *testing.T, b *logBuffer, id string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.lines.String()) {
		if strings.Count(line, `"node_id":`) != 1 || !strings.Contains(line, fmt.Sprintf(`"node_id":%q`, id)) {
			t.Errorf("not of node %s alone: %s", id, line)
		}
	}
}

// While the provider fails, the log says so, with its name and the error; losing the
// master is a warning; and when it is back, all of that is over.
func TestAlarmsOfAProviderThatFails(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var log logBuffer
	n := c.start("a", c.logInto(&log, "a"))
	c.waitMaster(0, n)
	c.memory.Fail(fmt.Errorf("%w: the disk is on fire", driver.ErrUnavailable))
	log.waitRaised(t, "provider_fails", "session_fails", "authority_fails", "mastership_lost", "master_lost")
	for _, name := range []string{"provider_fails", "authority_fails"} {
		if r := log.line(t, "WARN", name); r["provider"] != "memory" || !strings.Contains(fmt.Sprint(r["error"]), "the disk is on fire") {
			t.Errorf("%s: %v", name, r)
		}
	}
	if r := log.line(t, "WARN", "master_lost"); r["master"] != "a" || r["term"] != 1.0 {
		t.Errorf("master_lost: %v", r)
	}
	c.memory.Fail(nil)
	c.waitMaster(1, n)
	log.waitQuiet(t)
	checkNodeID(t, &log, "a")
}

// A majority that is lost is a warning, as is each member that failed, on both sides; when
// the network is healed all of it is over.
func TestAlarmsOfAPartition(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	net := newSplitNetwork()
	var logs [3]logBuffer
	var nodes []*node.Node
	addrs := []string{freeAddr(t), freeAddr(t), freeAddr(t)}
	for i, addr := range addrs {
		id := fmt.Sprintf("n%d", i)
		nodes = append(nodes, c.start(id, c.logInto(&logs[i], id), net.on(addr), func(cfg *node.Config) { cfg.Bootstrap.Expect = 3 }))
	}
	_, term := c.waitMaster(0, nodes...)
	c.waitMembers(3, nodes...)
	net.cut(addrs[0])
	c.waitMembers(1, nodes[0])
	c.waitMembers(2, nodes[1:]...)
	logs[0].waitRaised(t, "majority_lost", "member_failed")
	logs[1].waitRaised(t, "member_failed")
	if logs[1].has(t, "WARN", "majority_lost") {
		t.Error("n1 has a majority in sight, and warns that it was lost")
	}
	net.heal()
	c.waitMembers(3, nodes...)
	c.waitMaster(0, nodes...)
	for i := range logs {
		logs[i].waitQuiet(t)
		checkNodeID(t, &logs[i], nodes[i].ID())
	}
	_ = term
}

// A node at an address where nobody reaches it is a warning until somebody does.
func TestAlarmOfAnUnreachableNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start("a")
	addr := freeAddr(t)
	var log logBuffer
	lost := c.start("b", c.logInto(&log, "b"), func(cfg *node.Config) { cfg.Advertise = addr })
	log.waitRaised(t, "unreachable")
	if r := log.line(t, "WARN", "unreachable"); r["addr"] != addr || r["member"] != "a" || !strings.Contains(fmt.Sprint(r["error"]), "connection refused") {
		t.Errorf("%v", r)
	}
	forward(t, addr, lost.BoundAddr())
	wait.For(t, "b was reached", reachable(lost))
	log.waitQuiet(t)
}

// Files of certificates that cannot be used are a warning until they can.
func TestAlarmOfBrokenCertificates(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ours := newAuthority(t, "ours")
	files := tlsFiles(t)
	put(t, files, ours, ours)
	var log logBuffer
	n := c.start("a", c.logInto(&log, "a"), func(cfg *node.Config) { cfg.TLS = files })
	good, err := os.ReadFile(files.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.CertFile, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	log.waitRaised(t, "certificate_files_unusable")
	if err := os.WriteFile(files.CertFile, good, 0o600); err != nil {
		t.Fatal(err)
	}
	log.waitQuiet(t)
	c.waitMaster(0, n)
}

// flakyDisk fails while it is full.
type flakyDisk struct{ full chan bool }

func (d flakyDisk) Write(b []byte) (int, error) {
	full := <-d.full
	d.full <- full
	if full {
		return 0, errors.New("no space left on device")
	}
	return len(b), nil
}

// A history that is not written is a warning until it is.
func TestAlarmOfAHistoryThatIsNotWritten(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	disk := flakyDisk{make(chan bool, 1)}
	disk.full <- true
	var log logBuffer
	c.start("a", c.logInto(&log, "a"), func(cfg *node.Config) { cfg.History = disk })
	log.waitRaised(t, "history_unwritten")
	<-disk.full
	disk.full <- false
	log.waitQuiet(t)
}

// A voter that is missing is a warning until it is there.
func TestAlarmOfAMissingVoter(t *testing.T) {
	t.Parallel()
	addrs := []string{freeAddr(t), freeAddr(t), freeAddr(t)}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	c := newCluster(t)
	start := func(i int, log *logBuffer) *node.Node {
		id := fmt.Sprintf("n%d", i)
		return c.start(id, func(cfg *node.Config) {
			registry, err := discovery.Open("static", &static.Config{Peers: addrs}, discovery.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = registry.Close() })
			cfg.Bind, cfg.Registries, cfg.DataDir = addrs[i], []*discovery.Registry{registry}, dirs[i]
			if log != nil {
				cfg.Logger = log.logger()
			}
		})
	}
	var log logBuffer
	nodes := []*node.Node{start(0, &log), start(1, nil), start(2, nil)}
	c.waitMaster(0, nodes...)
	ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
	defer cancel()
	nodes[2].Kill()
	nodes[1].Kill()
	log.waitRaised(t, "member_failed", "majority_lost", "authority_fails")
	for _, n := range nodes[1:] {
		if err := n.Leave(ctx); err != nil {
			t.Logf("%s: %v", n.ID(), err)
		}
	}
	again := []*node.Node{nodes[0], start(1, nil), start(2, nil)}
	c.waitMaster(0, again...)
	log.waitQuiet(t)
	checkNodeID(t, &log, "n0")
}

// Losing the master is an event of its own, with the last master and its term; that the
// cluster was formed is no news of each member; and what a member says otherwise is named,
// in the history too.
func TestEventsOfTheMaster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var kept sharedBuffer
	var log logBuffer
	master := c.start("a")
	first, term := c.waitMaster(0, master)
	follower := c.start("b", func(cfg *node.Config) {
		cfg.Mastership.Eligible, cfg.History, cfg.Logger = new(false), &kept, log.logger()
	})
	c.waitMaster(0, master, follower)
	c.waitMembers(2, master, follower)
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	events := make(chan node.Event, 100)
	go func() {
		for e := range follower.Events(ctx) {
			events <- e
		}
	}()
	next := func(kind node.EventKind) node.Event {
		t.Helper()
		for {
			select {
			case e := <-events:
				switch {
				case e.Kind == node.MemberUpdated && len(e.Changed) == 0, e.Kind != node.MemberUpdated && len(e.Changed) > 0:
					t.Errorf("%s with the changes %q", e.Kind, e.Changed)
				case (e.Kind == node.MasterChanged || e.Kind == node.MasterLost) && e.Master == nil:
					t.Errorf("%s without a master", e.Kind)
				}
				if e.Kind == kind {
					return e
				}
			case <-ctx.Done():
				t.Fatalf("no event %s", kind)
			}
		}
	}
	if e := next(node.MasterChanged); e.Master.InstanceID != first.InstanceID() || e.Master.Term != term {
		t.Errorf("master_changed: %+v", e.Master)
	}
	wait.Leave(t, master.Leave)
	if e := next(node.MasterLost); e.Master.InstanceID != first.InstanceID() || e.Master.Term != term || e.View.Master != nil {
		t.Errorf("master_lost: %+v", e.Master)
	}
	wait.For(t, "the history has the events", func() bool {
		return slices.ContainsFunc(kept.records(t), func(r history.Record) bool {
			return r.Kind == history.View && slices.ContainsFunc(r.Events, func(e history.Event) bool {
				return e.Kind == "master_lost" && e.NodeID == "a" && e.InstanceID == first.InstanceID() && e.Term == uint64(term)
			})
		})
	})
	for _, r := range kept.records(t) {
		for _, e := range r.Events {
			if (e.Kind == "member_updated") != (len(e.Changed) > 0) || slices.Contains(e.Changed, "cluster_id") {
				t.Errorf("an event of the history: %+v", e)
			}
		}
	}
	log.waitRaised(t, "master_lost")
	other := c.start("c")
	c.waitMaster(term, other, follower)
	log.waitQuiet(t)
}

// Where no master is wanted, the node is ready without one, is listed and sees the others,
// and a caller that asks for mastership is told at once.
func TestNoAuthorityWanted(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var log logBuffer
	none := func(cfg *node.Config) { cfg.Mastership.Authority = []string{node.AuthorityNone} }
	a, b := c.start("a", c.logInto(&log, "a"), none), c.start("b", none)
	c.waitMembers(2, a, b)
	for _, n := range []*node.Node{a, b} {
		wait.For(t, n.ID()+" is ready", func() bool { return n.Status().Ready })
		s := n.Status()
		if s.WaitingFor != "mastership.authority is none, so that no member is granted mastership" || s.View.Warning != "" {
			t.Errorf("%s: waiting for %q, warning %q", n.ID(), s.WaitingFor, s.View.Warning)
		}
		if s.Providers[0].Authority || !s.Providers[0].Registration.Registered() {
			t.Errorf("%s: the provider %+v", n.ID(), s.Providers[0])
		}
		if m, ok := n.Master(); ok || n.IsMaster() {
			t.Errorf("%s: master %+v", n.ID(), m)
		}
		if _, err := n.Check(); !errors.Is(err, node.ErrNoAuthority) || !errors.Is(err, node.ErrNoMaster) {
			t.Errorf("%s: Check = %v, want ErrNoAuthority", n.ID(), err)
		}
		err := n.WhileMaster(t.Context(), func(context.Context, node.Term) error { t.Error("it ran"); return nil })
		if !errors.Is(err, node.ErrNoAuthority) {
			t.Errorf("%s: WhileMaster = %v, want ErrNoAuthority", n.ID(), err)
		}
	}
	log.waitQuiet(t)

	// A node that is granted by the provider is master for those, too, who want none.
	granted := c.start("c")
	c.waitMaster(0, granted, a, b)
	if _, err := a.Check(); !errors.As(err, new(*node.NotMasterError)) {
		t.Errorf("Check beside a master = %v, want who that is", err)
	}
	if s := a.Status(); !s.Ready || s.WaitingFor != "" {
		t.Errorf("beside a master: ready %v, waiting for %q", s.Ready, s.WaitingFor)
	}
}

// A provider that cannot grant mastership, where nobody has said that none is wanted: the
// node is not ready, and says both what is missing and what to write.
func TestNoAuthorityByAccident(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.start("a", func(cfg *node.Config) {
		registry, err := discovery.Open("static", &static.Config{DNS: []string{"localhost:7946"}}, discovery.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = registry.Close() })
		cfg.Registries = []*discovery.Registry{registry}
	})
	const hint = "where no master is wanted, write mastership.authority: none"
	wait.For(t, "the node says what to do", func() bool {
		s := n.Status()
		return !s.Ready && strings.Contains(s.WaitingFor, "no voters are listed") && strings.Contains(s.WaitingFor, hint)
	})
	if !strings.Contains(n.View().Warning, hint) {
		t.Errorf("warning %q", n.View().Warning)
	}
	if err := n.WhileMaster(t.Context(), nil); !errors.Is(err, node.ErrNoAuthority) || !strings.Contains(err.Error(), "no voters are listed") {
		t.Errorf("WhileMaster = %v, want ErrNoAuthority", err)
	}
}

// DNS alone finds members, and is ready where no master is wanted.
func TestNamesAloneWithoutAMaster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	bind := freeAddr(t)
	_, port, _ := strings.Cut(bind, ":")
	start := func(id, bind string) *node.Node {
		return c.start(id, func(cfg *node.Config) {
			registry, err := discovery.Open("static", &static.Config{DNS: []string{"localhost:" + port}}, discovery.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = registry.Close() })
			cfg.Registries, cfg.Bind, cfg.Mastership.Authority = []*discovery.Registry{registry}, bind, []string{node.AuthorityNone}
		})
	}
	a, b := start("a", bind), start("b", "127.0.0.1:0")
	c.waitMembers(2, a, b)
	for _, n := range []*node.Node{a, b} {
		wait.For(t, n.ID()+" is ready", func() bool { return n.Status().Ready })
	}
}

// Where nobody may be master, each node says that it is so of all members, and what to do;
// one that may be, and is not there, is not mentioned as a reason any more once it is.
func TestNobodyIsEligible(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ineligible := func(cfg *node.Config) { cfg.Mastership.Eligible = new(false) }
	a, b := c.start("a", ineligible), c.start("b", ineligible)
	c.waitMembers(2, a, b)
	for _, n := range []*node.Node{a, b} {
		wait.For(t, n.ID()+" says that nobody is eligible", func() bool {
			s := n.Status()
			return !s.Ready && strings.HasPrefix(s.WaitingFor, "the cluster is not formed: none of the 2 members in sight may be master; set mastership.eligible")
		})
	}
	other := c.start("c")
	c.waitMaster(0, other, a, b)
	wait.For(t, "a is ready", func() bool { return a.Status().Ready && a.Status().WaitingFor == "" })
}

// An operator's mistakes about authority are reported with the hint.
func TestAuthorityNoneStandsAlone(t *testing.T) {
	if err := settings.CheckAuthority([]string{"none"}, []string{"etcd", "consul"}); err != nil {
		t.Errorf("none with two providers: %v", err)
	}
	err := settings.CheckAuthority([]string{"none", "etcd"}, []string{"etcd", "consul"})
	if err == nil || !strings.Contains(err.Error(), "none stands alone") || !errors.As(err, new(*driver.ConfigError)) {
		t.Errorf("none beside another: %v", err)
	}
	err = settings.CheckAuthority(nil, []string{"etcd", "consul"})
	if err == nil || !strings.Contains(err.Error(), "or none where no master is wanted") {
		t.Errorf("nothing with two providers: %v", err)
	}
}

// resolver answers with an address, or fails.
type resolver struct{ now chan string }

func (r resolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	now := <-r.now
	r.now <- now
	addr, err := netip.ParseAddr(now)
	return []netip.Addr{addr}, err
}

func (r resolver) is(now string) {
	<-r.now
	r.now <- now
}

// An address that is not found again, or that has become another one for a moment, is an
// alarm until the old one is found.
func TestAlarmsOfAnAddressThatComesBack(t *testing.T) {
	t.Parallel()
	names := resolver{make(chan string, 1)}
	names.now <- "127.0.0.1"
	c := newCluster(t)
	var log logBuffer
	c.start("a", c.logInto(&log, "a"), func(c *node.Config) {
		c.Advertise = "node.localhost:7946"
		c.SetAddress(advertise.Options{Resolver: names, Interval: time.Millisecond}, time.Hour)
	})
	names.is("no address")
	log.waitRaised(t, "address_unknown")
	names.is("127.0.0.2")
	log.waitRaised(t, "address_moved")
	wait.For(t, "an address is found again", func() bool { return log.has(t, "INFO", "address_unknown") })
	names.is("127.0.0.1")
	wait.For(t, "it is the old one", func() bool { return log.has(t, "INFO", "address_moved") })
}
