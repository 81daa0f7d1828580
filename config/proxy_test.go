package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestProxy(t *testing.T) {
	c := mustLoad(t, least+`
node: {app_addrs: {pg: "10.0.0.5:5432"}}
proxy:
  - {listen: "127.0.0.1:5432", to: master, app: pg, max_connections: 10, dial_timeout: 5s}
  - {listen: "[::1]:5432", to: master, app: pg}
  - {listen: "127.0.0.1:0", to: master, app: pg}
  - {listen: "127.0.0.1:0", to: master, app: http}
`, nil)
	want := []Proxy{
		{Listen: "127.0.0.1:5432", To: "master", App: "pg", MaxConnections: 10, DialTimeout: 5 * time.Second},
		{Listen: "[::1]:5432", To: "master", App: "pg"},
		{Listen: "127.0.0.1:0", To: "master", App: "pg"},
		{Listen: "127.0.0.1:0", To: "master", App: "http"},
	}
	if diff := cmp.Diff(want, c.Proxy); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSameListener(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:1", "127.0.0.1:1", true},
		{"127.0.0.1:1", "127.0.0.1:2", false},
		{"127.0.0.1:1", "127.0.0.2:1", false},
		{"127.0.0.1:1", ":1", true},
		{"[::]:1", "10.0.0.5:1", true},
		{"0.0.0.0:1", "10.0.0.5:1", true},
		{"localhost:1", "127.0.0.1:1", true},
		{"[::1]:1", "[0:0:0:0:0:0:0:1]:1", true},
		{"[::1]:1", "127.0.0.1:1", false},
		{"Db.example:1", "db.example:1", true},
		{":0", ":0", false},
		{"", "", false},
	} {
		if got := sameListener(tt.a, tt.b); got != tt.want {
			t.Errorf("%q and %q: %v", tt.a, tt.b, got)
		}
	}
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "localhost:1": true, "192.0.2.7:1": false, "db.example:1": false, "127.0.0.1:2": false} {
		if got := leadsTo(addr, ":1"); got != want {
			t.Errorf("%q leads to :1: %v", addr, got)
		}
	}
}
