package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const goodFile = `cluster: orders
node: {id: n1}
provider: {static: {peers: ["10.0.0.5:7946"]}}
`

func TestConfigCheck(t *testing.T) {
	file := writeFile(t, "muster.yaml", goodFile)
	status, stdout, stderr := execute(t, "config", "check", "-c", file)
	if status != statusDone || stdout != "ok\n" || stderr != "" {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
	t.Setenv("MUSTER_CONFIG", file)
	t.Setenv("MUSTER_BOOTSTRAP_EXPECT", "three")
	status, stdout, stderr = execute(t, "config", "check")
	want := "muster: MUSTER_BOOTSTRAP_EXPECT: bootstrap.expect: \"three\": not a whole number; write digits, as 3\n"
	if status != statusUsage || stdout != "" || stderr != want {
		t.Errorf("status %d, stdout %q, stderr:\n%swant:\n%s", status, stdout, stderr, want)
	}
}

// An interface that this host does not have is reported, as a file that it does not have is.
func TestConfigCheckOfAnInterface(t *testing.T) {
	for name, want := range map[string]string{
		"nope0": `node.advertise: "interface:nope0": there is no interface nope0; this host has `,
		"lo":    "",
	} {
		file := writeFile(t, "muster.yaml", strings.ReplaceAll(goodFile, "{id: n1}", `{id: n1, advertise: "interface:`+name+`"}`))
		status, stdout, stderr := execute(t, "config", "check", "-c", file)
		if want == "" && (status != statusDone || stdout != "ok\n") || want != "" && (status != statusUsage || !strings.Contains(stderr, want) || !strings.HasPrefix(stderr, "muster: "+file+":")) {
			t.Errorf("%s: status %d, %s%s; want %s", name, status, stdout, stderr, want)
		}
	}
}

// Two services that are one in the registry are refused before anything is started.
func TestConfigCheckOfServicesInOnePlace(t *testing.T) {
	const services = `registrar: {hostname: hunt, ip: 10.0.0.5, containers: false}
provider: {consul: {address: "127.0.0.1:1", format: FORMAT}}
services:
  - {name: alpha, id: same, address: ":1001"}
  - {name: beta, id: same, address: ":1002"}
`
	for _, args := range [][]string{{"config", "check"}, {"registrar", "--http-addr", "127.0.0.1:0"}} {
		file := writeFile(t, "muster.yaml", strings.ReplaceAll(services, "FORMAT", "registrator"))
		status, _, stderr := execute(t, append(args, "-c", file)...)
		if want := file + `:5: services[1].id: "same": provider consul keeps service beta in one place, "same", with service alpha of services[0]`; status != statusUsage || !strings.Contains(stderr, want) {
			t.Errorf("%v: status %d, stderr:\n%swant:\n%s", args, status, stderr, want)
		}
	}
	file := writeFile(t, "muster.yaml", strings.ReplaceAll(services, "FORMAT", "muster"))
	if status, stdout, stderr := execute(t, "config", "check", "-c", file); status != statusDone || stdout != "ok\n" {
		t.Errorf("where each has a place of its own: status %d, %s%s", status, stdout, stderr)
	}
}

// A list that only DNS fills has no voters, which is reported.
func TestConfigCheckOfAListWithoutVoters(t *testing.T) {
	for provider, reported := range map[string]bool{
		`{static: {dns: ["_muster._tcp.example.org"]}}`:                                 true,
		`{static: {dns: ["a.example.org:7946"]}}, mastership: {eligible: false}`:        false,
		`{static: {dns: ["a.example.org:7946"], peers: ["10.0.0.5:7946"]}}`:             false,
		`{static: {dns: ["a.example.org:7946"]}, etcd: {endpoints: ["http://e:2379"]}}`: false,
	} {
		file := writeFile(t, "muster.yaml", "{cluster: orders, node: {id: n1}, provider: "+provider+"}")
		status, stdout, stderr := execute(t, "config", "check", "-c", file)
		if strings.Contains(provider, "etcd") {
			status, stdout, stderr = execute(t, "config", "check", "-c", file, "--mastership-authority", "etcd")
		}
		if status != statusDone || stdout != "ok\n" || strings.Contains(stderr, "no voters are listed") != reported {
			t.Errorf("%s: status %d, %s%s", provider, status, stdout, stderr)
		}
	}
}

// A default that cannot be used is no fault of a line that nobody wrote.
func TestRelativeStateHome(t *testing.T) {
	file := writeFile(t, "muster.yaml", goodFile)
	t.Setenv("XDG_STATE_HOME", "state")
	status, _, stderr := execute(t, "config", "check", "-c", file)
	if want := `muster: node.data_dir: "": cannot be defaulted: XDG_STATE_HOME is "state", which is no absolute path`; status != statusUsage || !strings.HasPrefix(stderr, want) {
		t.Errorf("status %d, stderr %s, want %s", status, stderr, want)
	}
	if status, _, stderr := execute(t, "config", "check", "-c", file, "--node-data-dir", "/x"); status != statusDone {
		t.Errorf("with a directory that is named: status %d, %s", status, stderr)
	}
}

func TestConfigShow(t *testing.T) {
	file := writeFile(t, "muster.yaml", "cluster: orders\nnode: {id: n1}\nprovider: {etcd: {password: hush, username: me}}\n")
	t.Setenv("MUSTER_PROVIDER_ETCD_ENDPOINTS", "http://10.0.0.1:2379,http://10.0.0.2:2379")
	status, stdout, stderr := execute(t, "config", "show", "-c", file, "--node-zone", "eu-1")
	if status != statusDone || stderr != "" {
		t.Fatalf("status %d, stderr %q", status, stderr)
	}
	for _, want := range []string{
		"cluster: orders # " + file + ":1\n",
		"zone: eu-1 # flag --node-zone\n",
		"bind: 0.0.0.0:7946 # default\n",
		"endpoints: ['http://10.0.0.1:2379', 'http://10.0.0.2:2379'] # env MUSTER_PROVIDER_ETCD_ENDPOINTS\n",
		"password: '[redacted]' # " + file + ":3\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in:\n%s", want, stdout)
		}
	}
	if strings.Contains(stdout, "hush") {
		t.Errorf("the password is shown:\n%s", stdout)
	}
}

// TestBadInput runs the program on what users get wrong: it ends with status 2
// and says where, which key, which value and how to fix it, on one line.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	caFile, certFile, _ := writePair(t, dir, "a")
	_, _, otherKey := writePair(t, dir, "b")
	withTLS := func(ca, cert, key string) string {
		return goodFile + "tls: {ca_file: " + ca + ", cert_file: " + cert + ", key_file: " + key + "}\n"
	}
	for _, v := range []struct{ name, text, place, want string }{
		{"unknown key", "cluster: orders\nnode: {zon: eu-1}\nprovider: {static: {peers: [\"10.0.0.5:7946\"]}}\n", ":2",
			`node.zon: "eu-1": unknown key; did you mean "zone"?`},
		{"wrong type", goodFile + "bootstrap: {expect: three}\n", ":4",
			`bootstrap.expect: "three": not a whole number; write digits, as 3`},
		{"bad duration", goodFile + "mastership: {ttl: 5}\n", ":4",
			`mastership.ttl: "5": not a duration; write a number with a unit, as 500ms, 10s or 1m30s`},
		{"duration that the provider does not grant", goodFile + "mastership: {ttl: 2h}\n", ":4",
			`mastership.ttl: "2h0m0s": provider static wants 250ms to 1m0s; write a duration in between, or 0s for its default`},
		{"no provider", "cluster: orders\n", "", `provider: "": missing`},
		{"unknown provider", "cluster: orders\nprovider: {zookeeper: {}}\n", ":2",
			`provider.zookeeper: "{...}": unknown provider; known here: consul, etcd, static`},
		{"empty cluster", "cluster: \"\"\nprovider: {static: {peers: [\"10.0.0.5:7946\"]}}\n", ":1",
			`cluster: "": missing; name the cluster, as cluster: orders`},
		{"peer without port", "cluster: orders\nprovider:\n  static:\n    peers:\n      - 10.0.0.5:7946\n      - 10.0.0.6\n", ":6",
			`provider.static.peers[1]: "10.0.0.6": `},
		{"bind without port", goodFile + "http: {addr: 10.0.0.5}\n", ":4", `http.addr: "10.0.0.5": an address without a port`},
		{"bind to a star", "cluster: orders\nnode: {bind: \"*:7946\"}\nprovider: {static: {peers: [\"10.0.0.5:7946\"]}}\n", ":2",
			`node.bind: "*:7946": not a host; write ":7946" for all addresses of this host`},
		{"bind to an interface", "cluster: orders\nnode: {bind: \"eth0:7946\"}\nprovider: {static: {peers: [\"10.0.0.5:7946\"]}}\n", ":2",
			`node.bind: "eth0:7946": the name of a network interface, and not of a host; write its address, or ":7946" for all`},
		{"bind to a form of advertise", "cluster: orders\nnode: {bind: \"interface:eth0\"}\nprovider: {static: {peers: [\"10.0.0.5:7946\"]}}\n", ":2",
			`node.bind: "interface:eth0": a form of node.advertise; write the address of interface eth0, or ":7946" for all addresses of this host, and node.advertise: interface:eth0`},
		{"API at an interface", goodFile + "http: {addr: \"lo:7980\"}\n", ":4", `http.addr: "lo:7980": the name of a network interface`},
		{"unroutable advertise", "cluster: orders\nnode: {advertise: \"0.0.0.0:7946\"}\nprovider: {static: {peers: [\"10.0.0.5:7946\"]}}\n", ":2",
			`node.advertise: "0.0.0.0:7946": nobody can dial 0.0.0.0; `},
		{"engine", goodFile + "docker: {host: \"tcp://\"}\n", ":4", `docker.host: "tcp://": is no address of an engine; write unix:///PATH`},
		{"missing certificate", withTLS(caFile, filepath.Join(dir, "none.pem"), otherKey), ":4",
			`tls.cert_file: "` + filepath.Join(dir, "none.pem") + `": cannot be read: no such file`},
		{"mismatched certificate", withTLS(caFile, certFile, otherKey), ":4",
			`tls.key_file: "` + otherKey + `": does not go with`},
		{"incomplete certificate", goodFile + "tls: {ca_file: " + caFile + ", cert_file: " + certFile + "}\n", ":4",
			`tls.key_file: "": missing; name the PEM file of the key`},
	} {
		t.Run(v.name, func(t *testing.T) {
			file := writeFile(t, "muster.yaml", v.text)
			for _, command := range [][]string{{"config", "check"}, {"agent"}} {
				status, stdout, stderr := executeProcess(t, append(command, "-c", file)...)
				want := "muster: " + file + v.place + ": " + v.want
				if status != statusUsage || stdout != "" || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
					t.Errorf("%v: status %d, stdout %q, stderr:\n%s\nwant status 2 and one line:\n%s", command, status, stdout, stderr, want)
				}
			}
		})
	}
}

// writePair writes a self-signed certificate and its key.
func writePair(t *testing.T, dir, name string) (ca, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der},
		key:  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, cert, key
}

// A configuration that names what DNS does not hold is fine, and it is said who does not find
// it.
func TestConfigCheckNotesReaders(t *testing.T) {
	const dns = "provider: {etcd: {endpoints: [\"http://127.0.0.1:2379\"], format: skydns}}\n"
	services := "registrar: {hostname: h1, ip: 10.0.0.5, containers: false}\nservices: [{name: Web, address: \":1001\"}, {name: lower, id: lower-1, address: \":1002\"}]\n"
	for _, tt := range []struct{ text, want string }{
		{dns + services, "muster: note: services[0]: provider etcd: CoreDNS and SkyDNS do not find service \"Web\""},
		{dns + "cluster: Orders\nnode: {id: a}\n", "muster: note: cluster: provider etcd: CoreDNS and SkyDNS do not find service \"Orders\""},
		{dns + "cluster: orders\nnode: {id: a}\n", ""},
		{"provider: {etcd: {endpoints: [\"http://127.0.0.1:2379\"]}}\n" + services, ""},
	} {
		status, stdout, stderr := execute(t, "config", "check", "-c", writeFile(t, "muster.yaml", tt.text))
		if status != statusDone || stdout != "ok\n" || !strings.HasPrefix(stderr, tt.want) || tt.want == "" && stderr != "" || strings.Count(stderr, "\n") > 1 {
			t.Errorf("%s: status %d, %s%s\nwant %s", tt.text, status, stdout, stderr, tt.want)
		}
	}
}
