//go:build unix

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// A cluster moves from one provider to another while it runs, by a rolling restart for
// each step: there is never more than one master, terms only rise, nobody is missed
// who runs, and the cluster stays the one that it was. See
// docs/migration-consul-to-etcd.md.
func TestMigration(t *testing.T) {
	t.Parallel()
	t.Run("Consul to etcd", func(t *testing.T) {
		t.Parallel()
		consul, etcd := testserver.StartConsul(t), testserver.StartEtcd(t)
		m := newMigration(t, "consul", "etcd")
		m.sections["consul"] = map[string]any{"address": consul.Endpoint()}
		m.sections["etcd"] = map[string]any{"endpoints": []string{etcd.Endpoint()}}
		m.run(t, consul.Kill)
	})
	t.Run("etcd to Consul", func(t *testing.T) {
		t.Parallel()
		consul, etcd := testserver.StartConsul(t), testserver.StartEtcd(t)
		m := newMigration(t, "etcd", "consul")
		m.sections["consul"] = map[string]any{"address": consul.Endpoint()}
		m.sections["etcd"] = map[string]any{"endpoints": []string{etcd.Endpoint()}}
		m.run(t, etcd.Kill)
	})
	t.Run("list to etcd", func(t *testing.T) {
		t.Parallel()
		etcd := testserver.StartEtcd(t)
		m := newMigration(t, "static", "etcd")
		m.sections["static"] = map[string]any{"peers": m.nodes}
		m.sections["etcd"] = map[string]any{"endpoints": []string{etcd.Endpoint()}}
		m.run(t, func() {})
	})
}

// migration is a cluster on the way from one provider to another.
type migration struct {
	*testCluster
	nodes, web []string
	from, to   string
	sections   map[string]any
	ended      map[string]bool // instances
}

func newMigration(t *testing.T, from, to string) *migration {
	t.Helper()
	addrs := testAddrs(t, 6)
	return &migration{
		testCluster: emptyCluster(t), nodes: addrs[:3], web: addrs[3:], from: from, to: to,
		sections: make(map[string]any), ended: make(map[string]bool),
	}
}

// step is one configuration on the way.
type step struct {
	providers []string
	authority string
}

// steps are those of the documentation.
func (m *migration) steps() []step {
	both := []string{m.from, m.to}
	together := slices.Sorted(slices.Values(both))
	return []step{
		{[]string{m.from}, m.from},
		{both, m.from},
		{both, strings.Join(together, ",")},
		{both, m.to},
		{[]string{m.to}, m.to},
	}
}

func (m *migration) config(s step) map[string]any {
	sections := make(map[string]any)
	for _, name := range s.providers {
		sections[name] = m.sections[name]
	}
	return map[string]any{
		"provider":   sections,
		"bootstrap":  map[string]any{"expect": len(m.nodes)},
		"mastership": map[string]any{"ttl": "2s", "authority": s.authority},
	}
}

// run takes the cluster through all steps, and then ends the provider that nobody
// needs any more.
func (m *migration) run(t *testing.T, endOld func()) {
	t.Helper()
	steps := m.steps()
	for i, addr := range m.nodes {
		m.add(fmt.Sprintf("node-%d", i+1), addr, m.web[i], m.config(steps[0]))
	}
	m.start(m.agents...)
	first := m.waitMaster(0, 3, m.agents...)
	for _, s := range steps[1:] {
		for _, agent := range m.agents {
			m.reconfigure(agent, m.config(s))
			m.waitWell()
			m.checkDepartures(t, m.ended)
		}
		m.waitStatus("sees all members granted by "+s.authority, func(status httpapi.Status) bool {
			return !slices.ContainsFunc(status.View.Members, func(member httpapi.Member) bool {
				return strings.Join(member.Authorities, ",") != s.authority
			})
		}, m.agents...)
		if strings.Contains(s.authority, ",") {
			m.crash(first)
		}
		if now := m.waitMaster(first.Term, 3, m.agents...); now.ClusterID != first.ClusterID {
			t.Fatalf("with %s the cluster is %s, and was %s", s.authority, now.ClusterID, first.ClusterID)
		}
	}
	endOld()
	m.crash(first)
	m.checkDepartures(t, m.ended)
	m.finish(t)
}

// waitWell waits for what the operator waits for before he goes on to the next node.
func (m *migration) waitWell() {
	m.t.Helper()
	m.waitStatus("is ready and well", func(status httpapi.Status) bool {
		return status.Ready && !status.Degraded && len(status.View.Members) == 3 && status.Master != nil && status.View.Warning == ""
	}, m.agents...)
}

// crash kills the master, and brings it back when the others have another one.
func (m *migration) crash(first httpapi.Master) {
	m.t.Helper()
	master := m.waitMaster(first.Term, 3, m.agents...)
	victim, others := m.split(master)
	m.ended[m.instanceOf(victim)] = true
	m.kill(victim)
	m.waitMaster(master.Term, 2, others...)
	m.start(victim)
	m.waitWell()
}

// reconfigure restarts an agent in good order with another configuration.
func (m *migration) reconfigure(agent *agentProcess, config map[string]any) {
	m.t.Helper()
	if _, err := m.files.prepare(agent.name, agent.nodeAddr, agent.httpAddr, config); err != nil {
		m.t.Fatal(err)
	}
	m.ended[m.instanceOf(agent)] = true
	ctx, cancel := context.WithTimeout(m.t.Context(), wait.Patience)
	defer cancel()
	if err := agent.stop(ctx); err != nil {
		m.t.Error(err)
	}
	m.start(agent)
}

// finish stops the cluster and checks what the agents logged on the way.
func (m *migration) finish(t *testing.T) {
	t.Helper()
	report := m.stopAndCheck(t, len(m.steps())) // each step restarts the master at least once
	t.Logf("%d masterships; a master for %.1f %% of the time, and none for %v at most",
		report.Masterships, 100*report.Available, report.Gap.Round(time.Millisecond))
}
