package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/secret"
)

// load writes text to muster.yaml and loads it, with the home of nobody.
func load(t *testing.T, text string, env []string, args ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "muster.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	if err := AddFlags(flags); err != nil {
		t.Fatal(err)
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if env == nil {
		env = []string{}
	}
	return Load(Options{Path: path, Env: env, Flags: flags})
}

func mustLoad(t *testing.T, text string, env []string, args ...string) *Config {
	t.Helper()
	c, err := load(t, text, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const least = "cluster: orders\nprovider: {stub: {peers: [\"10.0.0.5:7946\"]}}\n"

var ignored = cmpopts.IgnoreUnexported(Config{})

func TestDefaults(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Skip("no host name")
	}
	home := t.TempDir()
	t.Setenv("XDG_STATE_HOME", home)
	c := mustLoad(t, least, nil)
	want := &Config{
		Cluster: "orders",
		Node: Node{
			ID: host, Bind: "0.0.0.0:7946", Advertise: "auto",
			DataDir: filepath.Join(home, "muster", "orders", host),
		},
		Detect:     Detect{RequireExternal: true},
		Provider:   map[string]any{"stub": &stubConfig{Peers: []string{"10.0.0.5:7946"}, Timeout: 2 * time.Second}},
		Bootstrap:  Bootstrap{Mode: "auto"},
		Mastership: Mastership{Eligible: true, DrainTimeout: time.Second},
		Registrar:  Registrar{Containers: true, Resync: time.Minute, Deregister: "always", OnExit: "keep"},
		HTTP:       HTTP{Addr: "127.0.0.1:7980"},
		Log:        Log{Level: "info", Format: "text"},
	}
	if diff := cmp.Diff(want, c, ignored); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A provider checks its section, and no client is opened for it.
func TestLoadOpensNoDriver(t *testing.T) {
	before := stubsOpened.Load()
	for _, retries := range []string{"3", "-3"} {
		_, err := Load(Options{Env: []string{"MUSTER_CLUSTER=orders", "MUSTER_NODE_ID=a", "MUSTER_PROVIDER_STUB_PEERS=10.0.0.5:7946", "MUSTER_PROVIDER_STUB_RETRIES=" + retries}})
		if wrong := retries == "-3"; wrong != (err != nil) {
			t.Errorf("with %s retries: %v", retries, err)
		}
	}
	if opened := stubsOpened.Load() - before; opened != 0 {
		t.Errorf("%d drivers were opened", opened)
	}
}

func TestEveryKeyFromTheFile(t *testing.T) {
	c := mustLoad(t, `
cluster: orders
node:
  id: n1
  zone: eu-1
  tags: [web, "blue"]
  meta: {Version: 1.10, canary: true, "a.b": c}
  app_addrs: {HTTP: "10.0.0.5:8080"}
  bind: "[::]:7000"
  advertise: "10.0.0.5:7000"
  voter: "10.0.0.5:7000"
  data_dir: /var/lib/muster
detect:
  host_ip: 10.0.0.5
  require_external: false
  registry: {provider: stub, service: app, tag: c1, must_have_tags: [dev]}
docker: {host: "unix:///run/docker.sock"}
provider:
  stub:
    peers: ["10.0.0.5:7000"]
    username: me
    password: hush
    password_file: /run/secret
    timeout: 1m30s
    retries: 3
    weight: 0.5
    strict: true
    labels: {Team: "A"}
    region: eu
bootstrap: {mode: join-only, expect: 3}
mastership: {eligible: false, ttl: 5s, drain_timeout: 3s, authority: stub}
registrar:
  {hostname: h1, containers: false, ip: 10.0.0.5, internal: true, explicit: true, require_label: a=b, ip_from_label: c, tags: [d, "{{.ID}}"], merge_tags: true,
  ttl: 30s, resync: 2m, cleanup: true, deregister: on-success, on_exit: deregister}
services:
  - name: db
    address: :5432
  - {name: web, id: w1, address: "web.example:80", tags: [a], meta: {B: c},
    check: {http: /h, method: HEAD, header: {X-Key: k}, interval: 5s, timeout: 1s, rise: 2, fall: 4, tls_skip_verify: true}}
  - {name: s, address: ":1", check: {script: [check, "$SERVICE_PORT"]}}
http: {addr: "127.0.0.1:0", token: "hush, this is the token"}
log: {level: debug, format: json}
`, nil)
	want := &Config{
		Cluster: "orders",
		Node: Node{
			ID: "n1", Zone: "eu-1", Tags: []string{"web", "blue"},
			// The case of the user's own keys stands, and 1.10 is not the number 1.1.
			Meta:     map[string]string{"Version": "1.10", "canary": "true", "a.b": "c"},
			AppAddrs: map[string]string{"HTTP": "10.0.0.5:8080"},
			Bind:     "[::]:7000", Advertise: "10.0.0.5:7000", Voter: "10.0.0.5:7000", DataDir: "/var/lib/muster",
		},
		Detect: Detect{HostIP: "10.0.0.5", Registry: DetectRegistry{Provider: "stub", Service: "app", Tag: "c1", MustHaveTags: []string{"dev"}}},
		Docker: Docker{Host: "unix:///run/docker.sock"},
		Provider: map[string]any{"stub": &stubConfig{
			Peers: []string{"10.0.0.5:7000"}, Username: "me", Password: "hush", PasswordFile: "/run/secret",
			Timeout: 90 * time.Second, Retries: 3, Weight: 0.5, Strict: true,
			Labels: map[string]string{"Team": "A"}, Common: common{Region: "eu"},
		}},
		Bootstrap:  Bootstrap{Mode: "join-only", Expect: 3},
		Mastership: Mastership{TTL: 5 * time.Second, DrainTimeout: 3 * time.Second, Authority: "stub"},
		Registrar: Registrar{
			Hostname: "h1", IP: "10.0.0.5", Internal: true, Explicit: true, RequireLabel: "a=b", IPFromLabel: "c",
			Tags: []string{"d", "{{.ID}}"}, MergeTags: true, TTL: 30 * time.Second, Resync: 2 * time.Minute,
			Cleanup: true, Deregister: "on-success", OnExit: "deregister",
		},
		Services: []declared.Service{
			{Name: "db", Address: ":5432"},
			{Name: "web", ID: "w1", Address: "web.example:80", Tags: []string{"a"}, Meta: map[string]string{"B": "c"}, Check: declared.Check{
				HTTP: "/h", Method: "HEAD", Header: map[string]secret.String{"X-Key": "k"},
				Interval: 5 * time.Second, Timeout: time.Second, Rise: 2, Fall: 4, TLSSkipVerify: true,
			}},
			{Name: "s", Address: ":1", Check: declared.Check{Script: []string{"check", "$SERVICE_PORT"}}},
		},
		HTTP: HTTP{Addr: "127.0.0.1:0", Token: "hush, this is the token"},
		Log:  Log{Level: "debug", Format: "json"},
	}
	if diff := cmp.Diff(want, c, ignored); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestEveryKeyFromTheEnvironmentAlone(t *testing.T) {
	c, err := Load(Options{Env: []string{
		"MUSTER_CLUSTER=orders",
		"MUSTER_NODE_ID=n1", "MUSTER_NODE_ZONE=eu-1", "MUSTER_NODE_TAGS=web, blue,",
		"MUSTER_NODE_META=Version=1.10,eq=a=b", "MUSTER_NODE_APP_ADDRS=HTTP=10.0.0.5:8080",
		"MUSTER_NODE_BIND=127.0.0.1:0", "MUSTER_NODE_ADVERTISE=env", "MUSTER_NODE_DATA_DIR=/data",
		"MUSTER_DETECT_HOST_IP=10.0.0.5", "MUSTER_DETECT_REQUIRE_EXTERNAL=false", "MUSTER_DETECT_REGISTRY_TAG=c1",
		"MUSTER_DETECT_REGISTRY_MUST_HAVE_TAGS=dev,eu", "MUSTER_DOCKER_HOST=tcp://10.0.0.5:2376", "MUSTER_POD_IP=10.0.0.9",
		"MUSTER_PROVIDER_STUB_PEERS=10.0.0.5:7946,10.0.0.6:7946",
		"MUSTER_PROVIDER_STUB_PASSWORD=hush", "MUSTER_PROVIDER_STUB_TIMEOUT=3s", "MUSTER_PROVIDER_STUB_RETRIES=4",
		"MUSTER_PROVIDER_STUB_LABELS=Team=A",
		"MUSTER_BOOTSTRAP_EXPECT=3", "MUSTER_MASTERSHIP_ELIGIBLE=false", "MUSTER_MASTERSHIP_TTL=2s", "MUSTER_MASTERSHIP_DRAIN_TIMEOUT=4s",
		"MUSTER_REGISTRAR_TAGS=a,b", "MUSTER_REGISTRAR_RESYNC=5s",
		"MUSTER_HTTP_ADDR=127.0.0.1:8000", "MUSTER_LOG_LEVEL=warn",
		"MUSTER_LOG_FORMAT=",             // passed on and not set
		"MUSTER_ADVERTISE_ADDR=10.0.0.5", // not a key, but what env reads
		// What Kubernetes sets for a service of the name muster.
		"MUSTER_PORT=tcp://10.0.0.1:7946", "MUSTER_SERVICE_HOST=10.0.0.1", "MUSTER_PORT_7946_TCP_PORT=7946",
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Cluster: "orders",
		Node: Node{
			ID: "n1", Zone: "eu-1", Tags: []string{"web", "blue"},
			Meta:     map[string]string{"Version": "1.10", "eq": "a=b"},
			AppAddrs: map[string]string{"HTTP": "10.0.0.5:8080"},
			Bind:     "127.0.0.1:0", Advertise: "env", DataDir: "/data",
		},
		Detect: Detect{HostIP: "10.0.0.5", Registry: DetectRegistry{Tag: "c1", MustHaveTags: []string{"dev", "eu"}}},
		Docker: Docker{Host: "tcp://10.0.0.5:2376"},
		Provider: map[string]any{"stub": &stubConfig{
			Peers: []string{"10.0.0.5:7946", "10.0.0.6:7946"}, Password: "hush", Timeout: 3 * time.Second, Retries: 4,
			Labels: map[string]string{"Team": "A"},
		}},
		Bootstrap:  Bootstrap{Mode: "auto", Expect: 3},
		Mastership: Mastership{TTL: 2 * time.Second, DrainTimeout: 4 * time.Second},
		Registrar:  Registrar{Containers: true, Tags: []string{"a", "b"}, Resync: 5 * time.Second, Deregister: "always", OnExit: "keep"},
		HTTP:       HTTP{Addr: "127.0.0.1:8000"},
		Log:        Log{Level: "warn", Format: "text"},
	}
	if diff := cmp.Diff(want, c, ignored); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFlagBeatsEnvironmentBeatsFileBeatsDefault(t *testing.T) {
	file := least + "node: {zone: file, tags: [file]}\nlog: {level: debug}\nhttp: {addr: \"127.0.0.1:1\"}\n"
	env := []string{"MUSTER_NODE_ZONE=env", "MUSTER_HTTP_ADDR=127.0.0.1:2", "MUSTER_PROVIDER_STUB_RETRIES=2"}
	c := mustLoad(t, file, env,
		"--node-zone=flag", "--node-tags=a,b", "--node-tags=c", "--provider-stub-region=eu", "--mastership-eligible=false")
	p := c.Provider["stub"].(*stubConfig)
	for _, v := range []struct {
		key, source string
		got, want   any
	}{
		{"node.zone", "flag --node-zone", c.Node.Zone, "flag"},
		{"node.tags", "flag --node-tags", c.Node.Tags, []string{"a", "b", "c"}},
		{"mastership.eligible", "flag --mastership-eligible", c.Mastership.Eligible, false},
		{"provider.stub.region", "flag --provider-stub-region", p.Common.Region, "eu"},
		{"http.addr", "env MUSTER_HTTP_ADDR", c.HTTP.Addr, "127.0.0.1:2"},
		{"provider.stub.retries", "env MUSTER_PROVIDER_STUB_RETRIES", p.Retries, 2},
		{"log.level", "muster.yaml:4", c.Log.Level, "debug"},
		{"provider.stub.peers", "muster.yaml:2", p.Peers, []string{"10.0.0.5:7946"}},
		{"provider.stub.timeout", "default", p.Timeout, 2 * time.Second},
		{"log.format", "default", c.Log.Format, "text"},
	} {
		if diff := cmp.Diff(v.want, v.got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", v.key, diff)
		}
		if got := filepath.Base(c.Source(v.key).String()); got != v.source {
			t.Errorf("%s comes from %q, want %q", v.key, got, v.source)
		}
	}
}

func TestAnEmptySectionConfiguresAProvider(t *testing.T) {
	for _, text := range []string{"provider: {stub: {}}", "provider:\n  stub:\n", "provider: {stub: ~}"} {
		c := mustLoad(t, "cluster: orders\n"+text, nil)
		want := map[string]any{"stub": &stubConfig{Timeout: 2 * time.Second}}
		if diff := cmp.Diff(want, c.Provider); diff != "" {
			t.Errorf("%s: -want +got:\n%s", text, diff)
		}
	}
}

func TestErrorsAreInvalid(t *testing.T) {
	_, err := load(t, "cluster: [", nil)
	if !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("errors.Is(%v, ErrInvalid) = false", err)
	}
	var one *Error
	if !errors.As(err, &one) || one.Source.Line == 0 {
		t.Errorf("%v is no *Error with a line", err)
	}
}

func TestEveryNameIsUnique(t *testing.T) {
	s, err := newSchema()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]string)
	for _, e := range s.values {
		for _, name := range []string{e.env(), e.flag()} {
			if first, taken := seen[name]; taken {
				t.Errorf("%s stands for %s and for %s", name, first, e.key)
			}
			seen[name] = e.key
		}
		if e.provider == "" && e.usage == "" && !strings.Contains("."+e.key, ".tls.") && !e.secret() {
			t.Errorf("%s has no usage text", e.key)
		}
	}
}
