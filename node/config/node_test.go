package config

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/musterhq/muster/discovery"
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
	if len(got.Registries) != 1 || got.Registries[0].Name() != "stub" || got.Logger == nil {
		t.Errorf("registries %v, logger %v", got.Registries, got.Logger)
	}
	want := node.Config{
		Cluster: "orders", NodeID: "n1", Zone: "eu-1", Tags: []string{"web"}, Meta: map[string]string{"a": "b"},
		AppAddrs: map[string]string{"http": "10.0.0.5:80"}, Bind: ":1", Advertise: "10.0.0.5:2", Voter: "10.0.0.5:3", DataDir: "/d",
		Bootstrap:  node.Bootstrap{Mode: node.JoinOnly, Expect: 3},
		Mastership: node.Mastership{Ineligible: true, TTL: 5 * time.Second},
		TLS:        driver.TLS{CAFile: "ca"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(node.Config{}, "Registries", "Logger"), cmpopts.IgnoreUnexported(node.Config{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := closeRegistry(); err != nil {
		t.Error(err)
	}
}

// The authority's provider comes first, then the others by name, however they are
// written down.
func TestSeveralProviders(t *testing.T) {
	for _, v := range []struct {
		authority string
		want      []string
		granting  []string
	}{
		{"stub", []string{"stub", "other", "static"}, []string{"stub"}},
		{"static", []string{"static", "other", "stub"}, []string{"static"}},
		{"stub, static", []string{"static", "stub", "other"}, []string{"stub", "static"}},
		{"static,stub,", []string{"static", "stub", "other"}, []string{"static", "stub"}},
	} {
		c := mustLoad(t, `
cluster: orders
provider: {stub: {}, static: {peers: ["10.0.0.5:7946"]}, other: {}}
mastership: {authority: "`+v.authority+`"}
`, nil)
		if diff := cmp.Diff(v.want, c.Providers()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", v.authority, diff)
		}
		got, closeAll, err := c.NodeConfig(nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range got.Registries {
			names = append(names, r.Name())
		}
		if diff := cmp.Diff(v.want, names); diff != "" {
			t.Errorf("%s: registries: -want +got:\n%s", v.authority, diff)
		}
		if diff := cmp.Diff(v.granting, got.Mastership.Authority); diff != "" {
			t.Errorf("%s: authority: -want +got:\n%s", v.authority, diff)
		}
		if err := closeAll(); err != nil {
			t.Error(err)
		}
		only, err := c.Open(discovery.Options{}, "other")
		if err != nil {
			t.Fatal(err)
		}
		if r := only.Registries(); len(r) != 1 || r[0].Name() != "other" {
			t.Errorf("one of them was asked for, and %d are open", len(r))
		}
		if err := only.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Only the TTL of what grants mastership is that of mastership.
func TestTTLIsTheAuthoritys(t *testing.T) {
	const both = "cluster: orders\nprovider: {stub: {}, static: {peers: [\"10.0.0.5:7946\"]}}\nmastership: {ttl: 500ms, authority: "
	mustLoad(t, both+"static}\n", nil) // which stub could not grant
	for _, authority := range []string{"stub", `"static,stub"`} {
		_, err := load(t, both+authority+"}\n", nil)
		if err == nil || !strings.Contains(err.Error(), `mastership.ttl: "500ms": provider stub wants 1s to 1h0m0s`) {
			t.Errorf("authority %s: %v", authority, err)
		}
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
	if got, want := c.ProviderLabel("stub"), "provider stub (peers 10.0.0.5:7946)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	c.Provider["stub"].(*stubConfig).Peers = []string{"http://me:hush@h:1", "h:2"}
	if got, want := c.ProviderLabel("stub"), "provider stub (peers http://me:[redacted]@h:1, h:2)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := new(Config).ProviderLabel("stub"), "provider stub"; got != want {
		t.Errorf("of one that is not configured: %q, want %q", got, want)
	}
}
