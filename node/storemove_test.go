package node_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
)

// The records move with mastership from one provider to the other and back, by rolling restarts,
// while nodes go on to write them. A node of the last step waits until they are there.
func TestRecordsMoveBetweenProviders(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b")
	c := newCluster(t)
	count := 0
	add := func(n *node.Node) {
		t.Helper()
		wait.For(t, n.ID()+" writes", func() bool {
			err := increment(t.Context(), n.Store())
			if err != nil && !errors.Is(err, discovery.ErrUnavailable) {
				t.Fatal(err)
			}
			return err == nil
		})
		count++
	}
	start := func(id, authority string) *node.Node { return c.start(id, s.use(t, authority, "a", "b")) }
	one, two := start("one", "a"), start("two", "a")
	c.waitMaster(0, one, two)
	add(one)
	if _, err := one.Store().Set(t.Context(), "gone", nil, 0); err != nil {
		t.Fatal(err)
	}
	roll := func(authority string) {
		t.Helper()
		for _, n := range []**node.Node{&one, &two} {
			wait.Leave(t, (*n).Leave)
			*n = start((*n).ID(), authority)
			c.waitMembers(2, one, two)
			wait.For(t, (*n).ID()+" is ready with "+authority, func() bool { return (*n).Status().Ready && (*n).View().Master != nil })
			add(one)
			add(two)
		}
	}
	at := func(n *node.Node, want string) {
		t.Helper()
		wait.For(t, "the records are at "+want, func() bool { return strings.HasPrefix(n.RecordsAt(), want) })
	}
	roll("a,b")
	r, err := two.Store().Get(t.Context(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	if err := two.Store().Delete(t.Context(), "gone", r.Revision); err != nil {
		t.Fatal(err)
	}
	at(one, "b")
	roll("b")
	roll("a,b")
	roll("a")
	at(one, "a")
	records, err := two.Store().Records(t.Context(), "")
	if err != nil || len(records) != 1 || string(records[0].Value) != fmt.Sprint(count) {
		t.Errorf("records %v, want count at %d: %v", records, count, err)
	}
}

// A node is no candidate where the records are not, and says why.
func TestRecordsElsewhere(t *testing.T) {
	t.Parallel()
	s := newStores("a", "b")
	c := newCluster(t)
	both := c.start("both", s.use(t, "a,b", "a", "b"))
	c.waitMaster(0, both)
	add := func() error { return increment(t.Context(), both.Store()) }
	wait.For(t, "it writes", func() bool { return add() == nil })
	wait.For(t, "the records are at b", func() bool { return both.RecordsAt() == "b" })
	wait.Leave(t, both.Leave)
	alone := c.start("alone", s.use(t, "a", "a", "b"))
	wait.For(t, "it waits for the records", func() bool { return alone.Status().WaitingReason == node.WaitRecords })
	if _, err := alone.Store().Get(t.Context(), "count"); !errors.Is(err, discovery.ErrUnavailable) || !strings.Contains(err.Error(), "mastership.authority") {
		t.Errorf("Get: %v", err)
	}
	if alone.IsMaster() {
		t.Error("it is master")
	}
	both = c.start("both", s.use(t, "b,a", "a", "b"))
	c.waitMaster(0, both, alone)
	wait.For(t, "it has them", func() bool {
		r, err := alone.Store().Get(t.Context(), "count")
		return err == nil && string(r.Value) == "1"
	})
}
