package node

import (
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar"
)

func aMaster(id string, term Term) *Master {
	return &Master{Holder: driver.Holder{NodeID: id, InstanceID: id + "-1"}, Term: term, ClusterID: "c"}
}

// The events between two views, as "kind subject details".
func TestDiff(t *testing.T) {
	member := func(id string, change func(*Member)) Member {
		m := Member{NodeID: id, InstanceID: id + "-1", State: StateAlive}
		if change != nil {
			change(&m)
		}
		return m
	}
	known := func(m *Member) { m.ClusterID = "c" }
	for _, test := range []struct {
		name      string
		old, next View
		want      []string
	}{
		{"nothing", View{Term: 1}, View{Term: 2}, nil},
		{"formed: what all members know by that is one event",
			View{Members: []Member{member("a", nil), member("b", nil)}},
			View{Members: []Member{member("a", known), member("b", known)}, ClusterID: "c"},
			[]string{"cluster_formed"}},
		{"a member learns of the cluster later",
			View{Members: []Member{member("a", nil)}, ClusterID: "c"},
			View{Members: []Member{member("a", known)}, ClusterID: "c"}, nil},
		{"a member says two things otherwise",
			View{Members: []Member{member("a", nil), member("b", nil)}},
			View{Members: []Member{member("a", nil), member("b", func(m *Member) { m.ClusterID, m.Zone, m.Version = "c", "z", "2" })}},
			[]string{"member_updated b zone,version"}},
		{"the first master", View{}, View{Master: aMaster("a", 1)}, []string{"master_changed a 1"}},
		{"another term of the same", View{Master: aMaster("a", 1)}, View{Master: aMaster("a", 2)}, []string{"master_changed a 2"}},
		{"another master", View{Master: aMaster("a", 1)}, View{Master: aMaster("b", 2)}, []string{"master_changed b 2"}},
		{"the master is lost", View{Master: aMaster("a", 3)}, View{Term: 3}, []string{"master_lost a 3"}},
		{"the majority", View{Majority: true}, View{}, []string{"quorum_changed"}},
		{"the master fails with the majority",
			View{Majority: true, Members: []Member{member("a", nil)}, Master: aMaster("a", 3)},
			View{},
			[]string{"member_failed a", "quorum_changed", "master_lost a 3"}},
	} {
		var got []string
		for _, e := range diff(test.old, test.next) {
			text := []string{string(e.Kind)}
			if e.Member != nil {
				text = append(text, e.Member.NodeID)
			}
			if len(e.Changed) > 0 {
				text = append(text, strings.Join(e.Changed, ","))
			}
			if e.Master != nil {
				text = append(text, e.Master.NodeID, string(rune('0'+e.Master.Term)))
			}
			got = append(got, strings.Join(text, " "))
			if e.View.Term != test.next.Term || e.View.Majority != test.next.Majority {
				t.Errorf("%s: the event leads to another view", test.name)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// Whatever of the master others go by makes another one of it, and each part of a view
// another view.
func TestSameSeesEveryField(t *testing.T) {
	master := func(change func(*Master)) *Master {
		m := aMaster("a", 1)
		m.Addr, m.AppAddrs = "10.0.0.1:1", map[string]string{"http": "10.0.0.1:80"}
		if change != nil {
			change(m)
		}
		return m
	}
	member := Member{NodeID: "a", InstanceID: "a-1"}
	view := func(change func(*View)) View {
		v := View{
			Seq: 1, Term: 1, ClusterID: "c", Majority: true, Warning: "w", Master: master(nil),
			Members: []Member{member}, Departed: []Member{member},
		}
		if change != nil {
			change(&v)
		}
		return v
	}
	if !sameMaster(nil, nil) || !sameMaster(master(nil), master(nil)) {
		t.Error("two that are alike are not the same")
	}
	for name, other := range map[string]*Master{
		"nil": nil, "term": master(func(m *Master) { m.Term = 2 }), "cluster id": master(func(m *Master) { m.ClusterID = "d" }),
		"instance": master(func(m *Master) { m.InstanceID = "a-2" }), "address": master(func(m *Master) { m.Addr = "10.0.0.2:1" }),
		"app address": master(func(m *Master) { m.AppAddrs = map[string]string{"http": "10.0.0.1:81"} }),
		"app name":    master(func(m *Master) { m.AppAddrs = map[string]string{"grpc": "10.0.0.1:80"} }),
	} {
		if sameMaster(master(nil), other) || sameMaster(other, master(nil)) {
			t.Errorf("masters that differ in %s are the same", name)
		}
		if events := diff(view(nil), view(func(v *View) { v.Master = other })); len(events) != 1 {
			t.Errorf("masters that differ in %s: events %+v", name, events)
		}
	}
	if !sameView(view(nil), view(func(v *View) { v.Seq = 9 })) {
		t.Error("two views that differ in their Seq alone are not the same")
	}
	for name, change := range map[string]func(*View){
		"term": func(v *View) { v.Term = 2 }, "cluster id": func(v *View) { v.ClusterID = "d" }, "majority": func(v *View) { v.Majority = false },
		"warning": func(v *View) { v.Warning = "" }, "master": func(v *View) { v.Master = nil },
		"members": func(v *View) { v.Members = nil }, "departed": func(v *View) { v.Departed = nil },
		"a member":          func(v *View) { v.Members = []Member{{NodeID: "a", InstanceID: "a-2"}} },
		"one that departed": func(v *View) { v.Departed = []Member{{NodeID: "a", InstanceID: "a-2"}} },
	} {
		if sameView(view(nil), view(change)) || sameView(view(change), view(nil)) {
			t.Errorf("views that differ in %s are the same", name)
		}
	}
}

// A provider is well that answers, and lists the node if it lists any.
func TestWell(t *testing.T) {
	answers := discovery.Snapshot{Known: true}
	listed := registrar.Status{Session: registrar.SessionStatus{Open: true}, Instances: []registrar.InstanceStatus{{Registered: true}}}
	unlisted := registrar.Status{Session: registrar.SessionStatus{Open: true}, Instances: []registrar.InstanceStatus{{}}}
	for name, v := range map[string]struct {
		p    Provider
		well bool
	}{
		"it answers, and lists the node":  {Provider{Peers: answers, Registration: listed}, true},
		"it answers, and lists nobody":    {Provider{Peers: answers, Registration: registrar.Status{Off: "read-only"}}, true},
		"it does not list the node":       {Provider{Peers: answers, Registration: unlisted}, false},
		"what it said is old":             {Provider{Peers: discovery.Snapshot{Known: true, Stale: true}, Registration: listed}, false},
		"it has not answered":             {Provider{Registration: listed}, false},
		"it has not, and lists nobody":    {Provider{Registration: registrar.Status{Off: "read-only"}}, false},
		"it is old, and it lists nobody":  {Provider{Peers: discovery.Snapshot{Known: true, Stale: true}, Registration: registrar.Status{Off: "read-only"}}, false},
		"it failed, and nothing is known": {Provider{Peers: discovery.Snapshot{Stale: true}, Registration: listed}, false},
	} {
		if v.p.Well() != v.well {
			t.Errorf("%s: %v", name, !v.well)
		}
	}
}

func TestSelf(t *testing.T) {
	a, b := Member{NodeID: "a"}, Member{NodeID: "b", Self: true}
	for want, members := range map[string][]Member{"": nil, "b": {a, b}} {
		if got := (View{Members: members}).Self(); got.NodeID != want {
			t.Errorf("of %d members it is %q, want %q", len(members), got.NodeID, want)
		}
	}
	if got := (View{Members: []Member{a}}).Self(); got.NodeID != "" {
		t.Errorf("without this node it is %q", got.NodeID)
	}
}
