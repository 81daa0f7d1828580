//go:build unix

package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/node/config"
	"github.com/musterhq/muster/node/httpapi"
)

func TestDetectors(t *testing.T) {
	for _, tt := range []struct {
		name, env string
		docker    config.Docker
		want      string // in the error
	}{
		{name: "by default"},
		{name: "configured", docker: config.Docker{Host: "tcp://127.0.0.1:2375"}},
		{name: "configured wrongly", docker: config.Docker{Host: "nonsense"}, want: `docker.host: "nonsense": `},
		{name: "an environment that is meant for others", env: "nonsense"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("DOCKER_HOST", tt.env)
			found, closeAll, err := detectors(&config.Config{Docker: tt.docker})
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("%v, want %s", err, tt.want)
				}
				return
			}
			if err != nil || len(found) != 1 || found[0].Name() != "docker" {
				t.Fatalf("%v, %v", found, err)
			}
			if err := closeAll(); err != nil {
				t.Error(err)
			}
		})
	}
}

// The chain is in the JSON of the API and in what muster status prints, and so is who
// has reached the agent.
func TestStatusShowsTheAddress(t *testing.T) {
	c := newTestCluster(t, 2, staticProvider)
	c.start(c.agents...)
	agent := c.agents[0]
	c.waitMaster(0, 2, c.agents...)
	var s httpapi.Status
	c.eventually("the agent was reached", func(ctx context.Context) (ok bool) {
		var err error
		s, err = c.status(ctx, agent)
		return err == nil && s.Ready && s.Advertise.Reach.State == "reachable"
	})
	want := httpapi.Advertise{
		Addr: agent.nodeAddr, Source: "bound to loopback 127.0.0.1",
		Steps: []httpapi.AdvertiseStep{
			{Name: "config", Outcome: "not_applicable", Reason: "node.advertise is auto"},
			{Name: "env", Outcome: "not_applicable", Reason: "MUSTER_ADVERTISE_ADDR is not set"},
			{Name: "bind", Outcome: "found", Addr: agent.nodeAddr, Reason: "bound to loopback 127.0.0.1"},
		},
		Reach: httpapi.Reach{State: "reachable", Node: "node-2"},
	}
	if diff := cmp.Diff(want, s.Advertise); diff != "" {
		t.Error(diff)
	}
	status, out, stderr := execute(t, "status", "--http", agent.httpAddr)
	if status != statusDone {
		t.Fatalf("status %d: %s", status, stderr)
	}
	lines := strings.Split(out, "\n")
	address := "advertised " + agent.nodeAddr + " (bound to loopback 127.0.0.1), where node node-2 has reached it"
	if lines[1] != "ready" || lines[2] != address || !strings.Contains(out, "not applicable") || !strings.Contains(out, "PROVIDER") {
		t.Errorf("%s", out)
	}
	response, err := http.Get("http://" + agent.httpAddr + httpapi.PathMetrics)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(body), "muster_advertised_reachable 1\n") {
		t.Errorf("%v, no metric in %s", err, body)
	}
	c.stopAll()
}

func TestPrintStatusOfTheUnreachable(t *testing.T) {
	const reason = "advertised 172.17.0.2:7946, which node b cannot reach: connection refused; publish the port or set node.advertise"
	addr := agentServer(t, map[string]string{httpapi.PathStatus: `{"cluster":"orders","node_id":"a","instance_id":"1","ready":false,"waiting_for":"` + reason + `",
		"advertise":{"addr":"172.17.0.2:7946","source":"interface eth0","steps":[{"name":"docker","outcome":"failed","reason":"permission denied"},
		{"name":"interface","outcome":"found","addr":"172.17.0.2:7946","reason":"interface eth0"}],
		"reach":{"state":"unreachable","node":"b","reason":"` + reason + `"}},"providers":[{"name":"etcd","authority":true,"registered":true,"instances":3}]}`})
	const want = `node a of cluster orders, instance 1
not ready: ` + reason + `
advertised 172.17.0.2:7946 (interface eth0), where it was not reached

STEP       OUTCOME  ADDRESS          REASON
docker     failed   -                permission denied
interface  found    172.17.0.2:7946  interface eth0

PROVIDER  AUTHORITY  REGISTERED  INSTANCES  ERROR
etcd      *          *           3          -
`
	status, out, stderr := execute(t, "status", "--http", addr)
	if diff := cmp.Diff(want, out); status != statusDone || diff != "" {
		t.Errorf("status %d %s %s", status, stderr, diff)
	}
}
