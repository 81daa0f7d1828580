package testserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/process"
)

// The clients of clouds that Prometheus finds targets with are left out: half of what there is
// to compile. It is asked a few questions: to optimize it would take longer than all of them.
const quickly = "-N -l -dwarf=false"

var (
	prometheusTool = tool{name: "prometheus", pkg: "github.com/prometheus/prometheus/cmd/prometheus", tags: "remove_all_sd", compile: quickly, env: "MUSTER_TEST_PROMETHEUS"}
	promtoolTool   = tool{name: "promtool", module: "prometheus", pkg: "github.com/prometheus/prometheus/cmd/promtool", tags: "remove_all_sd", compile: quickly, env: "MUSTER_TEST_PROMTOOL"}
)

// Promtool returns a command that runs promtool with args.
func Promtool(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	program, err := promtoolTool.path()
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), program, args...)
}

// Prometheus is one Prometheus server.
type Prometheus struct {
	t   testing.TB
	url string
}

// StartPrometheus starts a server with a configuration, and waits until it answers. It is
// killed, and its data removed, when the test ends; its log is shown if the test failed.
func StartPrometheus(t testing.TB, config string) *Prometheus {
	t.Helper()
	program, err := prometheusTool.path()
	if err != nil {
		t.Fatal(err)
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	file, log := filepath.Join(home, "prometheus.yaml"), filepath.Join(home, "log")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	server, err := process.Start(Place{}.command(log, program, []string{
		"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(home, "data"), "--web.listen-address=" + addr, "--log.level=warn",
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Kill()
		if t.Failed() {
			t.Logf("log of prometheus at %s:\n%s", addr, process.Tail(log, 30))
		}
	})
	p := &Prometheus{t, "http://" + addr}
	if err := ready(server, log, 2*time.Second, func(ctx context.Context) error { return p.get(ctx, "/-/ready", nil, nil) }); err != nil {
		t.Fatalf("start prometheus: %v", err)
	}
	return p
}

// Get asks the HTTP API for a path below /api/v1/ with parameters, and decodes the data of the
// answer into value.
func (p *Prometheus) Get(path string, parameters url.Values, value any) error {
	answer := struct{ Data any }{value}
	ctx, cancel := context.WithTimeout(p.t.Context(), startTimeout)
	defer cancel()
	return p.get(ctx, "/api/v1/"+path, parameters, &answer)
}

func (p *Prometheus) get(ctx context.Context, path string, parameters url.Values, value any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path+"?"+parameters.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var failure struct{ Error string }
		_ = json.NewDecoder(response.Body).Decode(&failure)
		return fmt.Errorf("%s: %s: %s", path, response.Status, failure.Error)
	}
	if value == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(value)
}
