//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/loopback"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// testCluster is a set of agents that run as processes.
type testCluster struct {
	t      testing.TB
	files  agentFiles
	agents []*agentProcess
	lives  map[string][]checker.Life // of the processes, by agent
	end    clock.Instant             // when all were asked to leave
}

// providerConfig returns the sections that make the agents of a cluster know each
// other.
type providerConfig func(peers []string) map[string]any

// staticProvider has all agents vote, with a grant of 2 s: one of the default is lost where four
// clusters under the race detector share a slow machine.
func staticProvider(peers []string) map[string]any {
	return map[string]any{
		"provider":   map[string]any{"static": map[string]any{"peers": peers}},
		"mastership": map[string]any{"ttl": "2s"},
	}
}

// patientProvider is staticProvider with long grants, for tests of what a command does: one that
// takes a second to start, as with the race detector, is killed at the end of a short grant.
func patientProvider(peers []string) map[string]any {
	config := staticProvider(peers)
	config["mastership"] = map[string]any{"ttl": "6s"}
	return config
}

// etcdProvider uses a real etcd, with a grant of 2 s.
func etcdProvider(etcd *testserver.Etcd) providerConfig {
	return func(peers []string) map[string]any {
		return map[string]any{
			"provider":   map[string]any{"etcd": map[string]any{"endpoints": []string{etcd.Endpoint()}}},
			"bootstrap":  map[string]any{"expect": len(peers)},
			"mastership": map[string]any{"ttl": "2s"},
		}
	}
}

// consulProvider uses a real Consul, with a grant of 2 s.
func consulProvider(consul *testserver.Consul) providerConfig {
	return func(peers []string) map[string]any {
		return map[string]any{
			"provider":   map[string]any{"consul": map[string]any{"address": consul.Endpoint()}},
			"bootstrap":  map[string]any{"expect": len(peers)},
			"mastership": map[string]any{"ttl": "2s"},
		}
	}
}

// newTestCluster prepares n agents and starts none.
func newTestCluster(t testing.TB, n int, provider providerConfig) *testCluster {
	t.Helper()
	c := emptyCluster(t)
	addrs := testAddrs(t, 2*n)
	peers, web := addrs[:n], addrs[n:]
	for i := range n {
		c.add(fmt.Sprintf("node-%d", i+1), peers[i], web[i], provider(peers))
	}
	return c
}

// formCluster starts n agents, and waits until they see each other and know a master.
func formCluster(t testing.TB, n int, provider providerConfig) (*testCluster, httpapi.Master) {
	t.Helper()
	c := newTestCluster(t, n, provider)
	c.start(c.agents...)
	return c, c.waitMaster(0, n, c.agents...)
}

// testAddrs returns n addresses on loopback, none of which any other test has. See package
// loopback for where their ports lie.
func testAddrs(t testing.TB, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		port, err := loopback.Port()
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	return addrs
}

func emptyCluster(t testing.TB) *testCluster {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &testCluster{t: t, files: agentFiles{binary: binary, dir: t.TempDir()}, lives: make(map[string][]checker.Life)}
	t.Cleanup(func() {
		for _, agent := range c.agents {
			agent.kill()
		}
		if t.Failed() {
			c.printLogs()
		}
	})
	return c
}

// add prepares one more agent.
func (c *testCluster) add(name, nodeAddr, httpAddr string, config map[string]any) *agentProcess {
	c.t.Helper()
	agent, err := c.files.prepare(name, nodeAddr, httpAddr, config)
	if err != nil {
		c.t.Fatal(err)
	}
	agent.args = []string{"--history", c.historyFile(agent)}
	c.agents = append(c.agents, agent)
	return agent
}

func (c *testCluster) historyFile(agent *agentProcess) string {
	return filepath.Join(c.files.dir, agent.name+".history")
}

func (c *testCluster) start(agents ...*agentProcess) {
	c.t.Helper()
	for _, agent := range agents {
		c.lives[agent.name] = append(c.lives[agent.name], checker.Life{Host: agent.name, Begin: int64(clock.Now())})
		if err := agent.start(c.files.binary); err != nil {
			c.t.Fatal(err)
		}
	}
}

// kill ends an agent as kill -9 does, and notes when it was certainly dead.
func (c *testCluster) kill(agent *agentProcess) {
	agent.kill()
	lives := c.lives[agent.name]
	lives[len(lives)-1].End = int64(clock.Now())
}

func (c *testCluster) signal(agent *agentProcess, s syscall.Signal) {
	c.t.Helper()
	if err := agent.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// stopAll has every agent leave.
func (c *testCluster) stopAll() {
	c.t.Helper()
	c.end = clock.Now()
	ctx, cancel := context.WithTimeout(c.t.Context(), wait.Patience)
	defer cancel()
	for _, agent := range c.agents {
		if agent.running() {
			if err := agent.stop(ctx); err != nil {
				c.t.Error(err)
			}
		}
	}
}

// eventually waits until done, and fails the test with what was waited for.
func (c *testCluster) eventually(what string, done func(ctx context.Context) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), wait.Patience)
	defer cancel()
	if !wait.Until(ctx, func() bool { return done(ctx) }) {
		c.t.Fatalf("not within %v: %s", wait.Patience, what)
	}
}

// waitMaster waits until the agents agree on a master of a higher term than above,
// and see so many members.
func (c *testCluster) waitMaster(above uint64, members int, agents ...*agentProcess) httpapi.Master {
	c.t.Helper()
	var master httpapi.Master
	c.eventually(fmt.Sprintf("one master of a term above %d, and %d members", above, members), func(ctx context.Context) bool {
		for i, agent := range agents {
			m, err := agent.master(ctx)
			if err != nil || m.Term <= above || i > 0 && m.InstanceID != master.InstanceID {
				return false
			}
			master = m
			list, err := agent.members(ctx)
			if err != nil || len(list) != members {
				return false
			}
		}
		return true
	})
	return master
}

// split returns the agent that is master, and the others.
func (c *testCluster) split(master httpapi.Master) (agent *agentProcess, others []*agentProcess) {
	for _, a := range c.agents {
		if a.name == master.NodeID {
			agent = a
		} else {
			others = append(others, a)
		}
	}
	return agent, others
}

func (c *testCluster) status(ctx context.Context, agent *agentProcess) (httpapi.Status, error) {
	var s httpapi.Status
	err := agent.get(ctx, httpapi.PathStatus, &s)
	return s, err
}

// stopAndCheck has every agent leave, and looks at their histories.
func (c *testCluster) stopAndCheck(t *testing.T, atLeast int) checker.Report {
	t.Helper()
	c.stopAll()
	return c.checkHistoryOf(t, c.agents, atLeast)
}

// checkHistoryOf reads the histories of the agents of one cluster, once they have left,
// and fails the test where they show that a promise was broken, or fewer masterships
// than the test has brought about.
func (c *testCluster) checkHistoryOf(t *testing.T, agents []*agentProcess, atLeast int) checker.Report {
	t.Helper()
	run := checker.Run{End: int64(c.end)}
	for _, agent := range agents {
		file, err := os.Open(c.historyFile(agent))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		run.Logs = append(run.Logs, checker.ReadLog(t, agent.name, file))
		run.Lives = append(run.Lives, c.lives[agent.name]...)
	}
	report := checker.Require(t, run)
	if report.Masterships < atLeast {
		t.Errorf("there were %d masterships, want at least %d", report.Masterships, atLeast)
	}
	return report
}

func (c *testCluster) printLogs() {
	const most = 8 << 10
	logs, _ := filepath.Glob(filepath.Join(c.files.dir, "*.log"))
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			c.t.Log(err)
			continue
		}
		c.t.Logf("%s, its last part:\n%s", filepath.Base(path), text[max(0, len(text)-most):])
	}
}
