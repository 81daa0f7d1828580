package faults

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/netlab"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
)

// store is what a provider stands on: servers on hosts of their own, or nothing.
type store struct {
	provider string
	lab      *Lab
	servers  []server
	places   []*netlab.Host
	direct   driver.Driver    // past all proxies; nil for a provider without a registry
	agents   map[*Host]server // of Consul, where each host has one

	// proxies are those between a host and each server, if there are any.
	mu      sync.Mutex
	proxies map[*Host][]*faultproxy.TCP
	dead    map[int]bool
	stopped map[int]bool
}

// server is an etcd or a Consul.
type server interface {
	Addr() string
	Kill()
	Restart()
	Wipe()
	Pause()
	Resume()
	IsLeader() bool
}

// newStore starts n servers.
func newStore(t testing.TB, l *Lab, provider string, n int) *store {
	t.Helper()
	s := &store{provider: provider, lab: l, agents: make(map[*Host]server), proxies: make(map[*Host][]*faultproxy.TCP), dead: make(map[int]bool), stopped: make(map[int]bool)}
	if provider == "static" {
		return s
	}
	var places []testserver.Place
	for i := range n {
		h := l.Net.Host("s" + string(rune('1'+i)))
		s.places = append(s.places, h)
		places = append(places, testserver.Place{IP: h.IP(), Netns: h.Netns()})
	}
	var err error
	switch provider {
	case "etcd":
		var endpoints []string
		for _, e := range testserver.StartEtcdOn(t, places...) {
			s.servers = append(s.servers, e)
			endpoints = append(endpoints, e.Endpoint())
		}
		s.direct, err = etcd.New(etcd.Config{Endpoints: endpoints})
	case "consul":
		for _, c := range testserver.StartConsulOn(t, places...) {
			s.servers = append(s.servers, c)
		}
		s.direct, err = consul.New(consul.Config{Address: s.servers[0].Addr(), HealthyOnly: true})
	default:
		t.Fatalf("no such provider: %s", provider)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.direct.Close() })
	return s
}

// joined starts what the store has on the host of a node: where Consul has several
// servers, an agent, as is usual. A server alone is the agent of all.
func (s *store) joined(h *Host) {
	if s.provider == "consul" && len(s.servers) > 1 {
		place := testserver.Place{IP: h.IP(), Netns: h.Netns()}
		s.agents[h] = testserver.StartConsulAgentOn(s.lab.t, place, s.servers[0].(*testserver.Consul))
	}
}

// seenBy are the servers that a host talks to.
func (s *store) seenBy(h *Host) []server {
	if agent := s.agents[h]; agent != nil {
		return []server{agent}
	}
	return s.servers
}

// config returns the section of a host's provider.
func (s *store) config(h *Host) map[string]any {
	section := map[string]any{}
	switch s.provider {
	case "static":
		section["peers"] = s.lab.voters
	case "etcd":
		var endpoints []string
		for _, addr := range s.addrs(h) {
			endpoints = append(endpoints, "http://"+addr)
		}
		section["endpoints"] = endpoints
	case "consul":
		section["address"] = s.addrs(h)[0]
	}
	return map[string]any{"provider": map[string]any{s.provider: section}}
}

// addrs are the servers as a host is told of them.
func (s *store) addrs(h *Host) (addrs []string) {
	if !s.lab.options.Proxied {
		for _, server := range s.seenBy(h) {
			addrs = append(addrs, server.Addr())
		}
		return addrs
	}
	for _, p := range s.ways(h) {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// ways are the proxies between a host and the servers.
func (s *store) ways(h *Host) []*faultproxy.TCP {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proxies[h] == nil {
		for _, server := range s.seenBy(h) {
			s.proxies[h] = append(s.proxies[h], faultproxy.NewTCPOn(s.lab.t, s.lab.Net.Middle(), server.Addr()))
		}
	}
	return s.proxies[h]
}

// ips are the addresses at which hosts find the servers, and their agents do.
func (s *store) ips() (ips []string) {
	if s.lab.options.Proxied {
		ips = append(ips, s.lab.Net.Middle())
	}
	if s.lab.options.Proxied && len(s.agents) == 0 {
		return ips
	}
	for _, h := range s.places {
		ips = append(ips, h.IP())
	}
	return ips
}

// has reports whether there are servers.
func (s *store) has() bool { return len(s.servers) > 0 }

// leader is the server that leads, waiting for it.
func (s *store) leader() int {
	s.lab.t.Helper()
	leader := -1
	s.lab.eventually("a server leads", func(context.Context) bool {
		leader = slices.IndexFunc(s.servers, server.IsLeader)
		return leader >= 0
	})
	return leader
}

// kill kills one server.
func (s *store) kill(i int) {
	s.lab.logf("server %d is killed", i+1)
	s.servers[i].Kill()
	s.dead[i] = true
}

// pause stops one server's clock.
func (s *store) pause(i int) {
	s.lab.logf("server %d is paused", i+1)
	s.servers[i].Pause()
	s.stopped[i] = true
}

// pauseAll has all servers hang.
func (s *store) pauseAll() {
	for i := range s.servers {
		s.pause(i)
	}
}

// killAll kills all servers.
func (s *store) killAll() {
	for i := range s.servers {
		s.kill(i)
	}
}

// restore brings back what was killed or paused.
func (s *store) restore() {
	for i := range s.stopped {
		s.lab.logf("server %d goes on", i+1)
		s.servers[i].Resume()
	}
	clear(s.stopped)
	var starting sync.WaitGroup
	for i := range s.dead {
		s.lab.logf("server %d starts", i+1)
		starting.Go(s.servers[i].Restart) // they wait for each other
	}
	starting.Wait()
	clear(s.dead)
	for _, ways := range s.proxies {
		for _, way := range ways {
			way.Restore()
		}
	}
}

// wipe removes the data of all servers, which are gone after it.
func (s *store) wipe() {
	s.lab.logf("the servers are wiped")
	for i, server := range s.servers {
		server.Wipe()
		s.dead[i] = true
	}
	s.lab.forgets()
}

// backup returns what puts the data of now back. There is one server.
func (s *store) backup() (restore func()) {
	switch server := s.servers[0].(type) {
	case *testserver.Etcd:
		b := server.Backup()
		return func() {
			server.RestoreBackup(b)
			s.lab.forgets()
		}
	case *testserver.Consul:
		b := server.Backup()
		return func() {
			server.RestoreBackup(b)
			s.lab.forgets()
		}
	}
	panic("no such server")
}

// depose takes mastership away from its holder, as an operator might.
func (s *store) depose() {
	s.lab.t.Helper()
	s.lab.logf("mastership is taken away by an operator")
	const key = "v1/clusters/orders/master"
	const record = "muster/v1/clusters/orders/mastership"
	var err error
	switch server := s.servers[0].(type) {
	case *testserver.Etcd:
		_, err = server.Client().Delete(s.lab.t.Context(), "/muster/"+key)
	case *testserver.Consul:
		_, err = server.Client().KV().Delete(record, nil)
	}
	if err != nil {
		s.lab.t.Fatalf("take mastership away: %v", err)
	}
}

// edit writes something else over the record of mastership in Consul, and returns what
// puts back what stood there.
func (s *store) edit(how func(record []byte) []byte) (restore func()) {
	s.lab.t.Helper()
	s.lab.logf("the record of mastership is edited by hand")
	kv := s.servers[0].(*testserver.Consul).Client().KV()
	before, _, err := kv.Get("muster/v1/clusters/orders/mastership", &consulapi.QueryOptions{RequireConsistent: true})
	put := func(value []byte) {
		s.lab.t.Helper()
		if err == nil {
			_, err = kv.Put(&consulapi.KVPair{Key: before.Key, Value: value}, nil)
		}
		if err != nil {
			s.lab.t.Fatalf("edit the record of mastership: %v", err)
		}
	}
	if err == nil {
		put(how(before.Value))
	}
	return func() {
		s.lab.logf("the record of mastership is put back")
		put(before.Value)
	}
}

// takesWrites reports whether one of the servers confirms a write within a second.
func (s *store) takesWrites(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answers := make(chan bool, len(s.servers))
	for _, server := range s.servers {
		go func() {
			var err error
			switch server := server.(type) {
			case *testserver.Etcd:
				_, err = server.Client().Put(ctx, "/probe", "")
			case *testserver.Consul:
				_, err = server.Client().KV().Put(&consulapi.KVPair{Key: "probe"}, (&consulapi.WriteOptions{}).WithContext(ctx))
			}
			answers <- err == nil
		}()
	}
	for range s.servers {
		if <-answers {
			return true
		}
	}
	return false
}

// list returns the ids of the instances that are registered.
func (s *store) list(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	snapshot, err := s.direct.List(ctx, driver.Query{Service: s.lab.cluster})
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, i := range snapshot.Instances {
		ids = append(ids, i.InstanceID)
	}
	slices.Sort(ids)
	return ids, nil
}
