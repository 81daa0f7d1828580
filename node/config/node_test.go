package config

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
)

func TestNodeConfig(t *testing.T) {
	c := mustLoad(t, least+`
node: {id: n1, zone: eu-1, tags: [web], meta: {a: b}, app_addrs: {http: "10.0.0.5:80"}, bind: ":1", advertise: "10.0.0.5:2", voter: "10.0.0.5:3", data_dir: /d}
bootstrap: {mode: join-only, expect: 3}
mastership: {eligible: false, ttl: 5s}
`, nil)
	c.TLS = driver.TLS{CAFile: "ca"} // Load would read it
	got, closeRegistry, err := c.NodeConfig(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got.Registry == nil || got.Registry.Name() != "stub" || got.Logger == nil {
		t.Errorf("registry %v, logger %v", got.Registry, got.Logger)
	}
	want := node.Config{
		Cluster: "orders", NodeID: "n1", Zone: "eu-1", Tags: []string{"web"}, Meta: map[string]string{"a": "b"},
		AppAddrs: map[string]string{"http": "10.0.0.5:80"}, Bind: ":1", Advertise: "10.0.0.5:2", Voter: "10.0.0.5:3", DataDir: "/d",
		Bootstrap:  node.Bootstrap{Mode: node.JoinOnly, Expect: 3},
		Mastership: node.Mastership{Ineligible: true, TTL: 5 * time.Second},
		TLS:        driver.TLS{CAFile: "ca"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(node.Config{}, "Registry", "Logger"), cmpopts.IgnoreUnexported(node.Config{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := closeRegistry(); err != nil {
		t.Error(err)
	}
}

func TestLogger(t *testing.T) {
	for _, v := range []struct{ level, format, want string }{
		{"warn", "json", `"level":"WARN","msg":"told"`},
		{"debug", "text", "level=DEBUG msg=untold"},
	} {
		var out strings.Builder
		c := &Config{Log: Log{Level: v.level, Format: v.format}}
		log := c.Logger(&out)
		log.Debug("untold")
		log.Warn("told")
		if !strings.Contains(out.String(), v.want) || v.level == "warn" && strings.Contains(out.String(), "untold") {
			t.Errorf("%s %s: %s", v.level, v.format, out.String())
		}
	}
}

func TestProviderLabel(t *testing.T) {
	c := mustLoad(t, least, nil)
	if got, want := c.ProviderLabel(), "provider stub (peers 10.0.0.5:7946)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	c.Provider["stub"].(*stubConfig).Peers = []string{"http://me:hush@h:1", "h:2"}
	if got, want := c.ProviderLabel(), "provider stub (peers http://me:[redacted]@h:1, h:2)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := new(Config).ProviderLabel(); got != "no provider" {
		t.Errorf("without a provider: %q", got)
	}
}
