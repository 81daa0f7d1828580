package quorum

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/static/internal/voter"
)

// voting waits until each node that runs and is listed, and does not wait to be
// taken in, takes part in Raft and knows its leader.
func (c *cluster) voting() {
	c.t.Helper()
	c.eventually("voting by all", func() bool {
		for _, p := range c.nodes {
			if p.auth == nil || !p.auth.voter.Listed() {
				continue
			}
			s := p.auth.voter.Status()
			if s.Phase != voter.PhaseEmpty && (s.Leader == "" || len(s.Servers) == 0 || s.Term == 0) {
				return false
			}
		}
		return true
	})
}

// formed starts n voters, and returns them and their master once all take part.
func formed(t *testing.T, n int) (*cluster, *peer) {
	t.Helper()
	c := newCluster(t, n)
	c.start()
	m := c.master()
	c.voting()
	return c, m
}

// others returns the nodes but one.
func (c *cluster) others(than *peer) []*peer {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(p *peer) bool { return p == than })
}

// ask returns a context that bounds one call.
func ask(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
	t.Cleanup(cancel)
	return ctx
}

func TestFormAndFailOver(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 5} {
		c := newCluster(t, n)
		began := time.Now()
		c.start()
		first := c.master()
		t.Logf("%d voters: formed after %v", n, time.Since(began))
		if got := first.elector.term(); got != 1 {
			t.Errorf("first term is %d, want 1", got)
		}
		began = time.Now()
		first.crash()
		second := c.masterNot(first)
		t.Logf("%d voters: a crash was made up for after %v", n, time.Since(began))
		if got := second.elector.term(); got != 2 {
			t.Errorf("second term is %d, want 2", got)
		}
		first.start()
		c.voting()
		began = time.Now()
		done := make(chan struct{})
		go func() { defer close(done); second.leave() }()
		c.masterNot(second)
		t.Logf("%d voters: handed over after %v", n, time.Since(began))
		<-done
	}
}

func TestOneVoterWorksAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.start()
	p := c.master()
	m, err := p.auth.mastership()
	if err != nil || m.Expected != 1 || m.Warning != "" || m.Holder == nil || m.Holder.NodeID != p.name {
		t.Errorf("mastership is %+v, %v", m, err)
	}
	if _, err := p.auth.Set(ask(t), "k", []byte("v"), 0); err != nil {
		t.Error(err)
	}
	p.crash()
	p.start()
	c.master()
	if r, err := p.auth.Get(ask(t), "k"); err != nil || string(r.Value) != "v" {
		t.Errorf("after a restart Get returned %+v, %v", r, err)
	}
	if got := p.elector.term(); got != 2 {
		t.Errorf("after a restart the term is %d, want 2", got)
	}
}

func TestTwoVotersWarn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.start()
	p := c.master()
	m, err := p.auth.mastership()
	if err != nil || !strings.Contains(m.Warning, "two voters tolerate no failure") {
		t.Errorf("mastership is %+v, %v", m, err)
	}
	c.others(p)[0].crash()
	c.eventually("end of the mastership", func() bool { return !p.elector.active() })
}

// TestPartition is fault 14 with the writes of fault 19: the side of two loses its
// master and takes no write; the side of three goes on; healed, they are one.
func TestPartition(t *testing.T) {
	t.Parallel()
	c, old := formed(t, 5)
	others := c.others(old)
	minority, majority := []*peer{old, others[0]}, others[1:]
	c.put(old, "k", "before")
	c.net.Cut(addrs(minority), addrs(majority), true)
	next := c.masterNot(old)
	for _, p := range minority {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		if _, err := p.auth.Set(ctx, "lost", []byte("x"), 0); err == nil {
			t.Errorf("%s of the minority took a write", p.name)
		}
		if r, err := p.auth.Get(ctx, "k"); err == nil {
			t.Errorf("%s of the minority answered a read with %q", p.name, r.Value)
		}
		cancel()
	}
	if got := c.get(next, "k"); got != "before" {
		t.Fatalf("Get returned %q", got)
	}
	c.put(next, "k", "after")
	began := time.Now()
	c.net.Heal()
	c.eventually("agreement", func() bool {
		for _, p := range c.nodes {
			m, err := p.auth.mastership()
			if err != nil || m.Holder == nil || m.Term < 2 {
				return false
			}
		}
		return true
	})
	t.Logf("agreed %v after the heal", time.Since(began))
	for _, p := range c.nodes {
		if got := c.get(p, "k"); got != "after" {
			t.Errorf("%s: Get returned %q", p.name, got)
		}
	}
}

// get reads a record, and tries again while there is no leader.
func (c *cluster) get(p *peer, key string) (value string) {
	c.t.Helper()
	c.eventually("answer", func() bool {
		r, err := p.auth.Get(ask(c.t), key)
		if errors.Is(err, driver.ErrUnavailable) {
			return false
		}
		if err != nil {
			c.t.Fatal(err)
		}
		value = string(r.Value)
		return true
	})
	return value
}

// put writes a record for certain: after an answer that says nothing it looks.
func (c *cluster) put(p *peer, key, value string) {
	c.t.Helper()
	c.eventually("write", func() bool {
		r, err := p.auth.Get(ask(c.t), key)
		switch {
		case err == nil && string(r.Value) == value:
			return true
		case err != nil && !errors.Is(err, driver.ErrNotFound):
			return false
		}
		_, err = p.auth.Set(ask(c.t), key, []byte(value), r.Revision)
		return err == nil
	})
}

func addrs(ps []*peer) []string {
	var all []string
	for _, p := range ps {
		all = append(all, p.addr)
	}
	return all
}

// steady wants the masters to change at most max times within a while. A change while the
// machine stalled proves nothing: then it looks again.
func (c *cluster) steady(max int) {
	c.t.Helper()
	changes := 0
	for range 5 {
		before := c.check.count()
		stall := longestStall(8 * c.ttl) // not for something, but that nothing comes
		if changes = c.check.count() - before; changes <= max {
			return
		}
		if stall < c.ttl/8 {
			break
		}
		c.t.Logf("%d changes of master in %v, in which the machine stalled for %v", changes, 8*c.ttl, stall)
	}
	c.t.Errorf("%d changes of master in %v, want at most %d", changes, 8*c.ttl, max)
}

// longestStall waits for d, and returns by how much this process came late at most.
func longestStall(d time.Duration) (longest time.Duration) {
	const step = 5 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	for begun, last := time.Now(), time.Now(); last.Sub(begun) < d; {
		<-tick.C
		now := time.Now()
		longest = max(longest, now.Sub(last)-step)
		last = now
	}
	return longest
}

// TestBrokenLinks is faults 15, 16 and 17: one direction of one link, one link,
// and all links but a ring. A node that is cut off from some keeps or finds a master,
// and the masters do not chase one another.
func TestBrokenLinks(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 5)
	other := c.others(m)[0]
	c.net.Cut([]string{m.addr}, []string{other.addr}, false)
	c.steady(1)
	c.net.Heal()
	c.net.Cut([]string{m.addr}, []string{other.addr}, true)
	c.steady(1)
	c.net.Heal()
	for i, p := range c.nodes {
		for j, q := range c.nodes {
			if d := (j - i + 5) % 5; d == 2 || d == 3 {
				c.net.Cut([]string{p.addr}, []string{q.addr}, true)
			}
		}
	}
	c.steady(2)
	c.master()
	c.steady(1)
	c.net.Heal()
	c.master()
}

// TestAllApart is fault 18.
func TestAllApart(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 3)
	c.net.Cut(c.addrs(), c.addrs(), true)
	c.eventually("end of the mastership", func() bool { return !m.elector.active() })
	c.steady(0)
	began := time.Now()
	c.net.Heal()
	c.master()
	t.Logf("a master %v after the heal", time.Since(began))
}

// TestLateAnswers delays what voters answer for longer than the election timeout.
// A lease that is counted from the receipt of answers, as Raft's own is, makes two
// masters of this.
func TestLateAnswers(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.start()
	for range 4 {
		m := c.master()
		for _, p := range c.others(m) {
			c.net.Slow(p.addr, m.addr, 3*c.ttl)
		}
		next := c.masterNot(m)
		if next.elector.term() <= m.elector.term() && m.elector.active() {
			t.Errorf("%s and %s at once", m.name, next.name)
		}
		c.net.Heal()
		c.eventually("one leader", func() bool { return m.auth.voter.KnownLeader() == next.auth.voter.KnownLeader() })
	}
}

// TestRestarts kills all voters and starts them at once, which forget what they
// promised: the new master comes after the vote leases have ended, which the checker
// sees to.
func TestRestarts(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.ttl = 800 * time.Millisecond
	c.start()
	var last driver.Term
	for range 4 {
		m := c.master()
		if m.elector.term() <= last {
			t.Errorf("term %d after %d", m.elector.term(), last)
		}
		last = m.elector.term()
		others := c.others(m)
		for _, p := range others {
			p.crash()
		}
		for _, p := range others {
			p.start()
		}
		// Those that restarted are a majority, and could elect one of them while the
		// master still has their leases.
		c.net.Cut([]string{m.addr}, c.addrs(), true)
		c.masterNot(m)
		c.net.Heal()
		c.voting()
	}
}

// TestLostDataDir is fault 48: a voter comes back without its directory, as a new
// voter, and the old one is taken out.
func TestLostDataDir(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 3)
	lost := c.others(m)[1]
	oldID := lost.auth.voter.Status().ID
	lost.crash()
	lost.wipe()
	lost.start()
	c.eventually("another id", func() bool {
		id := lost.auth.voter.Status().ID
		return id != "" && id != oldID
	})
	c.inForce(c.nodes...)
	// It counts: with another gone, it makes the majority.
	m.crash()
	next := c.masterNot(m)
	t.Logf("%s is master with term %d", next.name, next.elector.term())
	// Twice the same.
	m.wipe()
	m.start()
	c.inForce(c.nodes...)
	c.eventually("no warning", func() bool {
		ms, err := next.auth.mastership()
		return err == nil && ms.Warning == ""
	})
}

// TestMajorityLosesItsDataDirs: those who kept theirs elect nobody any more, all say so and
// how to fix it, and one directory that comes back is enough. (The other way takes
// nodes that remember the term: see the case majority-loses-data in internal/testing/faults.)
func TestMajorityLosesItsDataDirs(t *testing.T) {
	t.Parallel()
	c, keeper := formed(t, 3)
	lost := c.others(keeper)
	for _, p := range lost {
		p.crash()
		if err := os.Rename(p.dir, p.dir+".lost"); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range lost {
		p.start()
	}
	for _, p := range c.nodes {
		c.eventually(p.name+" says what is lost", func() bool {
			ms, err := p.auth.mastership()
			return err == nil && strings.Contains(ms.Warning, "stop "+keeper.addr+", remove its node.data_dir")
		})
	}
	found := lost[0]
	found.crash()
	found.wipe()
	if err := os.Rename(found.dir+".lost", found.dir); err != nil {
		t.Fatal(err)
	}
	found.start()
	c.master()
	c.inForce(c.nodes...)
	c.eventually("no warning", func() bool {
		ms, err := keeper.auth.mastership()
		return err == nil && ms.Warning == ""
	})
}

// TestWitness: a leader in Raft that does not want to be master makes room for one
// that does.
func TestWitness(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.nodes[0].eligible, c.nodes[1].eligible = false, false
	c.start()
	if m := c.master(); m != c.nodes[2] {
		t.Fatalf("%s is master, which does not want to be", m.name)
	}
	c.voting()
	for range 3 {
		c.nodes[2].crash()
		c.eventually("a witness that leads", func() bool {
			return c.nodes[0].auth.voter.KnownLeader() != "" && c.nodes[0].auth.voter.KnownLeader() == c.nodes[1].auth.voter.KnownLeader()
		})
		c.nodes[2].start()
		began := time.Now()
		c.master()
		t.Logf("master again %v after its start", time.Since(began))
	}
}

// TestObserver: a node that is not listed learns who is master, uses the store,
// and is never granted.
func TestObserver(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	voters := c.addrs()
	o := c.add()
	o.setList(voters...)
	o.dir = ""
	c.start()
	m := c.master()
	sees := func(want *peer) {
		t.Helper()
		c.eventually("sight of the master", func() bool {
			ms, err := o.auth.mastership()
			return err == nil && ms.Holder != nil && ms.Holder.InstanceID == want.holder().InstanceID && ms.Term == want.elector.term() && ms.ClusterID != ""
		})
	}
	sees(m)
	if _, err := o.auth.Acquire(ask(t), driver.Claim{Holder: o.holder()}); !errors.Is(err, driver.ErrDenied) {
		t.Errorf("Acquire returned %v", err)
	}
	ms, _ := o.auth.mastership()
	if !strings.Contains(ms.Ineligible, "not among the voters") || ms.Expected != 3 {
		t.Errorf("mastership is %+v", ms)
	}
	c.put(o, "k", "v")
	if got := c.get(m, "k"); got != "v" {
		t.Errorf("Get returned %q", got)
	}
	m.crash()
	sees(c.masterNot(m))
	for _, p := range c.nodes[:3] {
		if p.auth != nil {
			p.crash()
		}
	}
	c.eventually("an error", func() bool {
		_, err := o.auth.mastership()
		return errors.Is(err, driver.ErrUnavailable)
	})
}

// inForce waits until the configuration of the leader and of every other voter is
// that of the nodes.
func (c *cluster) inForce(ps ...*peer) {
	c.t.Helper()
	c.eventually("the new set of voters", func() bool {
		for _, p := range ps {
			s := p.auth.voter.Status()
			if s.Leader == "" || len(s.Servers) != len(ps) {
				return false
			}
			for _, q := range ps {
				if !slices.Contains(s.Servers, q.auth.voter.Status().ID) {
					return false
				}
			}
		}
		return true
	})
}

// TestRollingEdit is fault 49 and more: 3, 4, 5, 4 and 3 voters by edits that
// reach one node after the other, at run time and by restarts.
func TestRollingEdit(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	all := c.addrs()
	d, e := c.add(), c.add()
	all = append(all, d.addr, e.addr)
	for _, p := range c.nodes[:3] {
		p.start()
	}
	c.master()
	c.voting()

	d.setList(all[:4]...)
	d.start() // waits to be taken in
	for _, p := range c.nodes[:3] {
		p.setList(all[:4]...)
	}
	c.inForce(c.nodes[:4]...)

	e.setList(all...)
	e.start()
	for _, p := range c.nodes[:4] {
		p.setList(all...)
		p.crash() // a rolling restart instead
		p.start()
		c.master()
		c.voting()
	}
	c.inForce(c.nodes...)

	// The master itself goes.
	m := c.master()
	rest := c.others(m)
	for _, p := range c.nodes {
		p.setList(addrs(rest)...)
	}
	c.inForce(rest...)
	c.masterNot(m)
	c.eventually("the old master as observer", func() bool {
		ms, err := m.auth.mastership()
		return err == nil && ms.Ineligible != "" && ms.Holder != nil && m.auth.voter.Member() == nil
	})

	// And comes back.
	for _, p := range c.nodes {
		p.setList(all...)
	}
	c.inForce(c.nodes...)
}

// TestListsThatDifferByMore: a change of two at once is refused with an alarm, and
// the cluster goes on as it was.
func TestListsThatDifferByMore(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	old := c.addrs()
	d, e := c.add(), c.add()
	for _, p := range c.nodes[:3] {
		p.start()
	}
	m := c.master()
	c.voting()
	all := append(old, d.addr, e.addr)
	c.setList(all...)
	d.start()
	e.start()
	c.eventually("an alarm", func() bool {
		ms, err := m.auth.mastership()
		return err == nil && strings.Contains(ms.Warning, "differs by 2") && strings.Contains(ms.Warning, "change one voter at a time")
	})
	c.steady(2) // it is not about the master, which may lose its place on a slow machine
	for _, p := range c.nodes[:3] {
		if s := p.auth.voter.Status(); len(s.Servers) != 3 {
			t.Errorf("the voters are %v", s.Servers)
		}
	}
	// One node that has not learned of an edit of two.
	c.setList(old...)
	c.nodes[0].setList(old[0], d.addr, e.addr)
	c.eventually("an alarm", func() bool {
		ms, err := c.nodes[1].auth.mastership()
		return err == nil && strings.Contains(ms.Warning, "voter lists differ by 4")
	})
}

// TestFoundingWithDifferentLists: without a majority that has one list there is no
// cluster, and the node says why.
func TestFoundingWithDifferentLists(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	all := c.addrs()
	c.nodes[0].setList(all[0], all[1])
	c.nodes[1].setList(all[1], all[2])
	c.nodes[2].setList(all[0], all[2])
	c.start()
	c.eventually("a reason", func() bool {
		ms, _ := c.nodes[0].auth.mastership()
		return strings.Contains(ms.Warning, "has another list")
	})
	c.steady(0)
	c.setList(all...)
	c.master()
}

// TestBriefMaster is of one that gives mastership back as soon as it has it: a candidate that
// asks for the lead then need not wait until it has had the time to want to be master.
func TestBriefMaster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.ttl = 30 * time.Second // with it goes the longest heartbeat timeout
	for _, p := range c.nodes {
		if err := p.open(); err != nil {
			t.Fatal(err)
		}
	}
	a := c.nodes[0].auth
	self := driver.Holder{NodeID: "a", InstanceID: "a"}
	var g driver.Grant
	c.eventually("a grant", func() (ok bool) {
		var err error
		g, err = a.Acquire(ask(t), driver.Claim{Holder: self, ClusterID: "id"})
		return err == nil
	})
	if err := a.Release(ask(t), g); err != nil {
		t.Fatal(err)
	}
	reply, err := a.answerLead(ask(t), leadRequest{From: c.nodes[1].addr})
	if err != nil || !reply.Yielded {
		t.Fatalf("asked for the lead, it says %+v, %v", reply, err)
	}
}

// TestStoreAsksTheNextLeader: a request to a leader that is cut off does not wait for it once there
// is another one. A read goes to that one, and of a write it is not known what became of it.
func TestStoreAsksTheNextLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.start()
	m := c.master()
	c.voting()
	asks := c.others(m)[0]
	c.put(asks, "k", "1")
	record, err := asks.auth.Get(ask(t), "k")
	if err != nil {
		t.Fatal(err)
	}
	c.eventually("the master leads", func() bool { return asks.auth.voter.KnownLeader() == m.auth.voter.KnownLeader() })
	c.net.Cut([]string{m.addr}, addrs(c.others(m)), true)
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	var calls sync.WaitGroup
	calls.Go(func() {
		if r, err := asks.auth.Get(ctx, "k"); err != nil && !errors.Is(err, driver.ErrUnavailable) || err == nil && string(r.Value) != "1" {
			t.Errorf("Get returned %q, %v", r.Value, err)
		}
	})
	calls.Go(func() {
		if _, err := asks.auth.Set(ctx, "k", []byte("2"), record.Revision); !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("Set returned %v", err)
		}
	})
	calls.Wait()
	if ctx.Err() != nil {
		t.Error("the calls waited for a leader that is cut off")
	}
	c.masterNot(m)
	c.put(asks, "k", "3")
}
