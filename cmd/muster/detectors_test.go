//go:build unix

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/config"
	"github.com/musterhq/muster/node/httpapi"
)

// What is wrong is told by the name under which it was given.
func TestEngineErrorsNameTheirKey(t *testing.T) {
	t.Setenv("DOCKER_HOST", "pigeon")
	for _, tt := range []struct {
		docker config.Docker
		want   string
	}{
		{config.Docker{}, `DOCKER_HOST: "pigeon": is no address of an engine; write unix:///PATH`},
		{config.Docker{Host: "foo"}, `docker.host: "foo": is no address of an engine; write unix:///PATH`},
		{config.Docker{Host: "tcp://a", TLS: driver.TLS{CAFile: "none"}}, `docker.tls.ca_file: "none": cannot be read`},
	} {
		if _, err := openEngine(&config.Config{Docker: tt.docker}); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v\nwant %s", err, tt.want)
		}
	}
	provider := "provider: {etcd: {endpoints: [\"http://127.0.0.1:1\"]}}\n"
	status, _, stderr := execute(t, "registrar", "-c", writeFile(t, "registrar.yaml", provider), "--docker-host", "foo", "--http-addr", "127.0.0.1:0")
	if want := `muster: --docker-host: docker.host: "foo": is no address of an engine; `; status != statusUsage || !strings.HasPrefix(stderr, want) {
		t.Errorf("status %d, %q\nwant %s", status, stderr, want)
	}
}

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
