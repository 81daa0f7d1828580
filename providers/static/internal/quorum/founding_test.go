package quorum

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/static/internal/voter"
	"github.com/musterhq/muster/providers/static/internal/voterdir"
)

// sorted are the nodes by address, which is how the list is sorted.
func (c *cluster) sorted() []*peer {
	return slices.SortedFunc(slices.Values(c.nodes), func(a, b *peer) int { return strings.Compare(a.addr, b.addr) })
}

// says waits until the node is blocked with a reason of this kind that has all parts.
func (p *peer) says(kind driver.Block, parts ...string) {
	p.c.t.Helper()
	p.c.eventually(p.name+" blocked: "+strings.Join(parts, ", "), func() bool {
		ms, err := p.auth.mastership()
		for _, part := range parts {
			if err != nil || ms.BlockedBy != kind || !strings.Contains(ms.Blocked, part) || !strings.Contains(ms.Warning, part) {
				return false
			}
		}
		return true
	})
}

// clear waits until nothing blocks the node.
func (p *peer) clear() {
	p.c.t.Helper()
	p.c.eventually(p.name+" not blocked", func() bool {
		ms, err := p.auth.mastership()
		return err == nil && ms.Blocked == "" && ms.BlockedBy == ""
	})
}

// TestFoundedByAll: two of three voters that remember nothing found no cluster, whichever
// two they are, say which they wait for and what an operator can do, and go on when the
// third is there.
func TestFoundedByAll(t *testing.T) {
	t.Parallel()
	for missing := range 3 {
		c := newCluster(t, 3)
		late := c.sorted()[missing]
		for _, p := range c.others(late) {
			p.start()
		}
		for _, p := range c.others(late) {
			p.says(driver.BlockNotFounded, "not yet for "+late.addr, "muster voters found")
			if _, err := p.auth.Acquire(ask(t), driver.Claim{Holder: p.holder()}); !errors.Is(err, driver.ErrUnavailable) {
				t.Errorf("Acquire returned %v", err)
			}
		}
		c.steady(0)
		late.start()
		c.master()
		c.inForce(c.nodes...)
		founding := c.nodes[0].auth.voter.Status().Founding
		for _, p := range c.nodes {
			p.clear()
			if s := p.auth.voter.Status(); s.Founding != founding || founding == "" || strings.HasPrefix(founding, voter.ByOperator) {
				t.Errorf("%s is of founding %q, want %q", p.name, s.Founding, founding)
			}
		}
		for _, p := range c.nodes {
			p.crash()
		}
	}
}

// TestNotFoundedYet: voters that wait for one another at their first start say so to who asks, and
// that an operator should see to it only after a while.
func TestNotFoundedYet(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	patience := c.ttl
	began := clock.Now()
	for _, p := range c.nodes[:2] {
		p.tweak = func(cfg *voter.Config) { cfg.FoundPatience = patience }
		p.start()
	}
	c.eventually("a voter warns", func() bool {
		ms, err := c.nodes[0].auth.mastership()
		if warned := err == nil && ms.Warning != ""; !warned {
			return false
		}
		if waited := clock.Now().Sub(began); waited < patience {
			t.Errorf("it warns after %v, and not %v: %s", waited, patience, ms.Warning)
		}
		return ms.BlockedBy == driver.BlockNotFounded && strings.Contains(ms.Warning, "muster voters found")
	})
	c.nodes[2].start()
	c.master()
	c.nodes[0].clear()
	for _, p := range c.nodes {
		p.crash()
	}
}

// TestFoundByOperator: one of three voters is gone for good, and an operator says so. The
// word counts once: it is in no file.
func TestFoundByOperator(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	gone := c.nodes[2]
	c.nodes[0].start()
	c.nodes[0].says(driver.BlockNotFounded, "not yet for", gone.addr, c.nodes[1].addr)
	if err := c.nodes[0].auth.Found(ask(t)); !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "1 of the 3 voters") {
		t.Errorf("without a majority Found returned %v", err)
	}
	c.steady(0)
	c.nodes[1].start()
	c.nodes[0].says(driver.BlockNotFounded, "not yet for "+gone.addr+";")
	c.nodes[1].says(driver.BlockNotFounded, "not yet for "+gone.addr+";")
	if err := c.nodes[1].auth.Found(ask(t)); err != nil {
		t.Fatal(err)
	}
	m := c.master()
	c.voting()
	if f := m.auth.voter.Status().Founding; !strings.HasPrefix(f, voter.ByOperator) {
		t.Errorf("founded as %q", f)
	}
	if err := m.auth.Found(ask(t)); !errors.Is(err, driver.ErrConflict) {
		t.Errorf("a second Found returned %v", err)
	}
	for _, p := range c.nodes[:2] {
		if p.auth.voter.FoundingAllowed() {
			t.Errorf("%s may found another", p.name)
		}
	}
	// The one that was gone was not, and remembers nothing.
	gone.start()
	c.inForce(c.nodes...)
}

// TestFoundDenied: a node that is no voter, or has a cluster or meets one, founds none.
func TestFoundDenied(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 3)
	o := c.add()
	o.setList(c.addrs()[:3]...)
	o.dir = ""
	o.start()
	if err := o.auth.Found(ask(t)); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("by one that is not listed: %v", err)
	}
	a, b := c.others(m)[0], c.others(m)[1]
	for _, p := range []*peer{a, b} {
		p.crash()
		p.wipe()
		p.start()
	}
	a.says(driver.BlockStateLost, "stop "+m.addr)
	if err := a.auth.Found(ask(t)); !errors.Is(err, driver.ErrConflict) || !strings.Contains(err.Error(), "voter "+m.addr+" remembers a cluster") {
		t.Errorf("beside one that remembers: %v", err)
	}
	c.steady(0)
}

// TestVoterThatRemembersMeetsAnotherCluster: a majority is founded again by an operator
// while the one that remembers is away. It says so, takes no part, and neither log is
// mixed with the other. Once it has given up what it remembers it is taken in.
func TestVoterThatRemembersMeetsAnotherCluster(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 3)
	c.put(m, "k", "old")
	for range 2 { // so that its term is higher than that of the others will be
		m.crash()
		next := c.masterNot(m)
		m.start()
		c.voting()
		m = next
	}
	term := m.elector.term()
	keeper := m
	c.eventually("memory", func() bool { return keeper.auth.voter.Status().Term == term })
	id := keeper.auth.voter.Status().ClusterID
	for _, p := range c.nodes {
		p.crash()
	}
	c.check.forget() // what follows is another cluster
	rest := c.others(keeper)
	for _, p := range rest {
		p.wipe()
		p.start()
	}
	for _, p := range rest {
		p.says(driver.BlockNotFounded, "not yet for "+keeper.addr+";")
	}
	if err := rest[0].auth.Found(ask(t)); err != nil {
		t.Fatal(err)
	}
	next := c.master()
	c.put(next, "k", "new")

	keeper.start()
	keeper.says(driver.BlockCluster, "takes no part", id, "term 3", next.auth.voter.Status().ClusterID, "term 1", keeper.dir, rest[0].addr, rest[1].addr)
	c.eventually("it takes no part", func() bool { return keeper.auth.voter.Member() == nil })
	c.steady(0)
	if ms, _ := keeper.auth.mastership(); ms.Term != term || ms.ClusterID != id || ms.Holder != nil {
		t.Errorf("it reports %+v, and remembers %s with term %d", ms, id, term)
	}
	if _, err := keeper.auth.Acquire(ask(t), driver.Claim{Holder: keeper.holder()}); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("Acquire returned %v", err)
	}
	for _, p := range rest {
		p.clear()
		ms, _ := p.auth.mastership()
		if !strings.Contains(ms.Warning, "voter "+keeper.addr+" is of another cluster") {
			t.Errorf("%s warns of %q", p.name, ms.Warning)
		}
	}
	if got := c.get(next, "k"); got != "new" {
		t.Errorf("the record is %q", got)
	}
	// Restarted it says the same, and the files are as they were.
	keeper.crash()
	keeper.start()
	keeper.says(driver.BlockCluster, "takes no part", id)
	keeper.crash()
	keeper.wipe()
	keeper.start()
	keeper.clear()
	c.inForce(c.nodes...)
	c.eventually("no warning", func() bool {
		ms, err := next.auth.mastership()
		return err == nil && ms.Warning == ""
	})
}

// TestSwappedVolume: the directory of a voter of another cluster, which has the same name
// and lists the same address, stops the voter that has it and not those that agree.
func TestSwappedVolume(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 3)
	victim := c.others(m)[0]
	other := newCluster(t, 1)
	twin := other.nodes[0]
	twin.tweak = func(cfg *voter.Config) {
		cfg.Self = victim.addr
		cfg.Voters = func() ([]string, error) { return []string{victim.addr}, nil }
	}
	twin.start()
	other.master()
	other.eventually("memory", func() bool { return twin.auth.voter.Status().Term > 0 })
	twin.crash()
	victim.crash()
	if err := os.Rename(victim.dir, victim.dir+".own"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(twin.dir, victim.dir); err != nil {
		t.Fatal(err)
	}
	victim.start()
	victim.says(driver.BlockCluster, "takes no part", "minted-by-n1/1", m.auth.voter.Status().ClusterID)
	// It leads the voters of its directory, which is itself; and yet is none here.
	if victim.elector.active() {
		t.Error("it is master")
	}
	c.master()
	victim.crash()
	if err := errors.Join(os.RemoveAll(victim.dir), os.Rename(victim.dir+".own", victim.dir)); err != nil {
		t.Fatal(err)
	}
	victim.start()
	victim.clear()
	c.inForce(c.nodes...)
}

// TestRestoredDirectories: a majority comes back with older copies of its directories, and
// one that remembers a later term takes no part until the term is above it.
func TestRestoredDirectories(t *testing.T) {
	t.Parallel()
	c, m := formed(t, 3)
	keeper := m
	rest := c.others(keeper)
	for _, p := range c.nodes {
		p.crash()
	}
	for _, p := range rest {
		if err := os.CopyFS(p.dir+".old", os.DirFS(p.dir)); err != nil {
			t.Fatal(err)
		}
	}
	c.start()
	for range 3 {
		m = c.master()
		m.crash()
		c.masterNot(m)
		m.start()
		c.voting()
	}
	term := c.master().elector.term()
	c.eventually("memory", func() bool { return keeper.auth.voter.Status().Term == term })
	for _, p := range c.nodes {
		p.crash()
	}
	c.check.forget()
	for _, p := range rest {
		if err := errors.Join(os.RemoveAll(p.dir), os.Rename(p.dir+".old", p.dir)); err != nil {
			t.Fatal(err)
		}
		p.start()
	}
	next := c.master() // claims no more than its old log knows
	if next.elector.term() >= term {
		t.Fatalf("term %d, want it below %d", next.elector.term(), term)
	}
	c.net.Cut([]string{keeper.addr}, c.addrs(), true)
	keeper.start()
	c.net.Heal()
	// Either it has the leader step down, for the term of Raft is on its disk, or it says so.
	c.eventually("an end to the lower term", func() bool {
		ms, err := keeper.auth.mastership()
		return err == nil && (strings.Contains(ms.Blocked, "takes no part") && ms.BlockedBy == driver.BlockTerm || ms.Holder != nil && ms.Term > term)
	})
}

// TestFounderThatWasLeftBehind: a voter that had founded a cluster of which nothing came,
// and is then met by one that lives, gives its founding up and is taken in.
func TestFounderThatWasLeftBehind(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	late := c.sorted()[0]
	d, err := voterdir.Open(late.dir, "test", late.addr, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	i := d.Identity
	i.ID, i.Founding, i.LongestLease = late.addr, "0-came-to-nothing", time.Millisecond
	if err := errors.Join(d.SaveIdentity(i), d.Bootstrap(c.addrs()), d.Close()); err != nil {
		t.Fatal(err)
	}
	rest := c.others(late)
	for _, p := range rest {
		p.start()
	}
	for _, p := range rest {
		p.says(driver.BlockNotFounded, "not yet for "+late.addr+";")
	}
	if err := rest[0].auth.Found(ask(t)); err != nil {
		t.Fatal(err)
	}
	m := c.master()
	founding := m.auth.voter.Status().Founding
	late.start()
	c.inForce(c.nodes...)
	if s := late.auth.voter.Status(); s.Founding != founding || s.ID == late.addr {
		t.Errorf("%s is %s of founding %q, want another id and %q", late.name, s.ID, s.Founding, founding)
	}
}

// TestTwoFoundings: two operators at once. One of the two gives way.
func TestTwoFoundings(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	a, b := c.nodes[0], c.nodes[1]
	a.start()
	b.start()
	a.says(driver.BlockNotFounded, "not yet for "+c.nodes[2].addr+";")
	b.says(driver.BlockNotFounded, "not yet for "+c.nodes[2].addr+";")
	ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.auth.Found(ctx) }()
	if err := b.auth.Found(ctx); err != nil && !errors.Is(err, driver.ErrConflict) {
		t.Error(err)
	}
	if err := <-done; err != nil && !errors.Is(err, driver.ErrConflict) {
		t.Error(err)
	}
	c.master()
	c.eventually("one founding", func() bool {
		return a.auth.voter.Status().Founding == b.auth.voter.Status().Founding && b.auth.voter.Status().Leader != ""
	})
}

// TestPlan pins what a voter without state does for what the others answer.

// TestMemoryThatCannotBeSaved: a voter whose directory takes no file any more says so, is
// blocked, and is not when it can be written again. Mastership does not hang on it.
func TestMemoryThatCannotBeSaved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.start()
	p := c.master()
	c.eventually("memory", func() bool { return p.auth.voter.Status().Term == 1 })
	file := filepath.Join(p.dir, voterdir.IdentityFile)
	if err := errors.Join(os.Remove(file), os.MkdirAll(filepath.Join(file, "in-the-way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	p.elector.resign()
	p.elector.stop()
	p.starts++ // another instance, whose claim has another term
	p.elector = startElector(p)
	p.says(driver.BlockUnwritable, "node.data_dir", "cannot be written")
	c.master()
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	p.clear()
	c.master()
}

// TestAnotherCluster: voters of two clusters that list the same addresses have
// nothing to say to one another.
func TestAnotherCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.nodes[1].tweak = func(cfg *voter.Config) { cfg.Cluster = "other" }
	c.start()
	c.eventually("a reason", func() bool {
		ms, _ := c.nodes[0].auth.mastership()
		return strings.Contains(ms.Warning, "it waits for each of the 2 voters") && strings.Contains(ms.Warning, `voter of cluster "other"`)
	})
	var st voter.Status
	err := c.nodes[0].auth.voter.Call(ask(t), c.nodes[1].addr, voter.PathStatus, struct{}{}, &st)
	if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), `voter of cluster "other" and not of "test"`) {
		t.Errorf("call returned %+v, %v", st, err)
	}
	c.steady(0)
}
