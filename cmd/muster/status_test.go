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
