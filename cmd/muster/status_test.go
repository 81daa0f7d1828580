//go:build unix

package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/node/httpapi"
)

// The chain is in the JSON of the API and in what muster status prints, and so is who
// has reached the agent.
func TestStatusShowsTheAddress(t *testing.T) {
	t.Parallel()
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
	status, out, stderr := execute(t, "status", "--agent", agent.httpAddr)
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

// What is wrong with the engine is reported by the name under which it was given.
func TestRegistrarNamesTheKeyOfItsEngine(t *testing.T) {
	provider := "provider: {etcd: {endpoints: [\"http://127.0.0.1:1\"]}}\n"
	status, _, stderr := execute(t, "registrar", "-c", writeFile(t, "registrar.yaml", provider), "--docker-host", "foo", "--http-addr", "127.0.0.1:0")
	if want := `muster: --docker-host: docker.host: "foo": is no address of an engine; `; status != statusUsage || !strings.HasPrefix(stderr, want) {
		t.Errorf("status %d, %q\nwant %s", status, stderr, want)
	}
}

func TestPrintStatusOfTheUnreachable(t *testing.T) {
	const reason = "advertised 172.17.0.2:7946, which node b cannot reach: connection refused; publish the port or set node.advertise"
	addr := agentServer(t, map[string]string{httpapi.PathStatus: `{"cluster":"orders","node_id":"a","instance_id":"1","ready":false,"waiting_for":"` + reason + `","waiting_reason":"unreachable",
		"advertise":{"addr":"172.17.0.2:7946","source":"interface eth0","steps":[{"name":"docker","outcome":"failed","reason":"permission denied"},
		{"name":"interface","outcome":"found","addr":"172.17.0.2:7946","reason":"interface eth0"}],
		"reach":{"state":"unreachable","node":"b","reason":"` + reason + `"}},"providers":[{"name":"etcd","addr":"http://10.0.0.9:2379","authority":true,"registered":true,"instances":3}]}`})
	const want = `node a of cluster orders, instance 1
not ready: ` + reason + ` (reason unreachable)
advertised 172.17.0.2:7946 (interface eth0), where it was not reached

STEP       OUTCOME  ADDRESS          REASON
docker     failed   -                permission denied
interface  found    172.17.0.2:7946  interface eth0

PROVIDER  ADDRESS               AUTHORITY  REGISTERED  INSTANCES  ERROR
etcd      http://10.0.0.9:2379  *          *           3          -
`
	status, out, stderr := execute(t, "status", "--agent", addr)
	if diff := cmp.Diff(want, out); status != statusDone || diff != "" {
		t.Errorf("status %d %s %s", status, stderr, diff)
	}
}
