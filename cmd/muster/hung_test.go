//go:build unix

package main

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/mastership"
)

// hangs is a real server that can be stopped as by SIGSTOP.
type hangs interface {
	Endpoint() string
	Pause()
	Resume()
}

// While the provider hangs, whatever an operator reads names it, its address and the error,
// with a code: of agents that run, which then know no master, and of one that is started
// meanwhile, which is not ready.
func TestHungProviderIsNamed(t *testing.T) {
	t.Parallel()
	t.Run("etcd", func(t *testing.T) {
		t.Parallel()
		etcd := testserver.StartEtcd(t)
		testHungProvider(t, "etcd", etcd, etcdProvider(etcd))
	})
	t.Run("consul", func(t *testing.T) {
		t.Parallel()
		consul := testserver.StartConsul(t)
		testHungProvider(t, "consul", consul, consulProvider(consul))
	})
}

func testHungProvider(t *testing.T, name string, server hangs, provider providerConfig) {
	c, first := formCluster(t, 3, provider)
	server.Pause()
	label := "provider " + name + " at " + server.Endpoint() + ": "
	for _, agent := range c.agents {
		c.namesProvider(agent, mastership.WaitAuthority, http.StatusOK, label+"waiting for the authority: ")
		c.eventually(agent.name+" logs it", func(context.Context) bool {
			return slices.ContainsFunc(logLines(t, agent), func(r map[string]any) bool {
				err, _ := r["error"].(string)
				return r["level"] == "WARN" && r[alarm.AttrAlarm] == "authority_fails" && r["provider"] == name && r["addr"] == server.Endpoint() && err != ""
			})
		})
	}
	again := c.agents[0]
	c.kill(again)
	c.start(again)
	c.namesProvider(again, node.WaitProvider, http.StatusServiceUnavailable, "waiting for "+label)
	server.Resume()
	c.waitMaster(first.Term, 3, c.agents...)
	c.stopAndCheck(t, 2)
}

// namesProvider waits until all that an operator asks of an agent has the text, followed by
// more, and the code.
func (c *testCluster) namesProvider(agent *agentProcess, reason node.WaitReason, ready int, text string) {
	c.t.Helper()
	var last string
	named := func(what, answer string) bool {
		_, after, found := strings.Cut(answer, text)
		if cause, _, coded := strings.Cut(after, string(reason)); found && coded && strings.Contains(cause, "unavailable") {
			return true
		}
		last = what + " says " + answer
		return false
	}
	defer func() {
		if c.t.Failed() {
			c.t.Log(last)
		}
	}()
	c.eventually(agent.name+" names the provider", func(ctx context.Context) bool {
		_, status, _ := execute(c.t, "status", "--agent", agent.httpAddr)
		failed, _, master := execute(c.t, "master", "--agent", agent.httpAddr)
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agent.httpAddr+httpapi.PathReady, nil)
		if err != nil {
			return false
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return err == nil && response.StatusCode == ready && failed == statusFailed &&
			named("muster status", status) && named("muster master", master) && named("/readyz", string(body))
	})
}
