//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// listedInstance is what muster discover says of one instance.
type listedInstance struct {
	NodeID     string   `json:"node_id"`
	InstanceID string   `json:"instance_id"`
	Addr       string   `json:"addr"`
	Providers  []string `json:"providers"`
}

// discoverWith returns what muster discover lists with the configuration of an agent,
// and nothing if it fails.
func (c *testCluster) discoverWith(agent *agentProcess, args ...string) []listedInstance {
	c.t.Helper()
	status, stdout, _ := execute(c.t, append([]string{"discover", "-c", agent.config, "-o", "json"}, args...)...)
	var list []listedInstance
	if status != statusDone || json.Unmarshal([]byte(stdout), &list) != nil {
		return nil
	}
	return list
}

// waitListed waits until all the agents, and nobody else, are listed by exactly these
// providers as seen with the configuration of the first.
func (c *testCluster) waitListed(providers []string, agents ...*agentProcess) {
	c.t.Helper()
	c.eventually("all agents are listed", func(context.Context) bool {
		var nodes, want []string
		for _, i := range c.discoverWith(agents[0]) {
			if !slices.Equal(i.Providers, providers) {
				return false
			}
			nodes = append(nodes, i.NodeID)
		}
		for _, agent := range agents {
			want = append(want, agent.name)
		}
		slices.Sort(nodes)
		slices.Sort(want)
		return slices.Equal(nodes, want)
	})
}

// checkDepartures reads the logs of all agents so far, and fails the test where one
// says that a member is gone whose instance the test has not ended.
func (c *testCluster) checkDepartures(t *testing.T, ended map[string]bool) {
	t.Helper()
	for _, agent := range c.agents {
		log, err := os.ReadFile(agent.logFile)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(bytes.NewReader(log))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var record struct {
				Time     string `json:"time"`
				Msg      string `json:"msg"`
				Member   string `json:"member"`
				Subject  string `json:"subject"`
				Instance string `json:"instance_id"`
			}
			if json.Unmarshal(lines.Bytes(), &record) != nil {
				continue // not a record, such as the output of a crash
			}
			if (record.Msg == "member left" || record.Msg == "member failed") && !ended[record.Instance] {
				t.Errorf("%s: %s: %s: %s, instance %s, which ran", agent.name, record.Time, record.Msg, record.Member+record.Subject, record.Instance)
			}
		}
	}
}

// Peers come from a list, and mastership and registrations from etcd. While etcd is
// gone nobody leaves, and one that is started again finds the others by the list;
// when it is back, with nothing left of it, so is everything.
func TestListBesideEtcd(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	c, first := formCluster(t, 3, func(peers []string) map[string]any {
		return map[string]any{
			"provider": map[string]any{
				"static": map[string]any{"peers": peers},
				"etcd":   map[string]any{"endpoints": []string{etcd.Endpoint()}},
			},
			"bootstrap":  map[string]any{"expect": len(peers)},
			"mastership": map[string]any{"ttl": "2s", "authority": "etcd"},
		}
	})
	// What the list knows by its address is what etcd knows by its id.
	c.waitListed([]string{"etcd", "static"}, c.agents...)
	c.waitStatus("has two providers that are well", func(s httpapi.Status) bool {
		p := s.Providers
		return !s.Degraded && len(p) == 2 && s.Provider.Name == "etcd" &&
			p[0].Name == "etcd" && p[0].Authority && p[0].Registered && !p[1].Authority && p[1].Off != ""
	}, c.agents...)

	etcd.Kill()
	c.waitStatus("says that etcd fails, and knows no master", func(s httpapi.Status) bool {
		return s.Degraded && s.Provider.Stale && s.Providers[0].Error != "" && !s.Providers[0].Registered && s.Master == nil &&
			s.Providers[1].Known && !s.Providers[1].Stale && s.Providers[1].Error == ""
	}, c.agents...)
	restarted := c.agents[0]
	ended := map[string]bool{c.instanceOf(restarted): true}
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	_ = restarted.stop(ctx) // which cannot deregister, and says so
	c.start(restarted)
	c.waitStatus("is ready, with all members", func(s httpapi.Status) bool {
		return s.Ready && s.Degraded && len(s.View.Members) == 3
	}, c.agents...)

	etcd.Wipe()
	etcd.Restart()
	next := c.waitMaster(first.Term, 3, c.agents...)
	if next.ClusterID != first.ClusterID {
		t.Errorf("cluster id %s after the outage, %s before", next.ClusterID, first.ClusterID)
	}
	c.waitListed([]string{"etcd", "static"}, c.agents...)
	c.waitStatus("is well", func(s httpapi.Status) bool { return !s.Degraded }, c.agents...)
	c.checkDepartures(t, ended)
	c.stopAndCheck(t, 2)
}

// Each agent is registered with Consul and with etcd. What one of them loses is put
// back, nobody leaves meanwhile, and there is a master as long as the one that grants
// is there.
func TestConsulBesideEtcd(t *testing.T) {
	t.Parallel()
	consul, etcd := testserver.StartConsul(t), testserver.StartEtcd(t)
	c, first := formCluster(t, 3, func(peers []string) map[string]any {
		return map[string]any{
			"provider": map[string]any{
				"consul": map[string]any{"address": consul.Endpoint()},
				"etcd":   map[string]any{"endpoints": []string{etcd.Endpoint()}},
			},
			"bootstrap":  map[string]any{"expect": len(peers)},
			"mastership": map[string]any{"ttl": "2s", "authority": "etcd"},
		}
	})
	both := []string{"etcd", "consul"}
	c.waitListed(both, c.agents...)
	well := func(s httpapi.Status) bool {
		return !s.Degraded && s.Providers[0].Registered && s.Providers[1].Registered
	}
	c.waitStatus("is well", well, c.agents...)

	consul.Kill()
	c.waitStatus("says that Consul fails, and all else goes on", func(s httpapi.Status) bool {
		return s.Degraded && s.Providers[1].Stale && s.Providers[1].Error != "" &&
			s.Ready && !s.Provider.Stale && s.Registration.Registered && s.Master != nil && s.Master.Term == first.Term
	}, c.agents...)
	c.waitListed([]string{"etcd"}, c.agents...)
	consul.Restart() // with nothing of what it knew
	c.waitListed(both, c.agents...)
	c.waitStatus("is well again", well, c.agents...)
	c.waitMaster(first.Term-1, 3, c.agents...)

	etcd.Wipe()
	c.waitStatus("says that etcd fails, and knows no master", func(s httpapi.Status) bool {
		return s.Degraded && s.Provider.Stale && !s.Registration.Registered && s.Master == nil && s.Providers[1].Registered
	}, c.agents...)
	etcd.Restart()
	c.waitListed(both, c.agents...)
	c.waitStatus("is well at last", well, c.agents...)
	c.waitMaster(first.Term, 3, c.agents...)
	c.checkDepartures(t, nil)
	c.stopAndCheck(t, 2)
}
