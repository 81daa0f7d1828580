package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestErrorLines holds what users read about each file in testdata/errors.
func TestErrorLines(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("testdata/errors") // so that files are named as a user names them
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			_, err := Load(Options{Path: name + ".yaml", Env: []string{}})
			if err == nil {
				t.Fatal("no error")
			}
			golden(t, filepath.Join(dir, "testdata", "errors", name+".golden"), err.Error()+"\n")
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if strings.Contains(got, "hush") {
		t.Errorf("a secret is shown:\n%s", got)
	}
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestErrorsOfEnvironmentAndFlags(t *testing.T) {
	_, err := load(t, least, []string{
		"MUSTER_BOOTSTRAP_EXPECT=three",
		"MUSTER_LOG_LEVEL=lound",
		"MUSTER_NODE_META=nothing",
		"MUSTER_CLUSTR=orders",
		"MUSTER_PROVIDER_CONSUL_TOKEN=hush",
		"MUSTER_PROVIDER_STUB_PEERS=10.0.0.5",
	}, "--mastership-ttl=5", "--http-addr=localhost", "--mastership-eligible=maybe")
	if err == nil {
		t.Fatal("no error")
	}
	want := `MUSTER_NODE_META: node.meta: "nothing": not a list of names and values; write name=value,name=value
MUSTER_BOOTSTRAP_EXPECT: bootstrap.expect: "three": not a whole number; write digits, as 3
MUSTER_CLUSTR: no such variable; did you mean MUSTER_CLUSTER?
MUSTER_PROVIDER_CONSUL_TOKEN: provider.consul_token: "[redacted]": unknown key; providers known here: other, static, stub
MUSTER_LOG_LEVEL: log.level: "lound": unknown; write debug, info, warn or error
MUSTER_PROVIDER_STUB_PEERS: provider.stub.peers[0]: "10.0.0.5": has no port; write HOST:PORT
--mastership-eligible: mastership.eligible: "maybe": neither true nor false; write true or false
--mastership-ttl: mastership.ttl: "5": not a duration; write a number with a unit, as 500ms, 10s or 1m30s
--http-addr: http.addr: "localhost": an address without a port; write HOST:PORT, as 127.0.0.1:7980, with IPv6 in brackets
`
	if diff := cmp.Diff(want, err.Error()+"\n"); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestErrorsOfTheFileAsSuch(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, make([]byte, maxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "none.yaml: cannot be read: ",
		dir:                             ": cannot be read: ",
		big:                             "big.yaml: cannot be read: longer than 1048576 bytes; ",
	} {
		_, err := Load(Options{Path: path, Env: []string{}})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", path, err, want)
		}
	}
}

func TestWithoutAnySource(t *testing.T) {
	_, err := Load(Options{Env: []string{}})
	if err == nil {
		t.Fatal("no error")
	}
	want := `cluster: "": missing; name the cluster, as cluster: orders, in a file that is given by -c FILE, or by MUSTER_CLUSTER
provider: "": missing: without one nobody is found; configure other or static or stub, as provider: {static: {peers: ["10.0.0.5:7946"]}}
`
	if diff := cmp.Diff(want, err.Error()+"\n"); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
