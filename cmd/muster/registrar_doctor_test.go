//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/agent/doctor"
	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/testserver"
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
		case path == "/events":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
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

// A proxy before the engine's socket may let through just what a registrar asks for, or less.
// The doctor says what the registrar will find.
func TestDoctorBehindAProxyOfTheSocket(t *testing.T) {
	t.Parallel()
	e := testdocker.Require(t)
	server := testserver.StartEtcd(t)
	container := e.Run(testdocker.Options{Image: e.Build("github.com/musterhq/muster/internal/testing/images/whereami"), Flags: []string{"-p", "0:7946"}, Labels: map[string]string{"SERVICE_NAME": "behind"}}, "wait")
	one := "/containers/" + container.ID + "/json"
	is := func(path, kind string) bool {
		switch kind {
		case "/containers/*/json":
			return strings.HasPrefix(path, "/containers/") && path != "/containers/json"
		case "/networks/*":
			return strings.HasPrefix(path, "/networks/")
		}
		return path == kind
	}
	for _, tt := range []struct {
		name   string
		closed []string
		fails  []string // parts of the detail and the hint
	}{
		{name: "nothing is closed"},
		{name: "what a registrar does not need", closed: []string{"/info"}},
		{name: "what it can do without", closed: []string{"/info", "/networks/*"}},
		{name: "the events", closed: []string{"/events"}, fails: []string{"status 403 for /events", "let GET /events through the proxy before the engine (EVENTS=1 of docker-socket-proxy)"}},
		{name: "the list", closed: []string{"/containers/json"}, fails: []string{"/containers/json", "let GET /containers/json through"}},
		{name: "a container", closed: []string{"/containers/*/json"}, fails: []string{"/containers/*/json", "let GET /containers/*/json through"}},
		{name: "the greeting", closed: []string{"/_ping"}, fails: []string{"let GET /_ping through"}},
		{name: "several", closed: []string{"/events", "/info", "/containers/json", "/containers/*/json"}, fails: []string{"/events", "let GET /events through", "let GET /containers/json through", "let GET /containers/*/json through"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked sync.Map
			proxy := e.Proxy(func(path string) bool {
				asked.Store(path, true)
				return !slices.ContainsFunc(tt.closed, func(kind string) bool { return is(path, kind) })
			})
			f := consult(t, map[string]any{
				"provider":  map[string]any{"etcd": map[string]any{"endpoints": []string{server.Endpoint()}}},
				"registrar": map[string]any{"hostname": "h1", "ip": "10.0.0.5"},
				"docker":    map[string]any{"host": proxy},
				"http":      map[string]any{"addr": testAddrs(t, 1)[0]},
			})
			if tt.fails == nil {
				f.want(t, "docker", doctor.OK, proxy+" answers", "to be registered")
				f.want(t, "provider.etcd.register", doctor.OK, "behind")
				for _, path := range []string{"/_ping", "/events", "/containers/json", one} {
					if _, ok := asked.Load(path); !ok {
						t.Errorf("the doctor has not asked for %s, as a registrar does", path)
					}
				}
				return
			}
			f.want(t, "docker", doctor.Fail, tt.fails...)
			for _, path := range []string{"/info", "/networks"} {
				if strings.Contains(f["docker"].Hint, path) {
					t.Errorf("%+v names %s, which is not needed", f["docker"], path)
				}
			}
		})
	}
}

// A node asks the engine for its own container, and does without the rest.
func TestDoctorInAContainerBehindAProxyOfTheSocket(t *testing.T) {
	t.Parallel()
	testdocker.Require(t)
	for closed, want := range map[string]string{
		"/info":       "engine at PROXY answers; this is its container",
		"/events":     "engine 2", // its version
		"/containers": "let GET /containers/*/json through the proxy before the engine (CONTAINERS=1",
	} {
		t.Run(closed, func(t *testing.T) {
			e := testdocker.Require(t)
			proxy := e.Proxy(func(path string) bool { return !strings.HasPrefix(path, closed) })
			addrs := testAddrs(t, 2)
			c := e.Run(testdocker.Options{Image: e.Build("."), Flags: []string{"--network", "host"}, Env: []string{
				"MUSTER_CLUSTER=orders", "MUSTER_NODE_ID=a", "MUSTER_NODE_DATA_DIR=/tmp/muster", "MUSTER_HTTP_ADDR=" + addrs[0], "MUSTER_NODE_BIND=" + addrs[1],
				"MUSTER_PROVIDER_STATIC_PEERS=" + addrs[1], "MUSTER_DOCKER_HOST=" + proxy}}, "doctor")
			c.Wait()
			if log := c.Log(); !strings.Contains(log, strings.ReplaceAll(want, "PROXY", proxy)) {
				t.Errorf("%s\nwant %s", log, want)
			}
		})
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
		status, stdout, stderr := execute(t, append(args, "--agent", p.addr)...)
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
	status, stdout, _ := execute(t, "registrar", "status", "-o", "json", "--agent", p.addr)
	var report host.Report
	if err := json.Unmarshal([]byte(stdout), &report); status != statusDone || err != nil || report.Hostname != "h1" {
		t.Errorf("status %d, %v: %s", status, err, stdout)
	}
	status, _, stderr := execute(t, "members", "--agent", p.addr)
	if status != statusFailed || !strings.Contains(stderr, "what answers at "+p.addr+" (of --agent) is no agent: it serves another API") {
		t.Errorf("of an agent: status %d, %s", status, stderr)
	}
	agent := agentServer(t, map[string]string{})
	if status, _, _ := execute(t, "registrar", "status", "--agent", agent); status != statusFailed {
		t.Errorf("an agent is taken for a registrar: status %d", status)
	}

	// Who asks for an agent where there is a registrar alone is told so.
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
	if status, _, stderr := execute(t, "registrar", "status", "--agent", p.addr); status != statusFailed || !strings.Contains(stderr, "no registrar answers at "+p.addr) {
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

// An address behind which are several servers with separate state is named.
func TestDoctorFindsSeveralServers(t *testing.T) {
	t.Parallel()
	with := func(provider map[string]any) findings {
		return consult(t, map[string]any{
			"provider":  provider,
			"registrar": map[string]any{"ip": "10.0.0.5", "containers": false},
			"services":  []map[string]any{{"name": "db", "address": ":5432"}},
			"http":      map[string]any{"addr": testAddrs(t, 1)[0]},
		})
	}
	several := "several servers with separate state answer"
	etcds := []*testserver.Etcd{testserver.StartEtcd(t), testserver.StartEtcd(t)}
	f := with(map[string]any{"etcd": map[string]any{"endpoints": []string{etcds[0].Endpoint(), etcds[1].Endpoint()}}})
	f.want(t, "provider.etcd.servers", doctor.Warn, several, etcds[0].Endpoint(), etcds[1].Endpoint(), "those of one cluster alone, in provider.etcd")
	f = with(map[string]any{"etcd": map[string]any{"endpoints": []string{etcds[0].Endpoint()}}})
	if found, there := f["provider.etcd.servers"]; there {
		t.Errorf("of one cluster it says %+v", found)
	}

	consuls := []*testserver.Consul{testserver.StartConsul(t), testserver.StartConsul(t)}
	balancer := takeTurns(t, consuls[0].Addr(), consuls[1].Addr())
	f = with(map[string]any{"consul": map[string]any{"address": balancer}})
	f.want(t, "provider.consul.servers", doctor.Warn, several, consuls[0].Name(), consuls[1].Name(), "no balancer")
	f = with(map[string]any{"consul": map[string]any{"address": balancer, "mode": "catalog"}})
	if found, there := f["provider.consul.servers"]; there {
		t.Errorf("of mode catalog it says %+v", found)
	}
}

// takeTurns gives each connection to the next of its targets, as a balancer does.
func takeTurns(t *testing.T, targets ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", targets[n%len(targets)])
			if err != nil {
				conn.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{conn, to}, {to, conn}} {
				go func() {
					io.Copy(way[0], way[1])
					conn.Close()
					to.Close()
				}()
			}
		}
	}()
	return l.Addr().String()
}

// Names that DNS does not hold are reported before anything is registered, and so are those that
// no provider takes.
func TestDoctorOfNames(t *testing.T) {
	server := testserver.StartEtcd(t)
	container := func(id, env string) string {
		return fmt.Sprintf(`{"Id":%q,"Name":"/%s","Config":{"Env":[%q]},"State":{"Running":true},"NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8000"}]}}}`, id, id, env)
	}
	with := func(provider map[string]any, services []map[string]any, containers map[string]string) findings {
		t.Helper()
		return consult(t, map[string]any{
			"provider":  map[string]any{"etcd": provider},
			"registrar": map[string]any{"hostname": "h1", "ip": "10.0.0.5"},
			"services":  services,
			"docker":    map[string]any{"host": engineOf(t, containers)},
			"http":      map[string]any{"addr": testAddrs(t, 1)[0]},
		})
	}
	etcd, dns := map[string]any{"endpoints": []string{server.Endpoint()}}, map[string]any{"endpoints": []string{server.Endpoint()}, "format": "skydns"}
	well := map[string]string{"c1": container("c1", "SERVICE_NAME=shop")}
	upper := map[string]string{"c1": container("c1", "SERVICE_NAME=Shop_API"), "c2": container("c2", "SERVICE_NAME=Shop_Admin")}

	f := with(dns, nil, upper)
	f.want(t, "provider.etcd.readers", doctor.Warn, "not all readers would find 2 instances, as: CoreDNS and SkyDNS do not find service \"Shop_", "name it with lower-case letters")
	f = with(dns, []map[string]any{{"name": "My-DB", "address": ":5432"}}, well)
	f.want(t, "provider.etcd.readers", doctor.Warn, "1 instance, as: ", "My-DB")
	for _, f := range []findings{with(etcd, nil, upper), with(dns, nil, well)} {
		if found, there := f["provider.etcd.readers"]; there {
			t.Errorf("all would be found, and it says %+v", found)
		}
		f.want(t, "docker", doctor.OK)
	}

	f = with(etcd, nil, map[string]string{"c1": container("c1", "SERVICE_NAME=my shop"), "c2": container("c2", "SERVICE_NAME=shop")})
	f.want(t, "docker", doctor.Warn, "2 containers", "1 are refused, as: ", "my shop")
}

// No proxy of the environment is used. Where a provider is not reached the doctor says so, and
// names the one that other programs of the host go through.
func TestDoctorNamesTheProxyThatIsNotUsed(t *testing.T) {
	closed := testAddrs(t, 2)
	for name, provider := range map[string]map[string]any{
		"etcd":   {"endpoints": []string{"http://" + closed[0]}},
		"consul": {"address": closed[0]},
	} {
		for _, variable := range []string{"HTTPS_PROXY", "http_proxy", "ALL_PROXY"} {
			t.Run(name+" "+variable, func(t *testing.T) {
				for _, other := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
					t.Setenv(other, "")
				}
				look := func() findings {
					return consult(t, map[string]any{
						"provider":  map[string]any{name: provider},
						"registrar": map[string]any{"ip": "10.0.0.5", "containers": false},
						"services":  []map[string]any{{"name": "db", "address": ":5432"}},
						"http":      map[string]any{"addr": closed[1]},
					}, "--timeout", "3s")
				}
				if f := look()["provider."+name+".read"]; f.Status != doctor.Fail || strings.Contains(fmt.Sprint(f), "proxy") {
					t.Errorf("without a proxy: %+v", f)
				}
				t.Setenv(variable, "http://bob:hunter2@proxy.example:3128")
				f := look()
				f.want(t, "provider."+name+".read", doctor.Fail, closed[0], "the proxy proxy.example:3128 of "+variable+" is not used")
				if found := f["provider."+name+".read"]; strings.Contains(fmt.Sprint(found), "hunter2") || strings.Contains(found.Detail, "proxy.example") {
					t.Errorf("%+v", found)
				}
			})
		}
	}
}
