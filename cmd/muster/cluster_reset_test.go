package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/testserver"
)

// A store that holds a term after which none can be granted is put right by one command,
// which does nothing unless it is told to.
func TestClusterReset(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	const keys = "/muster/v1/clusters/orders/"
	put := func(key, value string) {
		if _, err := etcd.Client().Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	get := func(key string) string {
		r, err := etcd.Client().Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Kvs) == 0 {
			return ""
		}
		return string(r.Kvs[0].Value)
	}
	put(keys+"term", "18446744073709551615")
	put(keys+"id", "old")
	put("/muster/v1/clusters/others/term", "3")

	file := filepath.Join(t.TempDir(), "muster.yaml")
	config := "cluster: orders\nprovider: {etcd: {endpoints: [" + etcd.Endpoint() + "]}}\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	reset := func(args ...string) (status int, out string) {
		var buf bytes.Buffer
		status = run(t.Context(), append([]string{"cluster", "reset", "-c", file}, args...), &buf, &buf)
		return status, buf.String()
	}

	status, out := reset()
	if status != statusDone || !strings.Contains(out, "/term holds") || !strings.Contains(out, "with --yes") || get(keys+"id") != "old" {
		t.Errorf("without --yes: status %d, id %q:\n%s", status, get(keys+"id"), out)
	}
	put(keys+"master", `{"node_id":"n1","instance_id":"i1","addr":"10.0.0.1:1","term":4}`)
	status, out = reset("--yes")
	if status != statusFailed || !strings.Contains(out, "n1 at 10.0.0.1:1") || !strings.Contains(out, "--force") || get(keys+"id") != "old" {
		t.Errorf("while a master is recorded: status %d, id %q:\n%s", status, get(keys+"id"), out)
	}
	status, out = reset("--yes", "--force", "--term", "7")
	id := get(keys + "id")
	if status != statusDone || id == "old" || len(id) != 32 || get(keys+"term") != "7" || get(keys+"master") != "" || !strings.Contains(out, id) {
		t.Errorf("with --yes and --force: status %d, id %q, term %q, master %q:\n%s", status, id, get(keys+"term"), get(keys+"master"), out)
	}
	if other := get("/muster/v1/clusters/others/term"); other != "3" {
		t.Errorf("another cluster has term %q, want 3", other)
	}
	if status, out = reset("--provider", "consul"); status != statusUsage || !strings.Contains(out, "--provider") {
		t.Errorf("of a provider that is not configured: status %d:\n%s", status, out)
	}
	config = "cluster: orders\nprovider: {static: {peers: [\"127.0.0.1:17901\"]}}\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out = reset("--yes"); status != statusUsage || !strings.Contains(out, "keeps no record") {
		t.Errorf("of a static list: status %d:\n%s", status, out)
	}
}
