package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar/host"
)

// Wherever a command prints what is waited for, the code stands behind it: in the status of a
// registrar and in the health checks of both.
func TestCommandsPrintTheReason(t *testing.T) {
	const waiting = `"ready":false,"waiting_for":"provider two at http://10.0.0.9:2379: hung","waiting_reason":"provider_unavailable"`
	addr := agentServer(t, map[string]string{
		httpapi.PathStatus: `{"cluster":"demo","node_id":"a",` + waiting + `}`,
		host.PathRegistrar: `{"hostname":"h",` + waiting + `,"providers":[],"services":[],"left_out":[],"problems":[]}`,
	})
	agent := writeFile(t, "agent.yaml", fmt.Sprintf("cluster: demo\nprovider: {static: {peers: [\"127.0.0.1:1\"]}}\nhttp: {addr: %q}\n", addr))
	registrar := writeFile(t, "registrar.yaml", fmt.Sprintf("provider: {etcd: {endpoints: [\"http://10.0.0.9:2379\"]}}\nregistrar: {containers: true}\nhttp: {addr: %q}\n", addr))
	const want = "not ready: provider two at http://10.0.0.9:2379: hung (reason provider_unavailable)\n"
	for _, test := range []struct {
		status int
		args   []string
	}{
		{statusDone, []string{"registrar", "status", "--agent", addr}},
		{statusFailed, []string{"registrar", "health", "--ready", "-c", registrar}},
		{statusFailed, []string{"agent", "health", "--ready", "-c", agent}},
	} {
		status, stdout, stderr := execute(t, test.args...)
		if status != test.status || !strings.Contains(stdout+stderr, want) {
			t.Errorf("%v: status %d: %s%s", test.args, status, stdout, stderr)
		}
	}
}
