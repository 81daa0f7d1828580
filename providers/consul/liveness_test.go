package consul

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul/internal/registration"
)

// Anybody may write into the meta of a service on what its life hangs. No reader removes
// anything for that, and who may remove what sessions have left behind removes nodes of
// such sessions alone, which are named as its own are and have nothing else on them.
func TestRemovesItsOwnAlone(t *testing.T) {
	t.Parallel()
	server := testserver.LendConsul(t)
	d := open(t, Config{Address: server.Addr(), Mode: Catalog})
	d.leastSession = wait.Patience
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: 2 * wait.Patience})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(wait.Context(t))
	own := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	if err := s.Register(wait.Context(t), own); err != nil {
		t.Fatal(err)
	}
	live := s.(*catalogSession)
	id := func(letter string) string { return strings.Repeat(letter, 26) }
	hangs := func(session string) map[string]string {
		return map[string]string{registration.SessionMeta: session, registration.LivenessMeta: d.keys.livenessKey(session)}
	}
	dead := "muster-" + id("a")
	catalog := server.Client().Catalog()
	put := func(node, service string, meta, nodeMeta map[string]string) {
		t.Helper()
		_, err := catalog.Register(&api.CatalogRegistration{
			Node: node, Address: "10.0.0.9", NodeMeta: nodeMeta,
			Service: &api.AgentService{ID: service, Service: service, Port: 7946, Meta: meta},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	for node, meta := range map[string]map[string]string{
		dead:                   hangs(id("a")),
		"db-1":                 hangs("1"),
		"db-2":                 {registration.LivenessMeta: d.keys.livenessKey("2")},
		"db-" + id("b"):        hangs(id("b")),
		"muster-x-" + id("c"):  hangs(id("c")),
		"muster-" + id("d"):    {registration.SessionMeta: id("d"), registration.LivenessMeta: d.keys.livenessKey(id("a"))},
		"muster-../" + id("e"): hangs("../" + id("e")),
		"muster-":              hangs(""),
		"muster-shared":        hangs("shared"),
		"muster-" + id("f"):    hangs(id("f")),
		"evil":                 hangs(live.instanceSession), // says that it is of a session that lives
	} {
		put(node, "orders", meta, nodeMeta())
	}
	put("muster-"+id("f"), "somebody-elses", nil, nodeMeta())
	put("muster-"+id("g"), "orders", hangs(id("g")), map[string]string{"external-node": "false"})
	nodes := func() (names []string) {
		all, _, err := catalog.Nodes(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all {
			names = append(names, n.Node)
		}
		slices.Sort(names)
		return names
	}
	before := nodes()
	first, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	for _, skipped := range first.Skipped {
		if !strings.HasPrefix(skipped.Key, "evil") && !strings.Contains(skipped.Reason.Error(), "deregister it") {
			t.Errorf("skipped %s: %v, want the way to fix it", skipped.Key, skipped.Reason)
		}
	}
	if len(first.Skipped) == 0 {
		t.Error("nothing is skipped")
	}
	if after := nodes(); !slices.Equal(after, before) {
		t.Errorf("List left %q of %q", after, before)
	}
	if err := s.(driver.Sweeper).Sweep(wait.Context(t)); err != nil {
		t.Fatal(err)
	}
	want := slices.DeleteFunc(slices.Clone(before), func(name string) bool { return name == dead })
	if after := nodes(); !slices.Equal(after, want) {
		t.Errorf("left are %q, want %q", after, want)
	}

	// By what was read before, a session is dead that lives: its key was deleted by hand,
	// and it has locked it again.
	node, _, err := catalog.Node(live.node, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client().KV().Delete(live.key, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Register(wait.Context(t), own); err != nil {
		t.Fatal(err)
	}
	if err := d.removeNode(wait.Context(t), orphan{node: live.node, key: live.key}, node.Node.ModifyIndex); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(nodes(), live.node) {
		t.Error("the node of a session that lives was removed")
	}
	// A node that was written since it was looked at stays.
	put("muster-"+id("h"), "orders", hangs(id("h")), nodeMeta())
	if err := d.removeNode(wait.Context(t), orphan{node: "muster-" + id("h"), key: d.keys.livenessKey(id("h"))}, 1); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(nodes(), "muster-"+id("h")) {
		t.Error("a node was removed that had changed")
	}
}
