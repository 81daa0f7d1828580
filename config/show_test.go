package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const shownFile = `cluster: orders
node:
  id: n1
  zone: "on"
  meta: {Team: "#1", version: "1.10"}
provider:
  stub:
    peers: ["http://me:hush@10.0.0.5:7946"]
    password: hush
    labels: {}
bootstrap: {expect: 3}
services:
  - name: db
    address: ":5432"
    check: {tcp: "true", interval: 5s}
`

func TestWriteYAML(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("XDG_STATE_HOME", "/state")
	if err := os.WriteFile("muster.yaml", []byte(strings.ReplaceAll(shownFile, "http://me:hush@", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Options{Path: "muster.yaml", Env: []string{"MUSTER_LOG_LEVEL=warn"}})
	if err != nil {
		t.Fatal(err)
	}
	// The stub takes no URLs; a provider that does may be given a password in one.
	c.Provider["stub"].(*stubConfig).Peers = []string{"http://me:hush@10.0.0.5:7946"}
	var out bytes.Buffer
	if err := c.WriteYAML(&out); err != nil {
		t.Fatal(err)
	}
	want := `cluster: orders # muster.yaml:1
node:
  id: n1 # muster.yaml:3
  zone: on # muster.yaml:4
  tags: [] # default
  meta: {Team: '#1', version: "1.10"} # muster.yaml:5
  app_addrs: {} # default
  bind: 0.0.0.0:7946 # default
  advertise: auto # default
  voter: "" # default
  data_dir: ` + filepath.Join("/state", "muster", "orders", "n1") + ` # default
detect:
  host_ip: "" # default
  require_external: true # default
  registry:
    provider: "" # default
    service: "" # default
    tag: "" # default
    must_have_tags: [] # default
docker:
  host: "" # default
  tls:
    ca_file: "" # default
    cert_file: "" # default
    key_file: "" # default
    server_name: "" # default
provider:
  stub:
    peers: ['http://me:[redacted]@10.0.0.5:7946'] # muster.yaml:8
    username: "" # default
    password: '[redacted]' # muster.yaml:9
    password_file: "" # default
    timeout: 2s # default
    retries: 0 # default
    weight: 0 # default
    strict: false # default
    labels: {} # muster.yaml:10
    tls:
      ca_file: "" # default
      cert_file: "" # default
      key_file: "" # default
      server_name: "" # default
    headers: {} # default
    keys: [] # default
    region: "" # default
bootstrap:
  mode: auto # default
  expect: 3 # muster.yaml:11
mastership:
  eligible: true # default
  ttl: 0s # default
  drain_timeout: 1s # default
  authority: "" # default
tls:
  ca_file: "" # default
  cert_file: "" # default
  key_file: "" # default
  server_name: "" # default
  verify_node_id: false # default
registrar:
  hostname: "" # default
  containers: true # default
  ip: "" # default
  internal: false # default
  explicit: false # default
  require_label: "" # default
  ip_from_label: "" # default
  tags: [] # default
  merge_tags: false # default
  ttl: 0s # default
  resync: 1m0s # default
  cleanup: false # default
  deregister: always # default
  on_exit: keep # default
services:
  - name: db # muster.yaml:13
    address: :5432 # muster.yaml:14
    check:
      tcp: "true" # muster.yaml:15
      interval: 5s # muster.yaml:15
proxy: [] # default
jobs: [] # default
calls: [] # default
http:
  addr: 127.0.0.1:7980 # default
  token: "" # default
  token_file: "" # default
  tls:
    cert_file: "" # default
    key_file: "" # default
    ca_file: "" # default
log:
  level: warn # env MUSTER_LOG_LEVEL
  format: text # default
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestWhatIsShownLoads holds that the output of show is a configuration, and the
// same one.
func TestWhatIsShownLoads(t *testing.T) {
	c := mustLoad(t, least+"node: {id: n1, meta: {A: \"null\", b: \"a: b # c\", c: \"\\n\"}, tags: [\"1\", \"true\"]}\nmastership: {ttl: 1m30s}\nservices:\n- {name: db, address: \":1\", tags: [\"2\"], check: {script: [\"a b\", \"#\"], fall: 2}}\n", nil)
	var out bytes.Buffer
	if err := c.WriteYAML(&out); err != nil {
		t.Fatal(err)
	}
	again := mustLoad(t, out.String(), nil)
	again.Node.DataDir = c.Node.DataDir
	if diff := cmp.Diff(c, again, ignored, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("-first +again:\n%s\n%s", diff, out.String())
	}
}
