package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChanged(t *testing.T) {
	const base = "cluster: orders\nnode: {id: n1, tags: [a], data_dir: /tmp/x}\nprovider: {stub: {peers: [\"10.0.0.5:7946\"], password: hush}}\n"
	c := mustLoad(t, base, nil)
	for _, v := range []struct {
		name, text string
		env        []string
		want       []string
	}{
		{name: "nothing", text: base},
		{name: "what says the same", text: base + "services: []\nhttp: {addr: \"127.0.0.1:7980\"}\n"},
		{name: "a level", text: base + "log: {level: debug}\n", want: []string{"log.level"}},
		{name: "the environment", text: base, env: []string{"MUSTER_LOG_LEVEL=debug", "MUSTER_HTTP_TOKEN=0123456789abcdef"}, want: []string{"http.token", "log.level"}},
		{name: "a list and a secret", text: "cluster: orders\nnode: {id: n1, tags: [b], data_dir: /tmp/x}\nprovider: {stub: {peers: [\"10.0.0.5:7946\"], password: hush2}}\n",
			want: []string{"node.tags", "provider.stub.password"}},
		{name: "a service", text: base + "services: [{name: db, address: \":1\"}]\n", want: []string{"services"}},
		{name: "another provider", text: base[:len(base)-2] + ", other: {}}\nmastership: {authority: stub}\n", want: []string{"mastership.authority", "provider.other", "provider.other.addresses"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			next := mustLoad(t, v.text, v.env)
			if diff := cmp.Diff(v.want, c.Changed(next)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if back := next.Changed(c); !cmp.Equal(v.want, back) {
				t.Errorf("the other way round: %v", back)
			}
		})
	}
}
