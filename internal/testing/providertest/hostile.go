package providertest

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar"
)

// Tree is a store of keys in which a driver keeps its registrations beside what others
// have put there.
type Tree struct {
	// Open returns one more client.
	Open func(t testing.TB) driver.Driver
	// Root is what the keys of all registrations start with, its slash included.
	Root string
	// Authority is what the keys start with that are the authority's, its slash included.
	Authority string
	// Plain is set where names stand in a key as they are, and else they are escaped.
	Plain bool
	// Put writes a key as another client does.
	Put func(t testing.TB, key, value string)
	// Dump returns all keys of the store, each with its value and its revision.
	Dump func(t testing.TB) map[string]string
}

// Hostile has a driver work among records that others have put where it looks for
// registrations, and has it register instances with names that are made to reach the keys
// of others. What it registers itself is all that it may change or delete. valid returns a
// record of service "web" that says that it is of an id and at an address.
func Hostile(t *testing.T, tree Tree, valid func(id, addr string) string) {
	const own, foreign = "10.0.0.5:7946", "10.0.0.66:6666"
	up := path.Join(tree.Root, "..")
	sentinels := []string{
		path.Join(up, "secret"), tree.Root + "secret", tree.Root + "webby/secret", tree.Root + "we/secret", tree.Root + "web2",
		strings.TrimSuffix(tree.Root, "/"), strings.TrimSuffix(tree.Root, "/") + "-2/web/secret",
		tree.Authority + "clusters/c/master", tree.Authority + "clusters/c/mastership", tree.Authority + "clusters/c/term",
		tree.Authority + "records/c/secret", tree.Authority + "records/c/host:gone:80",
	}
	for _, key := range sentinels {
		if key != "" {
			tree.Put(t, key, valid("secret", foreign))
		}
	}
	huge := strings.Repeat("x", 300<<10)
	for id, value := range map[string]string{
		"":             valid("", foreign), // the prefix of the service itself
		"..":           valid("..", foreign),
		"../secret":    valid("secret", foreign),
		"../../secret": valid("../../secret", foreign),
		"host:gone:80": valid("host:gone:80", foreign),
		"host:lies:80": valid("host:other:80", foreign), // whose inner id differs from its key
		"host:own:80":  valid("own", own),               // at the address that will be ours
		"host:huge:80": valid("host:huge:80", foreign) + huge,
		"host:" + strings.Repeat("x", 900) + ":80": valid(strings.Repeat("x", 900), foreign),
		strings.Repeat("0", 32):                    valid(strings.Repeat("0", 32), foreign),
		"own-":                                     valid("own", own),
		"ow":                                       valid("ow", foreign),
		"host:empty:80":                            "",
		"host:null:80":                             "null",
		"host:list:80":                             `[]`,
		"host:object:80":                           `{}`,
		"host:text:80":                             `"10.0.0.66:6666"`,
		"host:types:80":                            `{"service":1,"instance_id":[],"addr":{},"ip":{},"port":[],"host":7}`,
		"host:unroutable:80":                       valid("host:unroutable:80", "0.0.0.0:1"),
		"host:port:80":                             valid("host:port:80", "10.0.0.66:99999"),
	} {
		tree.Put(t, tree.Root+"web/"+id, value)
	}
	start := tree.Dump(t)
	unchanged := func(after string, but ...string) {
		t.Helper()
		now := tree.Dump(t)
		for _, key := range slices.Sorted(maps.Keys(start)) {
			if !slices.Contains(but, key) && now[key] != start[key] {
				t.Errorf("after %s, %.80q is %.80q and was %.80q", after, key, now[key], start[key])
				start[key] = now[key]
			}
		}
	}
	ctx := wait.Context(t)
	d := tree.Open(t)
	session, err := d.(driver.Registrar).OpenSession(ctx, driver.SessionOptions{TTL: 2 * wait.Patience})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = session.Close(context.Background())
		}
	}()
	self := driver.Instance{Service: "web", NodeID: "n1", InstanceID: "own", Addr: own}
	if err := session.Register(ctx, self); err != nil {
		t.Fatal(err)
	}
	unchanged("Register")

	// Reading, in any way.
	listed, err := d.List(ctx, driver.Query{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if len(listed.Instances) < 2 || len(listed.Skipped) == 0 {
		t.Fatalf("listed are %d instances and skipped %d, want those of strangers, too", len(listed.Instances), len(listed.Skipped))
	}
	services, err := d.(driver.Cataloger).Services(ctx)
	if err != nil || !slices.Contains(services, "web") {
		t.Fatalf("the services are %q, %v", services, err)
	}
	for _, service := range services {
		found, err := d.List(ctx, driver.Query{Service: service})
		if err != nil {
			t.Errorf("list %q: %v", service, err)
		}
		if key := tree.Root + service + "/"; tree.Plain && strings.HasPrefix(key, tree.Authority) {
			t.Errorf("service %q stands among the keys of the authority; of it are listed %+v", service, found.Instances)
		}
	}
	if r, ok := d.(driver.PermissionChecker); ok {
		if err := r.CheckPermission(ctx, "web"); err != nil {
			t.Error(err)
		}
	}
	unchanged("reading")

	// To deregister what others have registered is no more than asking.
	for _, i := range listed.Instances {
		if i.Key() == self.Key() {
			continue
		}
		if err := session.Deregister(ctx, i); err != nil && !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("deregister %.80q: %v", i.Key(), err)
		}
	}
	unchanged("Deregister of what others have registered")

	// Names that are made to reach the keys of others.
	among := strings.TrimPrefix(tree.Authority, tree.Root) // where that is below Root
	if among == tree.Authority {
		among = "../" + strings.TrimPrefix(tree.Authority, up+"/")
	}
	if found, err := d.List(ctx, driver.Query{Service: among + "records/c"}); err == nil && len(found.Instances) > 0 {
		t.Errorf("the records of a cluster are instances: %+v", found.Instances)
	}
	for _, i := range []driver.Instance{
		{Service: among + "clusters/c", InstanceID: "master"},
		{Service: among + "clusters/c", InstanceID: "mastership"},
		{Service: among + "records/c", InstanceID: "secret"},
		{Service: among + "records/c", InstanceID: "host:gone:80"},
		{Service: "web", InstanceID: "../secret"},
		{Service: "web", InstanceID: "x/../../secret"},
		{Service: "..", InstanceID: "secret"},
		{Service: ".", InstanceID: "secret"},
		{Service: "web/..", InstanceID: "secret"},
		{Service: "web/../..", InstanceID: "secret"},
		{Service: "web//", InstanceID: "x"},
		{Service: "/", InstanceID: "secret"},
		{Service: "", InstanceID: "secret"},
		{Service: "web/", InstanceID: ".."},
		{Service: "webby", InstanceID: ".."},
		{Service: "webby", InstanceID: "."},
	} {
		i.NodeID, i.Addr = cmp.Or(i.NodeID, "n1"), "10.0.0.7:1"
		what := i.Service + " " + i.InstanceID
		for range 2 { // the second reads what the first has written
			if err := session.Register(ctx, i); err != nil && !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("register %q: %v", what, err)
			}
		}
		if err := session.Renew(ctx); err != nil {
			t.Errorf("renew with %q: %v", what, err)
		}
		unchanged("Register of " + what)
		if err := session.Deregister(ctx, i); err != nil && !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("deregister %q: %v", what, err)
		}
		unchanged("Deregister of " + what)
		for key := range tree.Dump(t) {
			if _, before := start[key]; !before && !strings.Contains(key, "own") && strings.HasSuffix(key, i.InstanceID) {
				t.Errorf("%q has left %q behind", what, key)
			}
		}
	}

	// What others have registered is taken away by name, and nothing in place of it.
	registry := discovery.New("hostile", tree.Open(t), discovery.Options{})
	defer registry.Close()
	evicting := registrar.New(registrar.Config{Registry: registry, TTL: 2 * wait.Patience})
	defer evicting.Stop(context.Background())
	var gone []string
	for _, i := range listed.Instances {
		id := i.InstanceID
		if id == "" || id == self.InstanceID {
			continue
		}
		key := tree.Root + "web/" + id
		if !tree.Plain {
			key = tree.Root + "web/" + url.PathEscape(id)
		}
		switch err := evicting.Evict(i); {
		case err == nil && !(tree.Plain && id == ".."): // which is no key that is registered

			gone = append(gone, key)
		case err != nil && !errors.Is(err, driver.ErrInvalid):
			t.Errorf("evict %.80q: %v", id, err)
		}
	}
	for _, key := range gone {
		wait.For(t, key+" is taken away", func() bool { _, there := tree.Dump(t)[key]; return !there })
	}
	if err := evicting.Stop(ctx); err != nil {
		t.Error(err)
	}
	unchanged("Evict", gone...)

	// The end takes its own alone.
	if err := session.Close(ctx); err != nil {
		t.Fatal(err)
	}
	closed = true
	unchanged("Close", gone...)
	for key := range tree.Dump(t) {
		if _, before := start[key]; !before {
			t.Errorf("left behind is %q", key)
		}
	}
}
