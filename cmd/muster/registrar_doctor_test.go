//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/internal/doctor"
	"github.com/musterhq/muster/internal/testserver"
	"github.com/musterhq/muster/registrar/host"
)

// engineOf serves the API of an engine that runs the containers, by id, and returns its
// address.
func engineOf(t *testing.T, containers map[string]string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if strings.HasPrefix(path, "/v1.") {
			path = path[strings.Index(path[1:], "/")+1:]
		}
		id, _ := strings.CutSuffix(strings.TrimPrefix(path, "/containers/"), "/json")
		switch container, running := containers[id]; {
		case path == "/_ping":
			w.Header().Set("Api-Version", "1.41")
		case path == "/info":
			io.WriteString(w, `{"ServerVersion":"27.1"}`)
		case path == "/containers/json":
			list := []map[string]string{{"Id": "gone"}} // by the time that it is inspected
			for id := range containers {
				list = append(list, map[string]string{"Id": id})
			}
			json.NewEncoder(w).Encode(list)
		case running:
			io.WriteString(w, container)
		default:
			http.Error(w, `{"message":"no such container"}`, http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	return "tcp://" + server.Listener.Addr().String()
}

func TestDoctorOfARegistrar(t *testing.T) {
	server := testserver.StartEtcd(t)
	engine := engineOf(t, map[string]string{
		"c1": `{"Id":"c1","Name":"/shop","Config":{"Env":["SERVICE_NAME=shop"]},"State":{"Running":true},"NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8000"}],"81/tcp":[{"HostIp":"0.0.0.0","HostPort":"8001"}]}}}`,
		"c2": `{"Id":"c2","Name":"/quiet","State":{"Running":true}}`,
	})
	closed, err := freeAddrs(2)
	if err != nil {
		t.Fatal(err)
	}
	etcd := map[string]any{"etcd": map[string]any{"endpoints": []string{server.Endpoint()}}}
	configure := func(change map[string]any) map[string]any {
		c := map[string]any{
			"provider":  etcd,
			"registrar": map[string]any{"hostname": "h1", "ip": "10.0.0.5", "cleanup": true},
			"docker":    map[string]any{"host": engine},
			"http":      map[string]any{"addr": closed[0]},
		}
		maps.Copy(c, change)
		return c
	}

	f := consult(t, configure(nil))
	f.wantNoFailure(t)
	f.want(t, "configuration", doctor.OK, "registrar of host h1, etcd")
	f.want(t, "registrar", doctor.OK, "none runs here; http.addr "+closed[0]+" is free")
	f.want(t, "address", doctor.OK, "10.0.0.5 (registrar.ip)")
	f.want(t, "docker", doctor.OK, "engine 27.1 at "+engine+" answers; 2 containers, 2 services to be registered")
	f.want(t, "provider.etcd.read", doctor.OK, server.Endpoint())
	f.want(t, "provider.etcd.register", doctor.OK, "instances of shop-80, shop-81 may be registered and removed")
	f.want(t, "clock.wall", doctor.OK, "as that of etcd")
	if _, there := f["cluster"]; there {
		t.Errorf("a registrar has no cluster: %+v", f["cluster"])
	}

	f = consult(t, configure(map[string]any{"docker": map[string]any{"host": "tcp://" + closed[1]}}))
	f.want(t, "docker", doctor.Fail, "connection refused", "start the engine")
	f.want(t, "provider.etcd.register", doctor.OK, "by now there is none")
	f = consult(t, configure(map[string]any{"provider": map[string]any{"etcd": map[string]any{"endpoints": []string{"http://" + closed[1]}}}}), "--timeout", "5s")
	f.want(t, "provider.etcd.read", doctor.Fail, closed[1], "correct its address in provider.etcd")
	f.want(t, "provider.etcd.register", doctor.Warn, "not checked")

	t.Setenv("MUSTER_ADVERTISE_ADDR", "no.such.host.invalid:1")
	f = consult(t, configure(map[string]any{"registrar": map[string]any{"hostname": "h1"}}))
	f.want(t, "address.env", doctor.Warn)
	f.want(t, "address", doctor.Fail, "the address of this host is not known", "set registrar.ip or detect.host_ip")
	f = consult(t, configure(map[string]any{"registrar": map[string]any{"hostname": "h1", "internal": true}}))
	f.want(t, "address", doctor.OK, "nothing needs it")

	// One whose file says nothing of a registrar is known by the command alone.
	bare := configure(nil)
	delete(bare, "registrar")
	f = consult(t, bare)
	f.want(t, "configuration", doctor.Fail, "which a node needs and a registrar does not", "muster registrar doctor")
	text, err := yaml.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := execute(t, "registrar", "doctor", "--registrar-ip", "10.0.0.5", "-c", writeFile(t, "registrar.yaml", string(text)))
	if status != statusDone || stderr != "" || !strings.Contains(stdout, "registrar of host ") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
}

func TestDoctorOfARegistrarWithoutPermission(t *testing.T) {
	server := testserver.StartEtcd(t, testserver.WithAuth())
	server.AddUser("reader", "secret", "/elsewhere/")
	f := consult(t, map[string]any{
		"provider":  map[string]any{"etcd": map[string]any{"endpoints": []string{server.Endpoint()}, "username": "reader", "password": "secret"}},
		"registrar": map[string]any{"ip": "10.0.0.5", "containers": false},
		"services":  []map[string]any{{"name": "db", "address": ":5432"}},
		"http":      map[string]any{"addr": testAddrs(t, 1)[0]},
	})
	f.want(t, "docker", doctor.OK, "not needed")
	f.want(t, "provider.etcd.read", doctor.Fail, "denied", "readwrite /muster/")
	f.want(t, "provider.etcd.register", doctor.Fail, "denied", "readwrite /muster/")
}

// The command that asks a registrar is also the health check of its container.
func TestRegistrarStatus(t *testing.T) {
	server := testserver.StartEtcd(t)
	text := fmt.Sprintf(`
provider: {etcd: {endpoints: [%q]}}
registrar: {hostname: h1, ip: 10.0.0.5, containers: false, ttl: 5s}
services:
  - {name: db, address: ":5432"}
  - {name: down, address: ":1", check: {script: [/no/such/program]}}
`, server.Endpoint())
	p := startRegistrarProcess(t, text)
	p.ready()
	for _, args := range [][]string{{"registrar", "status"}, {"status"}} {
		status, stdout, stderr := execute(t, append(args, "--http", p.addr)...)
		if status != statusDone || stderr != "" {
			t.Fatalf("%v: status %d, %s", args, status, stderr)
		}
		for _, want := range [][]string{
			{"registrar", "of", "host", "h1"},
			{"ready"},
			{"address", "of", "the", "host", "10.0.0.5", "(registrar.ip)"},
			{"etcd", "*", "1", "1", "-"},
			{"db", "h1:db:5432", "10.0.0.5:5432", "etcd", "configuration", "it", "has", "no", "check"},
		} {
			if !strings.Contains("\n"+strings.Join(fields(stdout), "\n")+"\n", "\n"+strings.Join(want, " ")+"\n") {
				t.Errorf("%v: no line %v in\n%s", args, want, stdout)
			}
		}
		if !strings.Contains(stdout, "/no/such/program") {
			t.Errorf("%v: it does not say why a service is not registered:\n%s", args, stdout)
		}
	}
	status, stdout, _ := execute(t, "registrar", "status", "-o", "json", "--http", p.addr)
	var report host.Report
	if err := json.Unmarshal([]byte(stdout), &report); status != statusDone || err != nil || report.Hostname != "h1" {
		t.Errorf("status %d, %v: %s", status, err, stdout)
	}
	status, _, stderr := execute(t, "members", "--http", p.addr)
	if status != statusFailed || !strings.Contains(stderr, "what answers at "+p.addr+" is no agent: it serves another API") {
		t.Errorf("of an agent: status %d, %s", status, stderr)
	}
	agent := agentServer(t, map[string]string{})
	if status, _, _ := execute(t, "registrar", "status", "--http", agent); status != statusFailed {
		t.Errorf("an agent is taken for a registrar: status %d", status)
	}

	// Who asks for an agent where there is a registrar alone is told of it.
	usual, absent := [2]string{agentService.usual, registrarService.usual}, testAddrs(t, 1)[0]
	t.Cleanup(func() { agentService.usual, registrarService.usual = usual[0], usual[1] })
	agentService.usual, registrarService.usual = absent, p.addr
	status, _, stderr = execute(t, "status")
	if status != statusFailed || !strings.Contains(stderr, "a registrar answers at "+p.addr+": ask it with muster registrar status") {
		t.Errorf("without an agent: status %d, %s", status, stderr)
	}

	// The doctor finds it, too.
	file := writeFile(t, "registrar.yaml", text+"http: {addr: \""+p.addr+"\"}\n")
	if _, stdout, _ := execute(t, "doctor", "-c", file); !strings.Contains(stdout, "it runs and is ready: 2 services") {
		t.Errorf("%s", stdout)
	}
	_, stdout, _ = execute(t, "doctor", "-c", file, "--registrar-hostname", "h2")
	if !strings.Contains(stdout, "is held by the registrar of host h1") {
		t.Errorf("of another host: %s", stdout)
	}
	p.end(syscall.SIGTERM)
	if status, _, stderr := execute(t, "registrar", "status", "--http", p.addr); status != statusFailed || !strings.Contains(stderr, "no registrar answers at "+p.addr) {
		t.Errorf("of one that has ended: status %d, %s", status, stderr)
	}
}

// fields are the lines of text, with single spaces.
func fields(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}
