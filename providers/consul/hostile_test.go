package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/providertest"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/consul/internal/registration"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/secret"
)

// dumpKV returns all keys of the KV store, with their revisions.
func dumpKV(t testing.TB, client *api.Client) map[string]string {
	pairs, _, err := client.KV().List("", nil)
	providertest.Must(t, "read all keys", err)
	all := make(map[string]string)
	for _, p := range pairs {
		all[p.Key] = fmt.Sprint(p.ModifyIndex, " ", string(p.Value))
	}
	return all
}

// Nothing that others put where registrations stand, and no name, has the driver change or
// delete a key that it did not write itself: not theirs, and not the authority's.
func TestHostileKeys(t *testing.T) {
	for _, v := range []struct {
		format, prefix, authority, root string
		valid                           func(id, addr string) string
	}{
		{formatRegistratorKV, "services", "muster", "services/", func(_, addr string) string { return addr }},
		{formatRegistratorKV, "services", "services", "services/", func(_, addr string) string { return addr }},
		{formatSkyDNS, "skydns", "skydns/local/cluster", "skydns/local/cluster/", func(_, addr string) string {
			host, port, _ := net.SplitHostPort(addr)
			return fmt.Sprintf(`{"host":%q,"port":%s}`, host, port)
		}},
	} {
		t.Run(strings.ReplaceAll(v.format+" "+v.authority, "/", " "), func(t *testing.T) {
			t.Parallel()
			server := testserver.LendConsul(t)
			client := server.Client()
			c := Config{Address: server.Addr(), Format: v.format, Prefix: v.prefix, AuthorityPrefix: v.authority}
			providertest.Hostile(t, providertest.Tree{
				Open:      func(t testing.TB) driver.Driver { return open(t, c) },
				Root:      v.root,
				Authority: v.authority + "/v1/",
				Plain:     true,
				Put: func(t testing.TB, key, value string) {
					// In a transaction no key is a path.
					ok, r, _, err := client.Txn().Txn(api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVSet, Key: key, Value: []byte(value)}}}, nil)
					if err == nil && !ok {
						err = fmt.Errorf("%+v", r.Errors)
					}
					providertest.Must(t, "put "+key, err)
				},
				Dump: func(t testing.TB) map[string]string { return dumpKV(t, client) },
			}, v.valid)
		})
	}
}

// dumpServices returns the services and checks of the agent, what the catalog has of each
// node, and all keys.
func dumpServices(t testing.TB, client *api.Client) map[string]string {
	all := dumpKV(t, client)
	services, err := client.Agent().Services()
	providertest.Must(t, "read the agent", err)
	for id, s := range services {
		all["agent "+id] = fmt.Sprint(s.Service, s.Address, s.Port, s.Tags, s.Meta)
	}
	nodes, _, err := client.Catalog().Nodes(nil)
	providertest.Must(t, "read the nodes", err)
	for _, n := range nodes {
		// A server adds to the meta of its own node a moment after its start.
		maps.DeleteFunc(n.Meta, func(key, _ string) bool { return strings.HasPrefix(key, "consul-") })
		all["node "+n.Node] = fmt.Sprint(n.Address, n.Meta)
		on, _, err := client.Catalog().NodeServiceList(n.Node, nil)
		providertest.Must(t, "read node "+n.Node, err)
		for _, s := range on.Services {
			all["node "+n.Node+" service "+s.ID] = fmt.Sprint(s.ModifyIndex, s.Service, s.Address, s.Port, s.Tags, s.Meta)
		}
	}
	return all
}

// agentSession is the session of an agent, whose name tests give to one.
type agentSession = *session

// The same of services: of the agent's, of those on other nodes, and of what a name may reach
// by the paths of Consul's API.
func TestHostileServices(t *testing.T) {
	for name, c := range map[string]Config{
		"agent":       {},
		"hazelcast":   {Format: formatHazelcast},
		"registrator": {Format: formatRegistrator},
		"catalog":     {Mode: Catalog},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testserver.StartConsul(t) // there are names that no request can remove
			client := server.Client()
			c.Address = server.Addr()
			d := open(t, c)
			d.leastSession = wait.Patience
			ctx := wait.Context(t)
			session, err := d.OpenSession(ctx, driver.SessionOptions{TTL: 2 * wait.Patience})
			if err != nil {
				t.Fatal(err)
			}
			closed := false
			defer func() {
				if !closed {
					session.Close(context.Background())
				}
			}()
			empty := dumpServices(t, client)
			self := driver.Instance{Service: "web", NodeID: "host", InstanceID: "own", Addr: "10.0.0.5:7946"}
			if err := session.Register(ctx, self); err != nil {
				t.Fatal(err)
			}
			var mine string
			switch s := session.(type) {
			case *catalogSession:
				mine = s.instanceSession
			case agentSession:
				mine = s.id
			}
			hostileServices(t, client, d, mine)
			start := dumpServices(t, client)
			unchanged := func(after string, but ...string) {
				t.Helper()
				now := dumpServices(t, client)
				for _, key := range slices.Sorted(maps.Keys(start)) {
					if !slices.ContainsFunc(but, func(id string) bool { return strings.HasSuffix(key, " "+id) }) && now[key] != start[key] {
						t.Errorf("after %s, %q is %q and was %q", after, key, now[key], start[key])
						start[key] = now[key]
					}
				}
			}

			listed, err := d.List(ctx, driver.Query{Service: "web"})
			if err != nil {
				t.Fatal(err)
			}
			if len(listed.Instances) < 3 || len(listed.Skipped) == 0 {
				t.Fatalf("listed are %+v and skipped %v, want those of strangers, too", listed.Instances, listed.Skipped)
			}
			if _, err := d.Services(ctx); err != nil {
				t.Error(err)
			}
			if err := d.CheckPermission(ctx, "web"); err != nil {
				t.Error(err)
			}
			if s, ok := session.(driver.Sweeper); ok {
				if err := s.Sweep(ctx); err != nil {
					t.Error(err)
				}
			}
			unchanged("reading")
			for _, i := range append(listed.Instances, driver.Instance{Service: "vault", InstanceID: "1", Addr: "10.0.0.1:1"}) {
				if i.Key() == self.Key() {
					continue
				}
				if err := session.Deregister(ctx, i); err != nil && !errors.Is(err, driver.ErrInvalid) {
					t.Errorf("deregister %q: %v", i.Key(), err)
				}
			}
			unchanged("Deregister of what others have registered")

			for _, id := range []string{
				"x/../../../../kv/secret", "x/../../../service/deregister/vault", "x/../vault", "x/../../deregister/vault",
				"x/../../../force-leave/" + server.Name(), "../secret", "x//y", "x/./y", "x/..",
			} {
				for _, i := range []driver.Instance{{Service: "web", InstanceID: id}, {Service: "web/" + id, InstanceID: "i"}} {
					i.NodeID, i.Addr = "n1", "10.0.0.5:1"
					if err := session.Register(ctx, i); err != nil && !errors.Is(err, driver.ErrInvalid) {
						t.Errorf("register %q of %q: %v", i.InstanceID, i.Service, err)
					}
					if err := session.Renew(ctx); err != nil {
						t.Errorf("renew with %q of %q: %v", i.InstanceID, i.Service, err)
					}
					unchanged("Register and Renew of " + i.InstanceID + " of " + i.Service)
					if err := session.Deregister(ctx, i); err != nil && !errors.Is(err, driver.ErrInvalid) {
						t.Errorf("deregister %q of %q: %v", i.InstanceID, i.Service, err)
					}
					unchanged("Deregister of " + i.InstanceID + " of " + i.Service)
				}
			}

			// What a predecessor has left is removed under its own ID alone.
			left := driver.Instance{Service: "web", NodeID: "host", InstanceID: "host:left:80", Addr: "10.0.0.9:80"}
			want := []string{d.RecordKey(left)}
			if c.Mode == Catalog {
				want = nil
			}
			gone, err := d.Reclaim(ctx, func(i driver.Instance) bool { return i.NodeID == "host" })
			if err != nil || len(gone) != len(want) || len(gone) > 0 && gone[0].Key() != left.Key() {
				t.Errorf("reclaimed are %+v, %v; want %q", gone, err, want)
			}
			unchanged("Reclaim", want...)
			if services, err := client.Agent().Services(); err != nil || len(want) > 0 && services[want[0]] != nil {
				t.Errorf("what a predecessor has left is not removed: %v", err)
			}

			// What is taken away by name goes at the place of that name in this agent alone.
			registry := discovery.New("hostile", open(t, c), discovery.Options{})
			defer registry.Close()
			evicting := registrar.New(registrar.Config{Registry: registry, TTL: 2 * wait.Patience})
			defer evicting.Stop(context.Background())
			for _, i := range listed.Instances {
				if strings.HasPrefix(i.InstanceID, "host:") && i.InstanceID != left.InstanceID {
					want = append(want, d.RecordKey(i))
					if err := evicting.Evict(i); err != nil {
						t.Errorf("evict %q: %v", i.InstanceID, err)
					}
				}
			}
			wait.For(t, "evicted", func() bool {
				s := evicting.Status()
				return s.Session.Open && len(s.Instances) == 0
			})
			if err := evicting.Stop(ctx); err != nil {
				t.Error(err)
			}
			unchanged("Evict", want...)

			if err := session.Close(ctx); err != nil {
				t.Fatal(err)
			}
			closed = true
			for key, value := range dumpServices(t, client) {
				if _, before := start[key]; !before && empty[key] != value {
					t.Errorf("left behind is %q: %s", key, value)
				}
			}
			for _, key := range slices.Sorted(maps.Keys(start)) { // but for its own
				if strings.Contains(key, mine) || strings.HasSuffix(key, " "+d.RecordKey(self)) {
					delete(start, key)
				}
			}
			unchanged("Close", want...)
		})
	}
}

// hostileServices registers what others may: beside the session mine of d, in its name, and
// in that of its host.
func hostileServices(t *testing.T, client *api.Client, d *Driver, mine string) {
	t.Helper()
	const inner = `{"service":%q,"node_id":"host","instance_id":%q,"addr":"10.0.0.9:80"}`
	says := func(session, service, id string) map[string]string {
		meta := map[string]string{registration.SessionMeta: session, "muster-0": fmt.Sprintf(inner, service, id)}
		if d.config.Mode == Catalog && session == mine {
			meta[registration.LivenessMeta] = d.keys.livenessKey(session)
		}
		return meta
	}
	left := d.RecordKey(driver.Instance{Service: "web", NodeID: "host", InstanceID: "host:left:80", Addr: "10.0.0.9:80"})
	for id, r := range map[string]struct {
		name   string
		meta   map[string]string
		status string
	}{
		"vault":          {name: "vault"},
		"web":            {name: "web"},
		"web:":           {name: "web"},
		"web:own-":       {name: "web", meta: says("another", "web", "own-"), status: api.HealthPassing},
		"../vault":       {name: "web"},
		"x/../vault":     {name: "web"},
		"host:gone:80":   {name: "web"}, // as registrator has it
		"host:gone:81":   {name: "vault"},
		"mine":           {name: "web", meta: says(mine, "web", "mine"), status: api.HealthPassing}, // in the name of the session
		"mine-dead":      {name: "web", meta: says(mine, "web", "mine-dead"), status: api.HealthCritical},
		"lies":           {name: "web", meta: says("dead-1", "web", "host:lies:80"), status: api.HealthCritical}, // its inner id is another than its own
		"vault:1":        {name: "web", meta: says("dead-2", "web", "host:own:80"), status: api.HealthCritical},
		"other":          {name: "vault", meta: says("dead-3", "web", "other"), status: api.HealthCritical},
		"no-service":     {name: "web", meta: map[string]string{registration.SessionMeta: "dead-4", "muster-0": `{"service":"","instance_id":"no-service"}`}, status: api.HealthCritical},
		"types":          {name: "web", meta: map[string]string{registration.SessionMeta: "dead-5", "muster-0": `{"service":1,"addr":[]}`}, status: api.HealthPassing},
		"null":           {name: "web", meta: map[string]string{registration.SessionMeta: "dead-6", "muster-0": "null"}, status: api.HealthPassing},
		"none":           {name: "web", meta: map[string]string{registration.SessionMeta: "dead-7"}, status: api.HealthCritical},
		"no-session":     {name: "web", meta: map[string]string{registration.SessionMeta: "", "muster-0": fmt.Sprintf(inner, "web", "no-session")}, status: api.HealthCritical},
		left:             {name: "web", meta: says("dead-8", "web", "host:left:80"), status: api.HealthCritical},
		"web:host:no:80": {name: "web", meta: says("dead-9", "web", "host:no:80")}, // its session has no check
		"web:host:up:80": {name: "web", meta: says("dead-10", "web", "host:up:80"), status: api.HealthPassing},
	} {
		s := &api.AgentServiceRegistration{ID: id, Name: r.name, Address: "10.0.0.9", Port: 80, Meta: r.meta}
		if r.status != "" {
			s.Check = &api.AgentServiceCheck{CheckID: registration.CheckID(r.meta[registration.SessionMeta], id), TTL: "1h", Status: r.status}
		}
		providertest.Must(t, "register "+id, client.Agent().ServiceRegister(s))
	}
	for _, key := range []string{"secret", "kv/secret", "vault", "muster/v1/clusters/c/mastership", "muster/v1/records/c/secret"} {
		_, err := client.KV().Put(&api.KVPair{Key: key, Value: []byte("secret")}, nil)
		providertest.Must(t, "put "+key, err)
	}
	// On other nodes, with the IDs and in the names of what is here.
	for _, node := range []string{"host", "other"} {
		for _, id := range []string{"web:own", "host:gone:80", "vault", left} {
			_, err := client.Catalog().Register(&api.CatalogRegistration{
				Node: node, Address: "10.0.0.9",
				Service: &api.AgentService{ID: id, Service: "web", Port: 81, Meta: says(mine, "web", "own-2")},
			}, nil)
			providertest.Must(t, "register on "+node, err)
		}
	}
}

// The key of a record is refused that would reach another one by Consul's API: it is neither
// read nor written, there or anywhere.
func TestHostileRecordKeys(t *testing.T) {
	t.Parallel()
	server := testserver.LendConsul(t)
	client := server.Client()
	for _, key := range []string{"secret", "muster/secret", "muster/v1/secret", "muster/v1/records/secret", "muster/v1/clusters/c/mastership", "muster/v1/records/c/x/y"} {
		_, err := client.KV().Put(&api.KVPair{Key: key, Value: []byte("secret")}, nil)
		providertest.Must(t, "put "+key, err)
	}
	before := dumpKV(t, client)
	opened, err := open(t, Config{Address: server.Addr()}).OpenAuthority(wait.Context(t), driver.AuthorityOptions{Cluster: "c"})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close(context.Background())
	store := opened.(driver.Store)
	pair, _, err := client.KV().Get("secret", nil)
	providertest.Must(t, "read", err)
	for _, key := range []string{"../secret", "../../secret", "../../../secret", "../../../../secret", "../../clusters/c/mastership", "x//y", "x/./y", "x/../x/y", "/x", "..", "."} {
		for what, call := range map[string]func() error{
			"Get":       func() error { _, err := store.Get(wait.Context(t), key); return err },
			"Set":       func() error { _, err := store.Set(wait.Context(t), key, []byte("mine"), 0); return err },
			"large Set": func() error { _, err := store.Set(wait.Context(t), key, make([]byte, maxTxnValue+1), 0); return err },
			"Delete":    func() error { return store.Delete(wait.Context(t), key, driver.Revision(pair.ModifyIndex)) },
		} {
			if err := call(); !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%s of %q: %v, want ErrInvalid", what, key, err)
			}
		}
		if all, err := store.Records(wait.Context(t), key); err == nil && len(all) > 0 {
			t.Errorf("records of %q are %+v", key, all)
		}
	}
	if after := dumpKV(t, client); !maps.Equal(before, after) {
		t.Errorf("the keys were %q and are %q", before, after)
	}
	// What only looks like it is a key as any other.
	for _, key := range []string{"x/...", "..x", "x/.y", "x"} {
		revision, err := store.Set(wait.Context(t), key, []byte("mine"), 0)
		if err == nil {
			_, err = store.Get(wait.Context(t), key)
		}
		if err == nil {
			err = store.Delete(wait.Context(t), key, revision)
		}
		if err != nil {
			t.Errorf("record %q: %v", key, err)
		}
	}
}

// A redirect names another place for what was asked to be done here, and another receiver of
// the token.
func TestFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	var arrived []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived = append(arrived, r.Method+" "+r.URL.Path+" "+r.Header.Get(tokenHeader))
	}))
	defer elsewhere.Close()
	for _, code := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		way := httptest.NewServer(http.RedirectHandler(elsewhere.URL+"/v1/kv/secret", code))
		d := open(t, Config{Address: way.URL, Token: "secret"})
		if _, err := d.List(wait.Context(t), driver.Query{Service: "web"}); !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "redirect") {
			t.Errorf("%d: List: %v", code, err)
		}
		if _, err := d.client.KV().Delete("mine", nil); err == nil {
			t.Errorf("%d: a redirect is followed", code)
		}
		way.Close()
	}
	elsewhere.Close()
	if len(arrived) > 0 {
		t.Errorf("elsewhere arrived %q", arrived)
	}
}

// A path that stands for another is asked for nowhere.
func TestCheckPath(t *testing.T) {
	for path, ok := range map[string]bool{
		"/v1/kv/": true, "/v1/kv/a": true, "/v1/kv/a/": true, "/v1/kv/a/...": true, "/v1/kv/a/..b": true, "/v1/kv/.a": true,
		"/v1/kv/a//b": false, "/v1/kv//": false, "/v1/kv//a": false, "/v1/kv/..": false, "/v1/kv/a/..": false, "/v1/kv/a/../b": false, "/v1/kv/./a": false, "/v1/kv/a/.": false, "/v1/kv/../": false,
	} {
		if err := checkPath(path); (err == nil) != ok || err != nil && !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Consul's library takes the namespace, the partition and the token from the environment; no
// request has them, nor any that is not to be sent.
func TestWhatIsSent(t *testing.T) {
	for _, v := range []struct{ path, token, sent string }{
		{"/v1/kv/a?dc=x&recurse=", "secret", "/v1/kv/a?dc=x&recurse= secret"},
		{"/v1/kv/a?ns=theirs&dc=x", "secret", "/v1/kv/a?dc=x secret"},
		{"/v1/kv/a?partition=theirs", "", "/v1/kv/a "},
		{"/v1/kv/a?ns=theirs&partition=theirs&dc=x", "", "/v1/kv/a?dc=x "},
		{"/v1/kv/a/../b", "secret", ""},
	} {
		sent := make(chan string, 1)
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			sent <- r.URL.RequestURI() + " " + r.Header.Get(tokenHeader)
		}))
		r, err := http.NewRequest(http.MethodGet, server.URL+v.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(tokenHeader, "of the environment")
		answer, err := authorized{open(t, Config{Address: server.URL, Token: secret.String(v.token)})}.RoundTrip(r)
		if err == nil {
			answer.Body.Close()
		}
		server.Close()
		close(sent)
		if got := <-sent; got != v.sent || (err == nil) != (v.sent != "") {
			t.Errorf("of %s is sent %q, %v; want %q", v.path, got, err, v.sent)
		}
	}
}
