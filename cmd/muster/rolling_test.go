//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/node/httpapi"
)

// listedCluster is a cluster of agents that each read the list of voters from a
// file of their own, as on hosts of their own.
type listedCluster struct {
	*testCluster
	dir string
}

// add prepares an agent whose file lists these addresses.
func (c *listedCluster) add(name, addr, httpAddr string, listed ...string) *agentProcess {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	agent := c.testCluster.add(name, addr, httpAddr, map[string]any{
		"provider": map[string]any{"static": map[string]any{"file": path}},
	})
	c.edit(agent, listed...)
	return agent
}

// edit replaces the agent's file in one step.
func (c *listedCluster) edit(agent *agentProcess, lines ...string) {
	c.t.Helper()
	path := filepath.Join(c.dir, agent.name)
	text := strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		c.t.Fatal(err)
	}
}

// roll edits the file of one agent after another.
func (c *listedCluster) roll(agents []*agentProcess, lines ...string) {
	c.t.Helper()
	for _, agent := range agents {
		c.edit(agent, lines...)
		c.waitStatus("has read the list", func(s httpapi.Status) bool {
			return !s.Provider.Stale && s.Provider.Instances == len(lines)
		}, agent)
	}
}

// waitVoters waits until so many voters are in force and in sight.
func (c *listedCluster) waitVoters(n int, agents ...*agentProcess) {
	c.t.Helper()
	c.waitStatus(fmt.Sprintf("has %d voters and no complaint", n), func(s httpapi.Status) bool {
		m := s.Mastership
		return m.Have == n && m.Need == n/2+1 && m.Warning == "" && s.Master != nil
	}, agents...)
}

// waitStatus waits until the status of each of the agents is as wanted.
func (c *testCluster) waitStatus(what string, wanted func(httpapi.Status) bool, agents ...*agentProcess) {
	c.t.Helper()
	for _, agent := range agents {
		var last httpapi.Status
		defer func() {
			if c.t.Failed() {
				c.t.Logf("%s said at last: %+v", agent.name, last)
			}
		}()
		c.eventually(agent.name+" "+what, func(ctx context.Context) bool {
			s, err := c.status(ctx, agent)
			if err != nil {
				return false
			}
			last = s
			return wanted(s)
		})
	}
}

// One voter is added to the list, and one is taken off, by an edit of one file
// after another, and it stays one cluster. An edit that is too large or broken
// changes nothing, and is reported.
func TestRollingEdit(t *testing.T) {
	t.Parallel()
	addrs := testAddrs(t, 10)
	nodes, web, nobody := addrs[:4], addrs[4:8], addrs[8:]
	c := &listedCluster{emptyCluster(t), t.TempDir()}
	for i := range 3 {
		c.add(fmt.Sprintf("node-%d", i+1), nodes[i], web[i], nodes[:3]...)
	}
	c.start(c.agents...)
	first := c.waitMaster(0, 3, c.agents...)
	c.waitVoters(3, c.agents...)

	// One more.
	c.start(c.add("node-4", nodes[3], web[3], nodes...))
	c.roll(c.agents[:3], nodes...)
	c.waitVoters(4, c.agents...)
	c.waitMaster(first.Term-1, 4, c.agents...)

	// One of the old ones less: it stays a member, and stands no more.
	_, followers := c.split(first)
	off := followers[0]
	listed := slices.DeleteFunc(slices.Clone(nodes), func(addr string) bool { return addr == off.nodeAddr })
	var voters []*agentProcess
	for _, agent := range c.agents {
		if agent != off {
			voters = append(voters, agent)
		}
	}
	c.roll(c.agents, listed...)
	c.waitVoters(3, voters...)
	last := c.waitMaster(first.Term-1, 4, c.agents...)
	if last.ClusterID != first.ClusterID {
		t.Errorf("cluster id %s after the edits, %s before", last.ClusterID, first.ClusterID)
	}

	// A list that differs by two.
	careless := voters[0]
	c.edit(careless, slices.Concat(listed, nobody)...)
	c.waitStatus("warns of the edit", func(s httpapi.Status) bool {
		return strings.Contains(s.Mastership.Warning, "differs by 2") && strings.Contains(s.Mastership.Warning, "change one voter at a time")
	}, careless)
	c.waitStatus("warns of the other's edit", func(s httpapi.Status) bool {
		return strings.Contains(s.Mastership.Warning, careless.nodeAddr)
	}, voters[1:]...)
	c.edit(careless, listed...)
	c.waitVoters(3, voters...)

	// A broken one.
	c.edit(careless, listed[0], "10.0.0.6")
	c.waitStatus("says that its list is broken", func(s httpapi.Status) bool {
		return s.Provider.Stale && s.Provider.Instances == len(listed) &&
			strings.Contains(s.Provider.Error, careless.name) && strings.Contains(s.Provider.Error, `line 2: "10.0.0.6"`)
	}, careless)
	c.waitStatus("keeps its last good list", func(s httpapi.Status) bool {
		return s.Mastership.Have == 3 && s.Mastership.Need == 2 && len(s.View.Members) == 4
	}, voters...)
	c.edit(careless, listed...)
	c.waitVoters(3, voters...)
	c.waitStatus("has a good list again", func(s httpapi.Status) bool { return !s.Provider.Stale && s.Provider.Error == "" }, careless)

	c.stopAndCheck(t, 1)
}
