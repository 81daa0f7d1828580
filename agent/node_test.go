package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/node"
	_ "github.com/musterhq/muster/providers/static"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/tlsfiles"
)

const least = "cluster: orders\nprovider: {static: {peers: [\"10.0.0.5:7946\"]}}\n"

// load is the configuration of a text, whatever the environment says.
func load(t *testing.T, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "muster.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Options{Path: path, Env: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNodeConfig(t *testing.T) {
	c := load(t, least+`
node: {id: n1, zone: eu-1, tags: [web], meta: {a: b}, app_addrs: {http: "10.0.0.5:80"}, bind: ":1", advertise: "10.0.0.5:2", voter: "10.0.0.5:3", data_dir: /d}
bootstrap: {mode: join-only, expect: 3}
mastership: {eligible: false, ttl: 5s}
`)
	c.TLS = config.NodeTLS{Config: tlsfiles.Config{CAFile: "ca"}, VerifyNodeID: true} // Load would read it
	got, closeRegistry, err := NodeConfig(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Registries) != 1 || got.Registries[0].Name() != "static" || got.Logger == nil {
		t.Errorf("registries %v, logger %v", got.Registries, got.Logger)
	}
	want := node.Config{
		Cluster: "orders", NodeID: "n1", Zone: "eu-1", Tags: []string{"web"}, Meta: map[string]string{"a": "b"},
		AppAddrs: map[string]string{"http": "10.0.0.5:80"}, Bind: ":1", Advertise: "10.0.0.5:2", Voter: "10.0.0.5:3", DataDir: "/d", RequireExternal: new(true),
		Bootstrap:  node.Bootstrap{Mode: node.JoinOnly, Expect: 3},
		Mastership: node.Mastership{Eligible: new(false), TTL: 5 * time.Second, DrainTimeout: time.Second},
		TLS:        tlsfiles.Config{CAFile: "ca"}, VerifyNodeID: true,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(node.Config{}, "Registries", "Logger"), cmpopts.IgnoreUnexported(node.Config{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := closeRegistry(); err != nil {
		t.Error(err)
	}
}

func detectorNames(detectors []advertise.Detector) (names []string) {
	for _, d := range detectors {
		names = append(names, d.Name())
	}
	return names
}

func TestNodeConfigDetects(t *testing.T) {
	c := load(t, least+"detect: {host_ip: 10.0.0.5, require_external: false, registry: {tag: c1, service: app, must_have_tags: [dev]}}\n")
	got, closeAll, err := NodeConfig(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"registry"}, detectorNames(got.Detectors)); diff != "" || got.HostIP != "10.0.0.5" || *got.RequireExternal {
		t.Errorf("detectors %s host_ip %q, external %v", diff, got.HostIP, *got.RequireExternal)
	}
	if err := closeAll(); err != nil {
		t.Error(err)
	}
	c = load(t, least)
	if got, closeAll, err = NodeConfig(c, nil); err != nil || len(got.Detectors) > 0 || !*got.RequireExternal {
		t.Errorf("by default: %v, %v, external %v", err, got.Detectors, *got.RequireExternal)
	}
	if err := closeAll(); err != nil {
		t.Error(err)
	}
}
