package config

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery"
)

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
		all, err := c.Open(discovery.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range all.Registries() {
			names = append(names, r.Name())
		}
		if diff := cmp.Diff(v.want, names); diff != "" {
			t.Errorf("%s: registries: -want +got:\n%s", v.authority, diff)
		}
		if diff := cmp.Diff(v.granting, c.Mastership.Authorities()); diff != "" {
			t.Errorf("%s: authority: -want +got:\n%s", v.authority, diff)
		}
		if err := all.Close(); err != nil {
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
	// What no provider grants is refused with a hint that holds for each.
	_, err := load(t, strings.Replace(both, "500ms", "100ms", 1)+"static}\n", nil)
	if err == nil || !strings.Contains(err.Error(), `mastership.ttl: "100ms": too short to be renewed in time; write a longer one, as 1s, or 0s`) {
		t.Errorf("too short for any: %v", err)
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

// Each line of an agent's registries says which node it is of.
func TestNodeLogger(t *testing.T) {
	c := new(Config)
	c.Node.ID = "n1"
	var b strings.Builder
	c.NodeLogger(slog.New(slog.NewTextHandler(&b, nil))).Info("x")
	if !strings.Contains(b.String(), "node_id=n1") {
		t.Errorf("%q", b.String())
	}
	if c.NodeLogger(nil) != nil {
		t.Error("a logger was made of none")
	}
}
