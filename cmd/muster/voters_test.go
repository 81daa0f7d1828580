//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/node/httpapi"
)

// readyz asks an agent whether it is ready.
func readyz(ctx context.Context, agent *agentProcess) (status int, body string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agent.httpAddr+httpapi.PathReady, nil)
	if err != nil {
		return 0, err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(b)
}

// notReady waits until an agent is not ready and says all parts.
func (c *testCluster) notReady(agent *agentProcess, parts ...string) {
	c.t.Helper()
	last := ""
	defer func() {
		if c.t.Failed() {
			c.t.Logf("%s says %s", agent.name, last)
		}
	}()
	c.eventually(fmt.Sprintf("%s is not ready: %s", agent.name, strings.Join(parts, ", ")), func(ctx context.Context) bool {
		status, body := readyz(ctx, agent)
		last = fmt.Sprint(status, " ", body)
		for _, part := range parts {
			if !strings.Contains(body, part) {
				return false
			}
		}
		return status == http.StatusServiceUnavailable
	})
}

// The voters of a cluster that is founded by an operator, since one of them is gone, and
// then the one that is back and remembers the cluster before it: an alarm that names both,
// and an agent that is not ready.
func TestVotersFound(t *testing.T) {
	t.Parallel()
	c, first := formCluster(t, 3, staticProvider)
	var status int
	var out, stderr string
	c.eventually("all voters are told", func(context.Context) bool { // who is asked now and then
		status, out, stderr = execute(t, "voters", "--agent", c.agents[0].httpAddr)
		return status == statusDone && strings.Contains(out, "CLUSTER ID") && strings.Count(out, "established") == 3
	})
	var v httpapi.Voters
	c.eventually("all voters are up to date", func(context.Context) bool {
		status, out, _ := execute(t, "voters", "-o", "json", "--agent", c.agents[1].httpAddr)
		v = httpapi.Voters{}
		if status != statusDone || json.Unmarshal([]byte(out), &v) != nil || len(v.Voters) != 3 {
			return false
		}
		leaders := 0
		for _, voter := range v.Voters {
			if voter.Leader {
				leaders++
			}
			if !voter.Listed || !voter.Votes || !voter.Reached || voter.Behind == nil || *voter.Behind != 0 ||
				voter.ClusterID != first.ClusterID || voter.Term != first.Term || voter.Self != (voter.Addr == c.agents[1].nodeAddr) {
				return false
			}
		}
		return leaders == 1 && v.Warning == ""
	})
	keeper, others := c.agents[2], c.agents[:2]
	status, out, stderr = execute(t, "voters", "found", "--agent", c.agents[0].httpAddr)
	if status != statusFailed || strings.Contains(out, "may remember") || !strings.Contains(stderr, "remembers a cluster, so that none would be founded") || strings.Contains(stderr, "--yes") {
		t.Errorf("of a cluster that stands: status %d: %s%s", status, out, stderr)
	}
	for _, agent := range c.agents {
		c.kill(agent)
	}
	for _, agent := range others {
		if err := os.RemoveAll(filepath.Join(c.files.dir, agent.name)); err != nil {
			t.Fatal(err)
		}
		c.start(agent)
	}
	for _, agent := range others {
		c.notReady(agent, "not yet for "+keeper.nodeAddr, "muster voters found")
	}
	status, out, stderr = execute(t, "voters", "found", "--agent", others[1].httpAddr)
	if status != statusFailed || !strings.Contains(out, "What "+keeper.nodeAddr+" may remember") || !strings.Contains(stderr, "nothing was done; write --yes") {
		t.Fatalf("status %d: %s%s", status, out, stderr)
	}
	response, err := http.Post("http://"+others[1].httpAddr+httpapi.PathFoundVoters, "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("what a page of another site can send is answered with %s", response.Status)
	}
	for _, agent := range others {
		c.notReady(agent, "not yet for "+keeper.nodeAddr)
	}
	status, out, stderr = execute(t, "voters", "found", "--yes", "--agent", others[1].httpAddr)
	if status != statusDone || !strings.Contains(out, "the cluster is founded") {
		t.Fatalf("status %d: %s%s", status, out, stderr)
	}
	second := c.waitMaster(0, 2, others...)
	if second.ClusterID == first.ClusterID {
		t.Fatalf("the cluster that nobody remembers has its id %s", second.ClusterID)
	}
	status, _, stderr = execute(t, "voters", "found", "--yes", "--agent", others[0].httpAddr)
	if status != statusFailed || !strings.Contains(stderr, "there is nothing to found") {
		t.Errorf("a second time: status %d: %s", status, stderr)
	}

	c.start(keeper)
	c.notReady(keeper, "takes no part", first.ClusterID, second.ClusterID)
	for _, agent := range others {
		c.eventually(agent.name+" warns", func(ctx context.Context) bool {
			s, err := c.status(ctx, agent)
			return err == nil && s.Ready && strings.Contains(s.View.Warning, keeper.nodeAddr) && strings.Contains(s.View.Warning, first.ClusterID)
		})
	}
	c.stopAll()
}
