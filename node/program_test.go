package node_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// A master that abstains resigns in good order, and is no candidate until each abstention has
// ended. It stays a member.
func TestAbstain(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	one, two := c.start("one"), c.start("two")
	master, term := c.waitMaster(0, one, two)
	other := one
	if master == one {
		other = two
	}
	drained := make(chan error, 1)
	running := make(chan struct{})
	first, stop := context.WithCancel(t.Context())
	go master.WhileMaster(first, func(ctx context.Context, _ node.Term) error {
		close(running)
		<-ctx.Done()
		drained <- context.Cause(ctx)
		stop()
		return nil
	})
	<-running
	end, endOther := master.Abstain("the copy is not in sync"), master.Abstain("a backup runs")
	if err := <-drained; !strings.Contains(err.Error(), "abstains") {
		t.Errorf("the function ended because of %v", err)
	}
	_, term = c.waitMaster(term, one, two)
	if !other.IsMaster() {
		t.Error("who abstains is master")
	}
	endLast := other.Abstain("not now")
	wait.For(t, "both say why there is no master", func() bool {
		s := master.Status()
		return s.WaitingReason == mastership.WaitAbstains && strings.Contains(s.WaitingFor, "the copy is not in sync; a backup runs") &&
			other.Status().WaitingReason == mastership.WaitAbstains
	})
	end()
	end()
	wait.For(t, "one reason is left", func() bool {
		return strings.HasSuffix(master.Status().WaitingFor, "abstains: a backup runs")
	})
	if len(one.Members()) != 2 || !one.View().Majority {
		t.Error("who abstains is missed")
	}
	endOther()
	if next, _ := c.waitMaster(term, one, two); next != master {
		t.Error("who abstains is master")
	}
	endLast()
}

// What is to be called when the node leaves is, last in first out, when the node is no longer
// master and the others still see it. A panic costs the others nothing.
func TestOnLeave(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	one, two := c.start("one"), c.start("two")
	c.waitMaster(0, one, two)
	c.waitMembers(2, one, two)
	var mu sync.Mutex
	var called []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		called = append(called, what)
	}
	one.OnLeave(func(ctx context.Context) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("it may take as long as it likes")
		}
		note("first")
	})
	one.OnLeave(func(context.Context) { panic("it cannot") })
	one.OnLeave(func(context.Context) { runtime.Goexit() })
	one.OnLeave(func(ctx context.Context) {
		if one.IsMaster() {
			t.Error("it is master still")
		}
		if len(two.Members()) != 2 {
			t.Error("the others have seen it leave")
		}
		if _, err := one.Store().Records(ctx, ""); err != nil {
			t.Error(err)
		}
		one.OnLeave(func(context.Context) { note("late") })
		note("last")
	})
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	if err := one.Leave(ctx); err == nil || !strings.Contains(err.Error(), "panic: it cannot") || !strings.Contains(err.Error(), "Goexit") {
		t.Errorf("Leave: %v", err)
	}
	if want := []string{"last", "first"}; !slices.Equal(called, want) {
		t.Errorf("called %v, want %v", called, want)
	}
}

// A function that does not return keeps the node from leaving for a while, and no longer.
func TestOnLeaveThatHangs(t *testing.T) {
	t.Parallel()
	n := aloneNode(t)
	called := make(chan struct{})
	hang := make(chan struct{})
	defer close(hang)
	n.OnLeave(func(context.Context) { close(called) })
	n.OnLeave(func(context.Context) { <-hang })
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	if err := n.Leave(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Leave: %v", err)
	}
	<-called
	<-n.Done()
}

// An update reaches all members and every provider, and outlives the registration that it changed.
func TestUpdate(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b")
	c := newCluster(t)
	one := c.start("one", s.use(t, "a", "a", "b"), func(c *node.Config) { c.Tags = []string{"old"} })
	two := c.start("two", s.use(t, "a", "a", "b"))
	c.waitMaster(0, one, two)
	meta := map[string]string{"shard": "7"}
	err := one.Update(func(d *node.Details) {
		d.Tags = append(d.Tags, "new")
		d.Meta = meta
		d.AppAddrs = map[string]string{"http": "10.0.0.5:80"}
		d.Version = "2"
	})
	if err != nil {
		t.Fatal(err)
	}
	meta["shard"] = "8" // which is the caller's own
	right := func(tags []string, meta, addrs map[string]string, version string) bool {
		return slices.Equal(tags, []string{"old", "new"}) && meta["shard"] == "7" && addrs["http"] == "10.0.0.5:80" && version == "2"
	}
	wait.For(t, "all members see it", func() bool {
		for _, n := range []*node.Node{one, two} {
			if m := member(t, n, "one"); !right(m.Tags, m.Meta, m.AppAddrs, m.Version) {
				return false
			}
			if m, ok := n.Master(); ok && m.NodeID == "one" && m.AppAddrs["http"] != "10.0.0.5:80" {
				return false
			}
		}
		return true
	})
	registered := func(name string) bool {
		d := s[name].Driver()
		defer d.Close()
		snapshot, err := d.List(t.Context(), driver.Query{Service: "orders"})
		return err == nil && slices.ContainsFunc(snapshot.Instances, func(i driver.Instance) bool {
			return i.NodeID == "one" && right(i.Tags, i.Meta, i.AppAddrs, i.Version)
		})
	}
	for name := range s {
		wait.For(t, name+" lists it", func() bool { return registered(name) })
		s[name].ExpireSessions()
	}
	for name := range s {
		wait.For(t, name+" lists it again", func() bool { return registered(name) })
	}

	for name, change := range map[string]func(*node.Details){
		"an empty tag":      func(d *node.Details) { d.Tags = []string{""} },
		"no address":        func(d *node.Details) { d.AppAddrs["http"] = "" },
		"an address of all": func(d *node.Details) { d.AppAddrs["http"] = "0.0.0.0:80" },
	} {
		if err := one.Update(change); !errors.Is(err, discovery.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := one.Update(func(d *node.Details) { d.Meta["x"] = strings.Repeat("x", 1<<20) }); err == nil {
		t.Error("an update of 1 MiB")
	}
	seq := one.View().Seq
	if err := one.Update(func(*node.Details) {}); err != nil || one.View().Seq != seq {
		t.Errorf("an update of nothing: %v", err)
	}
	if m := one.View().Self(); !right(m.Tags, m.Meta, m.AppAddrs, m.Version) {
		t.Errorf("an update that failed has changed %+v", m)
	}
	wait.Leave(t, one.Leave)
	if err := one.Update(func(d *node.Details) { d.Version = "3" }); !errors.Is(err, node.ErrStopped) {
		t.Errorf("Update after Leave: %v", err)
	}
}

// Each view is seen by a reader that takes its time, and one that takes too much is told.
func TestAllViews(t *testing.T) {
	t.Parallel()
	n := aloneNode(t)
	const updates = 50
	wanted := fmt.Sprint(updates)
	var last uint64
	for view, err := range n.AllViews(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if last == 0 {
			for i := range updates {
				was := n.View().Seq
				if err := n.Update(func(d *node.Details) { d.Version = fmt.Sprint(i + 1) }); err != nil {
					t.Fatal(err)
				}
				wait.For(t, "it is seen", func() bool { return n.View().Seq > was })
			}
		} else if view.Seq != last+1 {
			t.Fatalf("view %d after %d", view.Seq, last)
		}
		if last = view.Seq; view.Self().Version == wanted {
			break
		}
	}
	var lost error
	for view, err := range n.AllViews(t.Context()) {
		if lost = err; err != nil {
			if view.Seq != 0 {
				t.Error("a view beside the error")
			}
			continue
		}
		if view.Self().Version == wanted {
			n.FloodViews(node.MaxViewsBehind + 1)
		}
	}
	if !errors.Is(lost, node.ErrViewsLost) {
		t.Errorf("a slow reader: %v", lost)
	}
}
