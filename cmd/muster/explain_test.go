package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/registrar/docker"
)

// explain runs the command on files of testdata/inspect and returns what it prints as
// JSON, and the lines on stderr.
func explain(t *testing.T, args ...string) ([]docker.Service, []string) {
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
	var services []docker.Service
	if err := json.Unmarshal([]byte(stdout), &services); err != nil {
		t.Fatal(err)
	}
	for i, s := range services {
		if s.Reason == "" {
			t.Errorf("%s has no reason", s.ID)
		}
		services[i].Reason = ""
	}
	var told []string
	for line := range strings.Lines(stderr) {
		told = append(told, strings.TrimSpace(line))
	}
	return services, told
}

func TestExplain(t *testing.T) {
	const ip = "192.168.1.102"
	shop := docker.Service{ID: "hostname:web:80", Name: "shop", Address: ip, Port: 32770, Tags: []string{"a", "b,c"}, Attrs: map[string]string{"check_http": "/health"}}
	http := docker.Service{ID: "hostname:api:80", Name: "http", Address: ip, Port: 8000, Tags: []string{"www"}, Attrs: map[string]string{}}
	change := func(s docker.Service, change func(*docker.Service)) docker.Service { change(&s); return s }
	ignored := []string{
		`muster: container web: port 443/tcp: not registered: label SERVICE_443_IGNORE="true"`,
		`muster: container web: port 443/udp: not registered: label SERVICE_443_IGNORE="true"`,
	}
	unpublished := `muster: container api: port 443/tcp: not registered: it is not published; publish it with -p, or set registrar.internal`
	for _, test := range []struct {
		name string
		args []string
		want []docker.Service
		told []string
	}{
		{"as the engine prints it", []string{"--inspect", "web.json", "--ip", ip}, []docker.Service{shop}, ignored},
		{"at the address of the host", []string{"--inspect", "web.json", "--host-ip", ip}, []docker.Service{shop}, ignored},
		{"one object", []string{"--inspect", "api.json", "--host-ip", ip}, []docker.Service{http}, []string{unpublished}},
		{"several files", []string{"--inspect", "api.json", "--inspect", "web.json", "--ip", ip}, []docker.Service{http, shop}, append([]string{unpublished}, ignored...)},
		{"an array of which some are none", []string{"--inspect", "some.json", "--ip", ip}, []docker.Service{shop, http}, append(append([]string{
			`muster: --inspect: "testdata/inspect/some.json": invalid: container 2: not the JSON of docker inspect: it has no "Id"`,
			`muster: invalid: container 3: not the JSON of docker inspect: it has no "Id"`,
		}, ignored...), unpublished)},
		{"tags and a TTL", []string{"--inspect", "api.json", "--ip", ip, "--tags", `dc1,{{ strSlice .ID 0 12 }}`, "--ttl", "30"},
			[]docker.Service{change(http, func(s *docker.Service) { s.Tags, s.TTL = []string{"www", "dc1", "cccccccccccc"}, 30 })}, []string{unpublished}},
		{"explicit", []string{"--inspect", "api.json", "--internal", "--explicit"},
			[]docker.Service{change(http, func(s *docker.Service) { s.Address, s.Port = "10.5.0.3", 80 })},
			[]string{"muster: container api: port 443/tcp: not registered: registrar.explicit wants a SERVICE_NAME, and it has none"}},
		{"the address of a label", []string{"--inspect", "api.json", "--ip", ip, "--ip-from-label", "ip"}, []docker.Service{change(http, func(s *docker.Service) { s.Address = "10.42.1.7" })}, []string{unpublished}},
		{"a label that is required", []string{"--inspect", "api.json", "--ip", ip, "--require-label", "muster.register"}, []docker.Service{}, []string{"muster: container api: not registered: it lacks the label muster.register"}},
		{"the network of another", []string{"--inspect", "side.json", "--other", "web.json", "--internal"}, []docker.Service{
			{ID: "hostname:side:80", Name: "shop-80", Address: "172.17.0.2", Port: 80, Tags: []string{}, Attrs: map[string]string{}},
			{ID: "hostname:side:443", Name: "shop-443", Address: "172.17.0.2", Port: 443, Tags: []string{}, Attrs: map[string]string{}},
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			services, told := explain(t, test.args...)
			if diff := cmp.Diff(test.want, services); diff != "" {
				t.Errorf("services (-want +have):\n%s", diff)
			}
			if diff := cmp.Diff(test.told, told); diff != "" {
				t.Errorf("stderr (-want +have):\n%s", diff)
			}
		})
	}
}

// Without --ip and --host-ip the address is this machine's. One that has none says what
// is missing, and does not fail.
func TestExplainAtThisMachine(t *testing.T) {
	services, told := explain(t, "--inspect", "api.json")
	if len(services) != 1 || len(told) != 2 || services[0].Port != 8000 {
		t.Fatalf("it prints %+v and %q", services, told)
	}
	if all := strings.Join(told, "\n"); !strings.Contains(all, "set --host-ip for another") && !strings.Contains(all, "the address of this host is not known") {
		t.Errorf("stderr is %q; it does not say that the address was looked for", told)
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
