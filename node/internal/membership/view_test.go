package membership

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// fold applies changes to the members of a view.
func fold(t *rapid.T, members []Member, changes []Change) []Member {
	members = slices.Clone(members)
	for _, c := range changes {
		at := slices.IndexFunc(members, func(m Member) bool { return m.InstanceID == c.Member.InstanceID })
		if (c.Kind == Joined) != (at < 0) {
			t.Fatalf("%s of %s, which is at %d", c.Kind, c.Member.InstanceID, at)
		}
		switch c.Kind {
		case Joined:
			if slices.ContainsFunc(members, func(m Member) bool { return m.NodeID == c.Member.NodeID }) {
				t.Fatalf("%s joins before its predecessor has gone", c.Member.NodeID)
			}
			members = append(members, c.Member)
		case Updated:
			members[at] = c.Member
		case Left, Failed:
			if (c.Kind == Left) != (c.Member.State == StateLeft) || (c.Kind == Failed) != (c.Member.State == StateDead) {
				t.Fatalf("%s of a member that is %s", c.Kind, c.Member.State)
			}
			members = slices.Delete(members, at, at+1)
		}
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return members
}

// model drives a table with all that memberlist may tell, in any order, and a
// listener that sees only some of the views.
type model struct {
	table     table
	now       time.Time
	seq       uint64
	last      View // that the listener saw
	instances int
}

func (m *model) record(t *rapid.T) *record {
	var names []string
	for name := range m.table.records {
		names = append(names, name)
	}
	if len(names) == 0 {
		t.Skip("no records")
	}
	slices.Sort(names)
	return m.table.records[rapid.SampledFrom(names).Draw(t, "name")]
}

func (m *model) view() View {
	changed, wake := m.table.compose(m.now)
	if changed {
		m.seq++
	}
	if !wake.IsZero() && !wake.After(m.now) {
		panic("wake in the past")
	}
	return View{m.seq, m.table.members, m.table.departed}
}

func TestViewsAreTheFoldOfTheirChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{table: newTable(self{}), now: time.Now()}
		m.table.self.identity = identity{"self", "self-instance", 5}
		m.table.self.entry = Member{NodeID: "self", InstanceID: "self-instance", State: StateAlive, Self: true}
		m.last = m.view()
		t.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) {
				m.instances++
				id := identity{
					rapid.SampledFrom([]string{"a", "b", "c", "self"}).Draw(t, "node"),
					fmt.Sprintf("%012d", m.instances),
					rapid.Int64Range(1, 9).Draw(t, "claim"),
				}
				m.table.add(&record{name: memberName(id.nodeID, id.instanceID), id: id, live: true})
			},
			"die":    func(t *rapid.T) { r := m.record(t); r.live, r.goneAt = false, m.now },
			"return": func(t *rapid.T) { m.record(t).live = true },
			"leave": func(t *rapid.T) {
				if r := m.record(t); !r.left {
					r.left, r.leftAt = true, m.now
				}
			},
			"update": func(t *rapid.T) {
				r := m.record(t)
				r.details.Zone = rapid.StringN(0, 2, -1).Draw(t, "zone")
				r.meta.Digest = rapid.SampledFrom([]string{"", "x"}).Draw(t, "digest")
				r.id.claim += rapid.Int64Range(0, 2).Draw(t, "bump")
				r.meta.ClusterID = rapid.SampledFrom([]string{"", "one", "two"}).Draw(t, "cluster")
			},
			"cluster": func(t *rapid.T) {
				m.table.self.clusterID = rapid.SampledFrom([]string{"", "one", "two"}).Draw(t, "cluster")
			},
			"wait": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.SampledFrom([]int{1, 60, 11_000, 301_000}).Draw(t, "ms")) * time.Millisecond)
				m.table.forget(m.now)
			},
			"listen": func(t *rapid.T) {
				view := m.view()
				got := fold(t, m.last.Members, Diff(m.last, view))
				if diff := gocmp.Diff(view.Members, got); diff != "" {
					t.Fatalf("the fold of the changes differs from the view:\n%s", diff)
				}
				m.last = view
			},
			"": func(t *rapid.T) {
				view := m.view()
				seen := make(map[string]bool)
				for _, member := range view.Members {
					if seen[member.NodeID] {
						t.Fatalf("two of %q in one view", member.NodeID)
					}
					seen[member.NodeID] = true
				}
				if !seen["self"] {
					t.Fatal("a view without this node")
				}
				if !slices.IsSortedFunc(view.Members, func(a, b Member) int { return cmp.Compare(a.NodeID, b.NodeID) }) {
					t.Fatal("members are not in order")
				}
				here := byInstance(view.Members)
				for _, gone := range view.Departed {
					if _, back := here[gone.InstanceID]; back || gone.State == StateAlive || gone.DepartedAt.IsZero() {
						t.Fatalf("departed %+v", gone)
					}
				}
				if changed, _ := m.table.compose(m.now); changed {
					t.Fatal("nothing has happened, and yet something has changed")
				}
			},
		})
	})
}

func TestDepartedAreBounded(t *testing.T) {
	table := newTable(self{})
	table.self.identity = identity{"self", "self-instance", 5}
	now := time.Now()
	for n := range 3 * maxDeparted {
		id := identity{fmt.Sprintf("n%04d", n), fmt.Sprintf("%012d", n), 1}
		r := &record{name: memberName(id.nodeID, id.instanceID), id: id, live: true}
		table.add(r)
		table.compose(now)
		r.live, r.goneAt = false, now
		now = now.Add(time.Second / 4)
		table.compose(now)
	}
	if len(table.departed) != maxDeparted {
		t.Errorf("%d departed", len(table.departed))
	}
	table.forget(now.Add(departedKept + time.Hour))
	if len(table.records) != 0 || len(table.instances) != 0 {
		t.Errorf("%d records, %d nodes", len(table.records), len(table.instances))
	}
}

func TestEqualSeesEveryField(t *testing.T) {
	base := Member{}
	for _, other := range []Member{
		{NodeID: "x"}, {InstanceID: "x"}, {Addr: "x"}, {ClusterID: "x"}, {Details: Details{Zone: "x"}},
		{Details: Details{Tags: []string{"x"}}}, {Details: Details{Meta: map[string]string{"x": ""}}},
		{Details: Details{AppAddrs: map[string]string{"x": ""}}}, {Details: Details{Version: "x"}}, {Details: Details{Voter: "x"}},
		{DetailsKnown: true}, {State: StateDead}, {Self: true}, {DepartedAt: time.Now()}, {Reason: "x"},
	} {
		if base.Equal(other) || !other.Equal(other) {
			t.Errorf("%+v", other)
		}
	}
}
