//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// Over each provider the master is killed, stopped for longer than its grant, and
// asked to leave. There is never more than one master, by the agents' own logs.
func TestMasterFaults(t *testing.T) {
	t.Parallel()
	t.Run("static", func(t *testing.T) {
		t.Parallel()
		testMasterFaults(t, staticProvider, 600*time.Millisecond)
	})
	t.Run("etcd", func(t *testing.T) {
		t.Parallel()
		testMasterFaults(t, etcdProvider(testserver.StartEtcd(t)), 2*time.Second)
	})
}

func testMasterFaults(t *testing.T, provider providerConfig, ttl time.Duration) {
	c, first := formCluster(t, 3, func(peers []string) map[string]any {
		config := provider(peers)
		config["mastership"] = map[string]any{"ttl": ttl.String()}
		return config
	})

	// kill -9, and back again.
	victim, others := c.split(first)
	c.kill(victim)
	second := c.waitMaster(first.Term, 2, others...)
	c.start(victim)
	second = c.waitMaster(second.Term-1, 3, c.agents...)

	// SIGSTOP for three times the grant, and SIGCONT.
	victim, others = c.split(second)
	c.signal(victim, syscall.SIGSTOP)
	stopped := time.Now()
	third := c.waitMaster(second.Term, 2, others...)
	c.eventually("three grants have expired", func(context.Context) bool { return time.Since(stopped) > 3*ttl })
	c.signal(victim, syscall.SIGCONT)
	third = c.waitMaster(third.Term-1, 3, c.agents...)

	// SIGTERM: the agent drains and goes.
	victim, others = c.split(third)
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	if err := victim.stop(ctx); err != nil {
		t.Error(err)
	}
	fourth := c.waitMaster(third.Term, 2, others...)
	if fourth.ClusterID != first.ClusterID {
		t.Errorf("cluster id %s at last, %s at first", fourth.ClusterID, first.ClusterID)
	}
	c.stopAndCheck(t, 4)
}

// A provider that is down at boot forms no cluster, and holds nobody up for longer
// than it is down.
func TestProviderDownAtBoot(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	etcd.Kill()
	c := newTestCluster(t, 3, etcdProvider(etcd))
	c.start(c.agents...)
	for _, agent := range c.agents {
		c.eventually(agent.name+" says what it waits for", func(ctx context.Context) bool {
			s, err := c.status(ctx, agent)
			return err == nil && !s.Ready && strings.Contains(s.WaitingFor, "etcd") && s.Provider.Error != ""
		})
		if _, err := agent.master(t.Context()); err == nil {
			t.Errorf("%s knows a master while etcd is down", agent.name)
		}
		if status, _, stderr := execute(t, "agent", "health", "-c", agent.config); status != statusDone {
			t.Errorf("%s is not healthy: status %d, %s", agent.name, status, stderr)
		}
		if status, _, stderr := execute(t, "agent", "health", "--ready", "-c", agent.config); status != statusFailed || !strings.Contains(stderr, "is not ready: ") || !strings.Contains(stderr, "etcd") {
			t.Errorf("%s is ready: status %d, %s", agent.name, status, stderr)
		}
	}
	etcd.Restart()
	// Of the first grants none may be used: one that is answered too late is given up for the next.
	c.waitMaster(0, 3, c.agents...)
	c.eventually("all are ready", func(context.Context) bool {
		return !slices.ContainsFunc(c.agents, func(agent *agentProcess) bool {
			status, stdout, _ := execute(t, "agent", "health", "--ready", "-c", agent.config)
			return status != statusDone || stdout != "ok\n"
		})
	})
	c.stopAndCheck(t, 1)
}

// etcd is gone for longer than every lease: the members stay, no master does, and
// when it is back so is every registration and a master of a higher term.
func TestProviderOutage(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	c, first := formCluster(t, 3, etcdProvider(etcd))
	instances := c.waitRegistered(3)

	etcd.Kill()
	for _, agent := range c.agents {
		c.eventually(agent.name+" knows no master", func(ctx context.Context) bool {
			s, err := c.status(ctx, agent)
			return err == nil && s.Master == nil && !s.Mastership.IsMaster
		})
		members, err := agent.members(t.Context())
		if err != nil || len(members) != 3 {
			t.Errorf("%s sees %d members during the outage (%v), want 3", agent.name, len(members), err)
		}
	}
	etcd.Wipe() // not even a record of them is left
	etcd.Restart()
	next := c.waitMaster(first.Term, 3, c.agents...)
	if next.ClusterID != first.ClusterID {
		t.Errorf("cluster id %s after the outage, %s before", next.ClusterID, first.ClusterID)
	}
	for key := range c.waitRegistered(3) {
		if !instances[key] {
			t.Errorf("instance %s is registered and was not before", key)
		}
	}
	c.stopAndCheck(t, 2)
}

// waitRegistered waits until the provider shows n instances, and returns their ids.
func (c *testCluster) waitRegistered(n int) map[string]bool {
	c.t.Helper()
	var ids map[string]bool
	c.eventually(fmt.Sprintf("%d registrations", n), func(context.Context) bool {
		status, stdout, _ := execute(c.t, "discover", "-c", c.agents[0].config, "-o", "json")
		var list []struct {
			InstanceID string `json:"instance_id"`
		}
		if status != statusDone || json.Unmarshal([]byte(stdout), &list) != nil {
			return false
		}
		ids = make(map[string]bool)
		for _, i := range list {
			ids[i.InstanceID] = true
		}
		return len(ids) == n
	})
	return ids
}

// A restart within a moment under the same name, and one on a new port, are seen
// by all: as the new instance, and without a ghost of the old one.
func TestQuickRestart(t *testing.T) {
	t.Parallel()
	t.Run("static", func(t *testing.T) {
		t.Parallel()
		// Over a list the port is what the others know.
		testQuickRestart(t, staticProvider, "on the same port")
	})
	t.Run("etcd", func(t *testing.T) {
		t.Parallel()
		testQuickRestart(t, etcdProvider(testserver.StartEtcd(t)), "on the same port", "on a new port")
	})
}

func testQuickRestart(t *testing.T, provider providerConfig, ways ...string) {
	c, _ := formCluster(t, 3, provider)
	agent := c.agents[0]
	for _, how := range ways {
		old := c.instanceOf(agent)
		c.kill(agent)
		if how == "on a new port" {
			addrs := testAddrs(t, 2)
			moved, err := c.files.prepare(agent.name, addrs[0], addrs[1], provider([]string{"", "", ""}))
			if err != nil {
				t.Fatal(err)
			}
			moved.args = agent.args
			agent, c.agents[0] = moved, moved
		}
		c.start(agent)
		for _, a := range c.agents {
			c.eventually(fmt.Sprintf("%s sees %s again %s", a.name, agent.name, how), func(ctx context.Context) bool {
				members, err := a.members(ctx)
				if err != nil || len(members) != 3 {
					return false
				}
				for _, m := range members {
					if m.NodeID == agent.name {
						return m.InstanceID != old && m.Addr == agent.nodeAddr
					}
				}
				return false
			})
		}
		c.waitMaster(0, 3, c.agents...)
	}
	c.stopAndCheck(t, 1)
}

func (c *testCluster) instanceOf(agent *agentProcess) string {
	c.t.Helper()
	s, err := c.status(c.t.Context(), agent)
	if err != nil {
		c.t.Fatal(err)
	}
	return s.InstanceID
}

// Of two live processes with one node id the later one stays, and the earlier one
// says why it goes.
func TestDuplicateNodeID(t *testing.T) {
	t.Parallel()
	// The later one is on no list of voters: it is a member, and stands no more.
	t.Run("static", func(t *testing.T) {
		t.Parallel()
		testDuplicateNodeID(t, staticProvider)
	})
	t.Run("etcd", func(t *testing.T) {
		t.Parallel()
		testDuplicateNodeID(t, etcdProvider(testserver.StartEtcd(t)))
	})
}

func testDuplicateNodeID(t *testing.T, provider providerConfig) {
	c, first := formCluster(t, 3, provider)
	earlier, others := c.split(first) // the hardest one to do without

	addrs := testAddrs(t, 2)
	config := provider([]string{c.agents[0].nodeAddr, c.agents[1].nodeAddr, c.agents[2].nodeAddr})
	config["node"] = map[string]any{"id": earlier.name, "bind": addrs[0], "data_dir": t.TempDir()}
	later := c.add("twin", addrs[0], addrs[1], config)
	c.start(later)
	c.eventually("the earlier process ends", func(context.Context) bool { return !earlier.running() })
	if status := earlier.cmd.ProcessState.ExitCode(); status != statusFailed {
		t.Errorf("the earlier process ended with status %d, want %d", status, statusFailed)
	}
	if log, err := os.ReadFile(earlier.logFile); err != nil || !strings.Contains(string(log), "duplicate node id") {
		t.Errorf("the earlier process does not say why it ended (%v): %s", err, earlier.lastLog())
	}
	c.waitMaster(first.Term, 3, append(others, later)...)
	for _, agent := range append(others, later) {
		members, err := agent.members(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if m.NodeID == earlier.name && m.Addr != later.nodeAddr {
				t.Errorf("%s has %s at %s, want %s", agent.name, m.NodeID, m.Addr, later.nodeAddr)
			}
		}
	}
	c.stopAndCheck(t, 2)
}

// Two clusters that share a prefix in etcd, or that dial each other's addresses,
// stay apart: each has its own members, its own master and its own id.
func TestClustersStayApart(t *testing.T) {
	t.Parallel()
	t.Run("one prefix", func(t *testing.T) {
		t.Parallel()
		etcd := testserver.StartEtcd(t)
		c := emptyCluster(t)
		one, two := c.startTwo(func(own, _ []string) map[string]any { return etcdProvider(etcd)(own) })
		c.checkApart(t, one, two)
	})
	t.Run("each other's addresses", func(t *testing.T) {
		t.Parallel()
		c := emptyCluster(t)
		// What is looked up is dialled, and does not vote.
		one, two := c.startTwo(func(own, other []string) map[string]any {
			return map[string]any{"provider": map[string]any{"static": map[string]any{"peers": own, "dns": other}}}
		})
		// And one that has the wrong list altogether.
		addrs := testAddrs(t, 2)
		config := staticProvider([]string{one[0].nodeAddr, one[1].nodeAddr, one[2].nodeAddr})
		config["cluster"] = "two"
		stray := c.add("stray", addrs[0], addrs[1], config)
		c.start(stray)

		const refusals = `muster_link_rejected_total{reason="wrong_cluster"}`
		for _, agent := range slices.Concat(one, two) {
			c.waitMetric(agent, refusals, 3)
		}
		c.eventually("the stray agent has nobody", func(ctx context.Context) bool {
			s, err := c.status(ctx, stray)
			return err == nil && s.Mastership.Error != "" && !s.Ready
		})
		s, err := c.status(t.Context(), stray)
		if err != nil || len(s.View.Members) != 1 || s.Master != nil || s.View.ClusterID != "" {
			t.Errorf("the stray agent is not alone: %+v, %v", s, err)
		}
		c.checkApart(t, one, two)
	})
}

// startTwo starts the clusters "one" and "two" of three agents each, from the
// addresses of their own and those of the other.
func (c *testCluster) startTwo(config func(own, other []string) map[string]any) (one, two []*agentProcess) {
	c.t.Helper()
	const each = 3
	addrs := testAddrs(c.t, 4*each)
	ones, twos, web := addrs[:each], addrs[each:2*each], addrs[2*each:]
	add := func(cluster string, own, other, web []string) (agents []*agentProcess) {
		for i := range own {
			config := config(own, other)
			config["cluster"] = cluster
			agents = append(agents, c.add(fmt.Sprintf("%s-%d", cluster, i+1), own[i], web[i], config))
		}
		return agents
	}
	one, two = add("one", ones, twos, web[:each]), add("two", twos, ones, web[each:])
	c.start(one...)
	c.start(two...)
	return one, two
}

// checkApart checks that each of the two clusters has its own, and ends them.
func (c *testCluster) checkApart(t *testing.T, one, two []*agentProcess) {
	t.Helper()
	ids := make(map[string]bool)
	for _, agents := range [][]*agentProcess{one, two} {
		master := c.waitMaster(0, len(agents), agents...)
		ids[master.ClusterID] = true
		own := make(map[string]bool)
		for _, agent := range agents {
			own[agent.name] = true
		}
		if !own[master.NodeID] {
			t.Errorf("the master of %s is %s", agents[0].name, master.NodeID)
		}
		for _, agent := range agents {
			s, err := c.status(t.Context(), agent)
			if err != nil {
				t.Fatal(err)
			}
			if s.View.ClusterID != master.ClusterID {
				t.Errorf("%s is in cluster %s, its master in %s", agent.name, s.View.ClusterID, master.ClusterID)
			}
			for _, m := range slices.Concat(s.View.Members, s.View.Departed) {
				if !own[m.NodeID] {
					t.Errorf("%s has seen %s as a member", agent.name, m.NodeID)
				}
			}
		}
	}
	if len(ids) != 2 || ids[""] {
		t.Errorf("the ids of the two clusters are %v", ids)
	}
	c.stopAll()
	c.checkHistoryOf(t, one, 1)
	c.checkHistoryOf(t, two, 1)
}

// The whole HTTP API of a running agent.
func TestAPI(t *testing.T) {
	c := newTestCluster(t, 1, staticProvider)
	c.start(c.agents...)
	agent := c.agents[0]
	c.waitMaster(0, 1, agent)

	for path, want := range map[string]string{
		httpapi.PathStatus:  `"ready":true`,
		httpapi.PathMembers: `"state":"alive","self":true,"master":true`,
		httpapi.PathMaster:  `"term":1,`,
		httpapi.PathView:    `"majority":true`,
		httpapi.PathHealth:  "ok",
		httpapi.PathReady:   "ok",
		httpapi.PathMetrics: `muster_mastership_state{state="active"} 1`,
	} {
		response, err := http.Get("http://" + agent.httpAddr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("GET %s: %s %v, want %q in %s", path, response.Status, err, want, body)
		}
	}

	// The stream begins with what there is.
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agent.httpAddr+httpapi.PathEvents, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var stream strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(stream.String(), "event: master_changed") {
		n, err := response.Body.Read(buffer)
		if err != nil {
			t.Fatalf("%v, after %s", err, stream.String())
		}
		stream.Write(buffer[:n])
	}
	if !strings.Contains(stream.String(), "event: member_joined") {
		t.Errorf("no member in the stream: %s", stream.String())
	}
	c.stopAll()
}

// What can only be found out by starting: status 1, and one line with the key, the
// value and the hint.
func TestStartErrors(t *testing.T) {
	c := newTestCluster(t, 2, staticProvider)
	running := c.agents[0]
	c.start(running)
	c.eventually("the first agent answers", func(ctx context.Context) bool {
		_, err := c.status(ctx, running)
		return err == nil
	})
	file := writeFile(t, "file", "")
	for _, test := range []struct {
		name string
		args []string
		want []string
	}{
		{"port in use", []string{"--node-bind", running.nodeAddr}, []string{"node.bind", running.nodeAddr, "in use"}},
		{"API's port in use", []string{"--http-addr", running.httpAddr}, []string{"http.addr", running.httpAddr, "in use"}},
		{"unwritable data_dir", []string{"--node-data-dir", file + "/dir"}, []string{"data_dir", file + "/dir"}},
		{"unresolvable name", []string{"--node-advertise", "no-such-host.invalid:7946"}, []string{"node.advertise", "no-such-host.invalid"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := append([]string{"agent", "-c", c.agents[1].config, "--log-level", "error"}, test.args...)
			status, _, stderr := executeProcess(t, args...)
			line := strings.TrimSpace(stderr)
			if status != statusFailed || strings.Contains(line, "\n") {
				t.Errorf("status %d and %q, want status %d and one line", status, line, statusFailed)
			}
			for _, want := range test.want {
				if !strings.Contains(line, want) {
					t.Errorf("%q does not name %q", line, want)
				}
			}
		})
	}
	c.stopAll()
}
