package main

import (
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/testdocker"
)

// What an agent advertises in a container of a real engine, and when it refuses to.
func TestAddressInAContainer(t *testing.T) {
	t.Parallel()
	testdocker.Require(t)
	const closed = "an address within a container with a network of its own"
	for _, tt := range []struct {
		name   string
		flags  []string
		env    []string
		socket bool
		// Either the agent goes on, and says where it is, or it ends and says why.
		says, source string
		refuses      []string
	}{
		{name: "nothing is published and nobody can be asked",
			refuses: []string{closed, "docker: there is no engine to ask", "publish the port", "MUSTER_ADVERTISE_ADDR", "detect.require_external: false"}},
		{name: "nothing is published", socket: true,
			refuses: []string{closed, "docker: port 7946 of this container is not published"}},
		{name: "published, but nobody can be asked", flags: []string{"-p", "0:7946"}, refuses: []string{closed}},
		{name: "published", flags: []string{"-p", "0:7946"}, socket: true, says: "PUBLISHED", source: "the container engine publishes port 7946"},
		{name: "all are in that network", env: []string{"MUSTER_DETECT_REQUIRE_EXTERNAL=false"}, says: ":7946", source: "interface eth0"},
		{name: "told", env: []string{"MUSTER_ADVERTISE_ADDR=10.0.0.5:32768"}, says: "10.0.0.5:32768", source: "MUSTER_ADVERTISE_ADDR"},
		{name: "network of the host", flags: []string{"--network", "host"}, env: []string{"MUSTER_NODE_BIND=0.0.0.0:0"}, socket: true,
			says: "addr=", source: "interface "},
		{name: "engine asked alone", env: []string{"MUSTER_NODE_ADVERTISE=docker"}, refuses: []string{"node.advertise", "there is no engine to ask"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := testdocker.Require(t)
			env := append([]string{"MUSTER_CLUSTER=orders", "MUSTER_NODE_ID=a", "MUSTER_NODE_DATA_DIR=/tmp/muster", "MUSTER_HTTP_ADDR=127.0.0.1:0",
				"MUSTER_PROVIDER_STATIC_PEERS=10.0.0.5:7946"}, tt.env...)
			c := e.Run(testdocker.Options{Image: e.Build("."), Flags: tt.flags, Env: env, Socket: tt.socket}, "agent")
			if tt.refuses != nil {
				status := c.Wait()
				log := c.Log()
				if status != statusFailed {
					t.Fatalf("status %d: %s", status, log)
				}
				for _, part := range tt.refuses {
					if !strings.Contains(log, part) {
						t.Errorf("%q does not say %q", log, part)
					}
				}
				return
			}
			c.WaitLog("node started")
			says := tt.says
			if says == "PUBLISHED" {
				port := c.Port("7946/tcp")
				says = port[strings.LastIndex(port, ":"):]
			}
			for line := range strings.Lines(c.Log()) {
				if strings.Contains(line, "node started") && strings.Contains(line, says) && strings.Contains(line, tt.source) {
					return
				}
			}
			t.Errorf("not told are %q and %q: %s", says, tt.source, c.Log())
		})
	}
}
