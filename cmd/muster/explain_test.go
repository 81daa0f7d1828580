package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// explain runs the command on files of testdata/inspect and returns what it prints as
// JSON, and the lines on stderr.
func explain(t *testing.T, args ...string) ([]grammar.Service, []string) {
	t.Helper()
	for i, arg := range args {
		if strings.HasSuffix(arg, ".json") {
			args[i] = filepath.Join("testdata", "inspect", arg)
		}
	}
	args = append([]string{"registrar", "explain", "--hostname", "hostname", "-o", "json"}, args...)
	status, stdout, stderr := execute(t, args...)
	if status != statusDone {
		t.Fatalf("%v: status %d: %s", args, status, stderr)
	}
	if !strings.HasPrefix(stdout, "[") || strings.Contains(stdout, "null") {
		t.Errorf("%v prints %s; want an array, and no null", args, stdout)
	}
	var services []grammar.Service
	if err := json.Unmarshal([]byte(stdout), &services); err != nil {
		t.Fatal(err)
	}
	for i, s := range services {
		if s.Reason == "" {
			t.Errorf("%s has no reason", s.ID)
		}
		services[i].Reason = ""
	}
	var reported []string
	for line := range strings.Lines(stderr) {
		reported = append(reported, strings.TrimSpace(line))
	}
	return services, reported
}

func TestExplain(t *testing.T) {
	const ip = "192.168.1.102"
	shop := grammar.Service{ID: "hostname:web:80", Name: "shop", Address: ip, Port: 32770, Tags: []string{"a", "b,c"}, Attrs: map[string]string{"check_http": "/health"}}
	http := grammar.Service{ID: "hostname:api:80", Name: "http", Address: ip, Port: 8000, Tags: []string{"www"}, Attrs: map[string]string{}}
	change := func(s grammar.Service, change func(*grammar.Service)) grammar.Service { change(&s); return s }
	ignored := []string{`muster: container web: ports 443/tcp, 443/udp: not registered: label SERVICE_443_IGNORE="true"`}
	unpublished := `muster: container api: port 443/tcp: not registered: it is not published; publish it with -p, or set registrar.internal`
	for _, test := range []struct {
		name     string
		args     []string
		want     []grammar.Service
		reported []string
	}{
		{"as the engine prints it", []string{"--inspect", "web.json", "--ip", ip}, []grammar.Service{shop}, ignored},
		{"at the address of the host", []string{"--inspect", "web.json", "--host-ip", ip}, []grammar.Service{shop}, ignored},
		{"one object", []string{"--inspect", "api.json", "--host-ip", ip}, []grammar.Service{http}, []string{unpublished}},
		{"several files", []string{"--inspect", "api.json", "--inspect", "web.json", "--ip", ip}, []grammar.Service{http, shop}, append([]string{unpublished}, ignored...)},
		{"an array of which some are none", []string{"--inspect", "some.json", "--ip", ip}, []grammar.Service{shop, http}, append(append([]string{
			`muster: --inspect: "testdata/inspect/some.json": invalid: container 2: not the JSON of docker inspect: it has no "Id"`,
			`muster: invalid: container 3: not the JSON of docker inspect: it has no "Id"`,
		}, ignored...), unpublished)},
		{"tags and a TTL", []string{"--inspect", "api.json", "--ip", ip, "--tags", `dc1,{{ strSlice .ID 0 12 }}`, "--ttl", "30"},
			[]grammar.Service{change(http, func(s *grammar.Service) { s.Tags, s.TTL = []string{"www", "dc1", "cccccccccccc"}, 30 })}, []string{unpublished}},
		{"explicit", []string{"--inspect", "api.json", "--internal", "--explicit"},
			[]grammar.Service{change(http, func(s *grammar.Service) { s.Address, s.Port = "10.5.0.3", 80 })},
			[]string{"muster: container api: port 443/tcp: not registered: registrar.explicit wants a SERVICE_NAME, and it has none"}},
		{"the address of a label", []string{"--inspect", "api.json", "--ip", ip, "--ip-from-label", "ip"}, []grammar.Service{change(http, func(s *grammar.Service) { s.Address = "10.42.1.7" })}, []string{unpublished}},
		{"a label that is required", []string{"--inspect", "api.json", "--ip", ip, "--require-label", "muster.register"}, []grammar.Service{}, []string{"muster: container api: not registered: it lacks the label muster.register"}},
		{"the network of another", []string{"--inspect", "side.json", "--other", "web.json", "--internal"}, []grammar.Service{
			{ID: "hostname:side:80", Name: "shop-80", Address: "172.17.0.2", Port: 80, Tags: []string{}, Attrs: map[string]string{}},
			{ID: "hostname:side:443", Name: "shop-443", Address: "172.17.0.2", Port: 443, Tags: []string{}, Attrs: map[string]string{}},
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			services, reported := explain(t, test.args...)
			if diff := cmp.Diff(test.want, services); diff != "" {
				t.Errorf("services (-want +have):\n%s", diff)
			}
			if diff := cmp.Diff(test.reported, reported); diff != "" {
				t.Errorf("stderr (-want +have):\n%s", diff)
			}
		})
	}
}

// What is found in the field: a container in a network such as macvlan, a port that is
// published for IPv6 alone, a port of the host's network that is not exposed, an image by its
// id, and keys of forks of registrator.
func TestExplainWhatIsFoundInTheField(t *testing.T) {
	services, reported := explain(t, "--inspect", "field.json", "--host-ip", "10.0.0.5")
	none := map[string]string{}
	want := []grammar.Service{
		{ID: "hostname:lamp:80", Name: "lamp-ui", Address: "192.168.66.9", Port: 80, Tags: []string{}, Attrs: none},
		{ID: "hostname:lamp:5683:udp", Name: "lamp-5683", Address: "192.168.66.9", Port: 5683, Tags: []string{"udp"}, Attrs: none},
		{ID: "hostname:sixty:9000", Name: "sixty", Address: "", Port: 19000, Tags: []string{}, Attrs: none},
		{ID: "hostname:gate:1883", Name: "mqtt", Address: "10.0.0.5", Port: 1883, Tags: []string{}, Attrs: none},
		{ID: "hostname:blog-web-1:80", Name: "blog-web-1", Address: "10.7.7.7", Port: 30080, Tags: []string{"d4d4d4d4d4d4", "blue"}, Attrs: map[string]string{"alias": "www"}},
	}
	if diff := cmp.Diff(want, services); diff != "" {
		t.Errorf("services (-want +have):\n%s", diff)
	}
	parts := []string{
		"muster: container sixty: service hostname:sixty:9000: published at [::]:19000, which is IPv6 alone, and 10.0.0.5 is IPv4; ",
		`muster: container blog-web-1: SERVICE_ALIAS: "www": it is an attribute and nothing more: `,
	}
	if len(reported) != len(parts) {
		t.Fatalf("stderr is %q", reported)
	}
	for n, part := range parts {
		if !strings.HasPrefix(reported[n], part) {
			t.Errorf("%q\nwant %q", reported[n], part)
		}
	}
}

// Of a container with thousands of ports what is the same is reported once.
func TestExplainThousandsOfPorts(t *testing.T) {
	const ports = 4000
	published, exposed := map[string]any{}, map[string]any{}
	for n := range ports {
		key := fmt.Sprintf("%d/udp", 20000+n)
		published[key] = []map[string]string{{"HostIp": "::", "HostPort": strconv.Itoa(20000 + n)}}
		exposed[key] = map[string]any{}
	}
	text, err := json.Marshal(map[string]any{"Id": strings.Repeat("e5", 32), "Name": "/relay", "Config": map[string]any{"Image": "relay", "ExposedPorts": exposed,
		"Env": []string{"SERVICE_20000-21999_IGNORE=true"}}, "NetworkSettings": map[string]any{"Ports": published}})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"registrar", "explain", "--hostname", "hostname", "-o", "json", "--inspect", writeFile(t, "relay.json", string(text))}
	start := time.Now()
	status, stdout, stderr := execute(t, append(args, "--host-ip", "10.0.0.5")...)
	if took := time.Since(start); status != statusDone || took > wait.Patience/3 {
		t.Errorf("status %d after %v", status, took)
	}
	var services []grammar.Service
	if err := json.Unmarshal([]byte(stdout), &services); err != nil || len(services) != ports/2 {
		t.Fatalf("%d services, %v", len(services), err)
	}
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	if len(lines) != maxUnknown+2 || lines[0] != `muster: container relay: ports 20000-21999/udp: not registered: SERVICE_20000-21999_IGNORE="true"` ||
		lines[len(lines)-1] != "muster: container relay: the address of 1996 more services is not known either" {
		t.Errorf("%d lines: %.2000s", len(lines), stderr)
	}
}

// A file may have been written by PowerShell, in UTF-16.
func TestExplainReadsOtherEncodings(t *testing.T) {
	text, err := os.ReadFile("testdata/inspect/web.json")
	if err != nil {
		t.Fatal(err)
	}
	little := []byte("\xff\xfe")
	for _, c := range text {
		little = append(little, c, 0) // it is ASCII
	}
	for name, encoded := range map[string][]byte{"UTF-16": little, "a mark": append([]byte("\xef\xbb\xbf"), text...)} {
		status, stdout, stderr := execute(t, "registrar", "explain", "--hostname", "hostname", "--ip", "10.0.0.5", "--inspect", writeFile(t, "web.json", string(encoded)))
		if status != statusDone || !strings.Contains(stdout, "hostname:web:80  shop  10.0.0.5") {
			t.Errorf("%s: status %d, %s%s", name, status, stdout, stderr)
		}
	}
}

// Without --ip and --host-ip the address is this machine's. One that has none says what
// is missing, and does not fail.
func TestExplainAtThisMachine(t *testing.T) {
	services, reported := explain(t, "--inspect", "api.json")
	if len(services) != 1 || len(reported) != 2 || services[0].Port != 8000 {
		t.Fatalf("it prints %+v and %q", services, reported)
	}
	if all := strings.Join(reported, "\n"); !strings.Contains(all, "set --host-ip for another") && !strings.Contains(all, "the address of this host is not known") {
		t.Errorf("stderr is %q; it does not say that the address was looked for", reported)
	}
}

func TestExplainReadsStdin(t *testing.T) {
	cmd := program(t, "registrar", "explain", "--inspect", "-", "--ip", "192.168.1.102", "--hostname", "hostname")
	in, err := os.Open("testdata/inspect/web.json")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd.Stdin = in
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "ID ") || !strings.HasPrefix(lines[1], "hostname:web:80  shop  192.168.1.102  32770  a,b,c  check_http=/health  0 ") {
		t.Errorf("it prints\n%s", out)
	}
}

func TestExplainIsRefused(t *testing.T) {
	const web, none = "testdata/inspect/web.json", "testdata/inspect/none.json"
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "--inspect: missing"},
		{[]string{"--inspect", "nowhere.json"}, `--inspect: "nowhere.json": cannot be read: `},
		{[]string{"--inspect", none}, "not the JSON of docker inspect"},
		{[]string{"--inspect", web, "--other", none}, `--other: "testdata/inspect/none.json"`},
		{[]string{"--inspect", web, "--ip", "somewhere"}, `--ip: "somewhere": no address`},
		{[]string{"--inspect", web, "--host-ip", "0.0.0.0"}, `--host-ip: "0.0.0.0"`},
		{[]string{"--inspect", web, "--hostname", "a:b"}, `--hostname: "a:b"`},
		{[]string{"--inspect", web, "--tags", "{{ .ID"}, `--tags: "{{ .ID"`},
		{[]string{"--inspect", web, "--ttl", "-1"}, `--ttl: "-1": negative`},
		{[]string{"--inspect", web, "--ttl", "soon"}, "--ttl"},
		{[]string{"--inspect", web, "-o", "yaml"}, "write table or json"},
		{[]string{web}, "unknown command"},
	} {
		status, stdout, stderr := execute(t, append([]string{"registrar", "explain"}, test.args...)...)
		if status != statusUsage || stdout != "" || !strings.Contains(stderr, test.want) {
			t.Errorf("%v: status %d, stdout %q, stderr %q; want status 2 and %q", test.args, status, stdout, stderr, test.want)
		}
	}
}
