//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/agent/doctor"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/node"
)

// patient is a configuration of a node on loopback, on ports that are free.
func patient(t testing.TB, change map[string]any) map[string]any {
	t.Helper()
	addrs, err := freeAddrs(2)
	if err != nil {
		t.Fatal(err)
	}
	c := map[string]any{
		"cluster":  "orders",
		"node":     map[string]any{"id": "n1", "bind": addrs[0], "data_dir": filepath.Join(t.TempDir(), "data")},
		"http":     map[string]any{"addr": addrs[1]},
		"provider": map[string]any{"static": map[string]any{"peers": []string{addrs[0]}}},
	}
	for key, value := range change {
		c[key] = value
	}
	return c
}

// findings are those of one examination, by check.
type findings map[string]doctor.Finding

// consult runs the command on a configuration and returns what it prints as JSON. The
// status must be 1 just where something has failed.
func consult(t testing.TB, config map[string]any, flags ...string) findings {
	t.Helper()
	text, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := execute(t, append([]string{"doctor", "-o", "json", "-c", writeFile(t, "muster.yaml", string(text))}, flags...)...)
	var all []doctor.Finding
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	found, want := findings{}, statusDone
	for _, f := range all {
		if f.Status == doctor.Fail {
			want = statusFailed
		}
		if f.Detail == "" || (f.Hint == "") != (f.Status == doctor.OK) || strings.ContainsAny(f.Detail+f.Hint, "\n") {
			t.Errorf("a finding without a detail or a hint, or on several lines: %+v", f)
		}
		found[f.Check] = f
	}
	if status != want || (stderr != "") != (want == statusFailed) {
		t.Errorf("status %d, want %d; stderr %q", status, want, stderr)
	}
	if t.Failed() {
		t.Log(stdout)
	}
	return found
}

// want checks a finding.
func (f findings) want(t testing.TB, check string, status doctor.Status, in ...string) {
	t.Helper()
	got := f[check]
	for _, text := range in {
		if !strings.Contains(got.Detail+"\n"+got.Hint, text) {
			t.Errorf("%s: %+v, want %q", check, got, text)
		}
	}
	if got.Status != status {
		t.Errorf("%s: %+v, want %s", check, got, status)
	}
}

// wantNoFailure allows for warnings alone.
func (f findings) wantNoFailure(t testing.TB) {
	t.Helper()
	for _, one := range f {
		if one.Status == doctor.Fail {
			t.Errorf("%+v", one)
		}
	}
}

// A node that is none of the listed voters is told so: it would run, and never be master.
func TestDoctorOfANodeThatIsNotListed(t *testing.T) {
	t.Parallel()
	others, err := freeAddrs(2)
	if err != nil {
		t.Fatal(err)
	}
	list := func(peers ...string) map[string]any {
		return map[string]any{"provider": map[string]any{"static": map[string]any{"peers": peers}}}
	}
	f := consult(t, patient(t, list(others...)))
	f.want(t, "cluster.self", doctor.Warn, "none of the 2 voters that provider static lists", "add it to provider.static", "node.voter")

	silent := func(c map[string]any) {
		t.Helper()
		if f := consult(t, c); f["cluster.self"].Check != "" {
			t.Errorf("%+v", f["cluster.self"])
		}
	}
	silent(patient(t, nil))
	silent(patient(t, list(others[0], "node-2.invalid:7946"))) // which may be its own name
	observer := patient(t, list(others...))
	observer["mastership"] = map[string]any{"eligible": false}
	silent(observer)
	voter := patient(t, list(others...))
	voter["node"].(map[string]any)["voter"] = others[1]
	silent(voter)
}

// The programs of jobs are looked for, where there are jobs.
func TestDoctorOfJobs(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	job := func(name, program string) map[string]any {
		return map[string]any{"name": name, "command": []string{program}}
	}
	if f := consult(t, patient(t, nil)); f["jobs"].Check != "" {
		t.Errorf("without jobs: %+v", f["jobs"])
	}
	consult(t, patient(t, map[string]any{"jobs": []any{job("a", self)}})).want(t, "jobs", doctor.OK, "1 job")
	gone := patient(t, map[string]any{"jobs": []any{job("a", self), job("b", "/nonexistent/report")}})
	consult(t, gone).want(t, "jobs", doctor.Warn, "jobs[1].command", "/nonexistent/report", "cannot be executed here")

	text, err := yaml.Marshal(gone)
	if err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := execute(t, "config", "check", "-c", writeFile(t, "muster.yaml", string(text)))
	if status != statusDone || stdout != "ok\n" || strings.Count(stderr, "muster: note: ") != 1 || !strings.Contains(stderr, "/nonexistent/report") {
		t.Errorf("config check: status %d: %s%s", status, stdout, stderr)
	}
}

func TestDoctorBeforeTheFirstStart(t *testing.T) {
	c := patient(t, nil)
	bind := c["node"].(map[string]any)["bind"].(string)
	f := consult(t, c)
	f.wantNoFailure(t)
	f.want(t, "configuration", doctor.OK, "cluster orders, node n1, static")
	f.want(t, "provider.static.read", doctor.OK, "1 instance of orders")
	f.want(t, "provider.static.register", doctor.OK, "takes no registrations")
	f.want(t, "data_dir", doctor.OK, "is to be made in")
	f.want(t, "agent", doctor.OK, "none runs here")
	f.want(t, "port", doctor.OK, "can be listened on")
	f.want(t, "address.env", doctor.OK, "not applicable")
	f.want(t, "address.bind", doctor.OK, bind)
	f.want(t, "address", doctor.OK, bind+" (bound to loopback 127.0.0.1)")
	f.want(t, "reach", doctor.OK, bind+" leads back")
	f.want(t, "cluster", doctor.OK, "1 instance of orders listed")
	f.want(t, "certificates", doctor.OK)
	f.want(t, "clock", doctor.OK)
}

func TestDoctorBesideAgents(t *testing.T) {
	t.Parallel()
	// The master is to be the same for as long as the doctor takes, on a loaded machine too.
	c := newTestCluster(t, 2, func(peers []string) map[string]any {
		config := staticProvider(peers)
		config["mastership"] = map[string]any{"ttl": "15s"}
		return config
	})
	c.start(c.agents...)
	agent := c.agents[0]
	master := c.waitMaster(0, 2, c.agents...)
	c.eventually("it is ready", func(ctx context.Context) bool {
		s, err := c.status(ctx, agent)
		return err == nil && s.Ready && s.Advertise.Reach.State == "reachable"
	})
	named := fmt.Sprintf("node %s at %s, term %d; the agent sees 2 members", master.NodeID, master.Addr, master.Term)
	var status int
	var stdout, stderr string
	c.eventually("it names the master", func(context.Context) bool { // which it may not know yet
		status, stdout, stderr = execute(t, "doctor", "-c", agent.config)
		return strings.Contains(stdout, named)
	})
	if status != statusDone || stderr != "" {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	for _, want := range []string{
		"the agent of node node-1 of cluster demo runs and is ready",
		"node.bind " + agent.nodeAddr + " is held by the agent of this node",
		"node node-2 has reached the agent at " + agent.nodeAddr,
		"2 instances of demo listed, 1 answered beside this one",
		named,
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("it does not say %q:\n%s", want, stdout)
		}
	}

	// With the id of a node that runs, with its ports, and without TLS on one side.
	p := patient(t, map[string]any{"cluster": "demo", "provider": staticProvider([]string{c.agents[0].nodeAddr, c.agents[1].nodeAddr})["provider"]})
	node := p["node"].(map[string]any)
	node["id"] = "node-2"
	consult(t, p).want(t, "cluster", doctor.Fail, "another process with node.id node-2 runs at "+c.agents[1].nodeAddr)
	node["id"], node["bind"] = "node-3", agent.nodeAddr
	consult(t, p).want(t, "port", doctor.Fail, "address already in use", "stop the program that has it")
	p["http"] = map[string]any{"addr": agent.httpAddr}
	consult(t, p).want(t, "agent", doctor.Fail, "is held by the agent of node node-1 of cluster demo")
	p = patient(t, map[string]any{"provider": p["provider"]})
	consult(t, p).want(t, "cluster", doctor.Fail, "it belongs to another cluster")
	c.stopAll()
}

// What is written is gone afterwards, and a registration never stood.
func TestDoctorOverEtcd(t *testing.T) {
	t.Parallel()
	server := testserver.StartEtcd(t, testserver.WithAuth())
	server.AddUser("muster", "secret", "/muster/")
	server.AddUser("reader", "secret", "/elsewhere/")
	ctx := t.Context()
	if _, err := server.Client().RoleGrantPermission(ctx, "reader", "/muster/", clientv3.GetPrefixRangeEnd("/muster/"), clientv3.PermissionType(clientv3.PermRead)); err != nil {
		t.Fatal(err)
	}
	var seen []string
	watch := server.Client().Watch(ctx, "/", clientv3.WithPrefix())
	as := func(user, password string) map[string]any {
		return patient(t, map[string]any{"provider": map[string]any{"etcd": map[string]any{"endpoints": []string{server.Endpoint()}, "username": user, "password": password}}})
	}
	f := consult(t, as("muster", "secret"))
	f.wantNoFailure(t)
	f.want(t, "provider.etcd.read", doctor.OK, "endpoints "+server.Endpoint())
	f.want(t, "provider.etcd.register", doctor.OK)
	f.want(t, "provider.etcd.mastership", doctor.OK, "may become master; a record can be written, read and deleted")
	f.want(t, "clock.wall", doctor.OK, "as that of etcd at "+server.Endpoint())
	f.want(t, "cluster", doctor.OK, "this node would be the first")
	for len(seen) < 2 {
		for _, e := range (<-watch).Events {
			seen = append(seen, e.Type.String()+" "+string(e.Kv.Key))
		}
	}
	for i, what := range []string{"PUT", "DELETE"} {
		if !strings.HasPrefix(seen[i], what+" /muster/v1/records/orders/doctor-") {
			t.Errorf("it did %v", seen)
		}
	}
	left, err := server.Client().Get(ctx, "/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || left.Count != 0 {
		t.Errorf("%d keys are left, %v", left.Count, err)
	}
	leases, err := server.Client().Leases(ctx)
	if err != nil || len(leases.Leases) != 0 {
		t.Errorf("%d leases are left, %v", len(leases.Leases), err)
	}

	const grant = "etcdctl role grant-permission ROLE --prefix=true readwrite /muster/"
	f = consult(t, as("reader", "secret"))
	f.want(t, "provider.etcd.read", doctor.OK)
	f.want(t, "provider.etcd.register", doctor.Fail, "denied", grant)
	f.want(t, "provider.etcd.mastership", doctor.Fail, "denied", grant)
	f = consult(t, as("muster", "wrong"))
	f.want(t, "provider.etcd.read", doctor.Fail, "denied", grant)
}

func TestDoctorOverConsul(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t, testserver.WithACL())
	as := func(rules string) map[string]any {
		return patient(t, map[string]any{"provider": map[string]any{"consul": map[string]any{"address": server.Addr(), "token": server.AddToken(rules)}}})
	}
	// That of the README.
	f := consult(t, as(`service "orders" { policy = "write" } node_prefix "" { policy = "read" } key_prefix "muster/" { policy = "write" }`))
	f.wantNoFailure(t)
	f.want(t, "provider.consul.register", doctor.OK)
	f.want(t, "provider.consul.mastership", doctor.OK, "may become master; a record can be written, read and deleted")
	f.want(t, "clock.wall", doctor.OK, "as that of consul at "+server.Addr())
	f = consult(t, as(`service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } key_prefix "" { policy = "read" }`))
	f.want(t, "provider.consul.read", doctor.OK)
	f.want(t, "provider.consul.register", doctor.Fail, "denied", `service "orders"`, "providers/consul/README.md")
	f.want(t, "provider.consul.mastership", doctor.Fail, "denied", `key_prefix "muster/"`)
	f = consult(t, as(`service "orders" { policy = "write" } node_prefix "" { policy = "read" } key_prefix "muster/" { policy = "read" }`))
	f.want(t, "provider.consul.register", doctor.OK)
	f.want(t, "provider.consul.mastership", doctor.Fail, "denied", `key_prefix "muster/"`)
	keys, _, err := server.Client().KV().Keys("", "", nil)
	if err != nil || len(keys) != 0 {
		t.Errorf("left are the keys %v, %v", keys, err)
	}
	sessions, _, err := server.Client().Session().List(nil)
	if err != nil || len(sessions) != 0 {
		t.Errorf("left are the sessions %v, %v", sessions, err)
	}
	services, _, err := server.Client().Catalog().Services(nil)
	if err != nil || len(services) != 1 {
		t.Errorf("left are the services %v, %v", services, err)
	}
}

func TestDoctorFindsTheWrongAddress(t *testing.T) {
	nobody, err := freeAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	p := patient(t, nil)
	p["node"].(map[string]any)["advertise"] = nobody[0]
	f := consult(t, p)
	f.want(t, "address", doctor.OK, nobody[0]+" (configured)")
	f.want(t, "reach", doctor.Fail, nobody[0]+" does not lead back to this host: connection refused", "publish the port or set node.advertise")

	t.Setenv("MUSTER_ADVERTISE_ADDR", "no.such.host.invalid:7946")
	f = consult(t, patient(t, nil))
	f.want(t, "address.env", doctor.Warn)
	f.want(t, "address", doctor.Fail, "no.such.host.invalid")
	f.want(t, "reach", doctor.Warn, "not checked: there is no address")
}

// A provider that is down, and one that takes connections and says nothing.
func TestDoctorIsBounded(t *testing.T) {
	t.Parallel()
	nobody, err := freeAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, addr := range []string{nobody[0], silent.Addr().String()} {
		for name, section := range map[string]map[string]any{"etcd": {"endpoints": []string{"http://" + addr}}, "consul": {"address": addr}} {
			began := time.Now()
			f := consult(t, patient(t, map[string]any{"provider": map[string]any{name: section}}), "--timeout", "2s")
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("%s at %s: it took %v", name, addr, took)
			}
			f.want(t, "provider."+name+".read", doctor.Fail, addr, "correct its address in provider."+name)
			f.want(t, "provider."+name+".register", doctor.Warn, "not checked")
			f.want(t, "cluster", doctor.Warn, "not checked")
		}
	}
}

func TestDoctorReadsCertificates(t *testing.T) {
	ca := testserver.NewCA(t)
	cert, key := ca.Issue(t, "n1", testserver.PKCS8)
	section := map[string]any{"ca_file": ca.CAFile, "cert_file": cert, "key_file": key}
	f := consult(t, patient(t, map[string]any{"tls": section}))
	f.wantNoFailure(t)
	f.want(t, "certificates.tls", doctor.Warn, "ends within 30 days", "renewed") // those of tests last a day
	f.want(t, "certificates.tls.names", doctor.OK, "others look for 127.0.0.1")
	f.want(t, "reach", doctor.OK)

	foreign, foreignKey := testserver.NewCA(t).Issue(t, "n1", testserver.PKCS8)
	section["cert_file"], section["key_file"] = foreign, foreignKey
	f = consult(t, patient(t, map[string]any{"tls": section}))
	f.want(t, "certificates.tls.names", doctor.Fail, "unknown authority")
	f.want(t, "reach", doctor.Fail)
}

// Names that certificates do not have are reported with those that they have, and nobody is
// sent to publish a port or to hint the listing of another node.
func TestDoctorFindsCertificatesForOtherHosts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, args := range [][]string{{"ca"}, {"cert", "n1", "--host", "10.0.0.5"}, {"cert", "n2", "--host", "10.0.0.6"}} {
		if status, _, stderr := execute(t, append(append([]string{"tls"}, args...), "--dir", dir)...); status != statusDone {
			t.Fatal(stderr)
		}
	}
	files := func(name string) map[string]any {
		return map[string]any{"ca_file": filepath.Join(dir, "ca.pem"), "cert_file": filepath.Join(dir, name+".pem"), "key_file": filepath.Join(dir, name+"-key.pem")}
	}
	other := patient(t, map[string]any{"tls": files("n2")})
	otherAddr := other["node"].(map[string]any)["bind"].(string)
	text, err := yaml.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Options{Path: writeFile(t, "other.yaml", string(text)), Env: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	there := node.NewPreflight(node.Config{Cluster: cfg.Cluster, NodeID: "n2", Bind: otherAddr, TLS: cfg.TLS.Config})
	defer there.Close()
	if err := there.Open(); err != nil {
		t.Fatal(err)
	}

	p := patient(t, map[string]any{"tls": files("n1")})
	own := p["node"].(map[string]any)["bind"].(string)
	p["provider"] = map[string]any{"static": map[string]any{"peers": []string{own, otherAddr}}}
	f := consult(t, p)
	f.want(t, "reach", doctor.Fail, own+" does not lead back to this host: refused: its certificate is for n1, 10.0.0.5, and not for 127.0.0.1, the host that was dialled", "have it issued for that as well")
	f.want(t, "certificates.tls.names", doctor.Fail, "is for n1, 10.0.0.5, and not for 127.0.0.1")
	f.want(t, "cluster", doctor.Fail, "2 instances of orders listed, 0 answered beside this one; "+otherAddr+": refused: its certificate is for n2, 10.0.0.6, and not for 127.0.0.1", "have it issued for that as well")
	if detail := f["cluster"].Detail; strings.Contains(detail, own) {
		t.Errorf("the node is a stranger to itself: %s", detail)
	}

	ca := testserver.NewCA(t)
	etcd, consul := testserver.StartEtcd(t, testserver.WithTLS(ca)), testserver.StartConsul(t, testserver.WithConsulTLS(ca))
	cert, key := ca.Issue(t, "client", testserver.PKCS8)
	foreign, foreignKey := testserver.NewCA(t).Issue(t, "client", testserver.PKCS8)
	for name, section := range map[string]map[string]any{"etcd": {"endpoints": []string{etcd.Endpoint()}}, "consul": {"address": "https://" + consul.Addr()}} {
		for _, c := range []struct {
			tls  map[string]any
			want []string
		}{
			{map[string]any{"ca_file": ca.CAFile, "cert_file": cert, "key_file": key, "server_name": "elsewhere"},
				[]string{"certificate is valid for ", "not elsewhere", "set provider." + name + ".tls.server_name"}},
			{map[string]any{"ca_file": filepath.Join(dir, "ca.pem"), "cert_file": cert, "key_file": key},
				[]string{"unknown authority", "in provider." + name + ".tls.ca_file"}},
			{map[string]any{"ca_file": ca.CAFile, "cert_file": foreign, "key_file": foreignKey},
				[]string{"remote error", "provider." + name + ".tls.cert_file"}},
		} {
			section["tls"] = c.tls
			consult(t, patient(t, map[string]any{"provider": map[string]any{name: section}}), "--timeout", "10s").want(t, "provider."+name+".read", doctor.Fail, c.want...)
		}
	}
}

// The agent is asked with the token and over the TLS of its own configuration.
func TestDoctorAsksAnAgentThatIsSecured(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	addrs := testAddrs(t, 2)
	cert, key := testserver.NewCA(t).Issue(t, "api", testserver.PKCS8)
	config := staticProvider(addrs[:1])
	config["http"] = map[string]any{"addr": addrs[1], "token": "a token of some length", "tls": map[string]any{"cert_file": cert, "key_file": key}}
	agent := c.add("node-1", addrs[0], addrs[1], config)
	c.start(agent)
	c.eventually("it has its ports, which the doctor would open otherwise", func(context.Context) bool {
		log, _ := os.ReadFile(agent.logFile)
		return strings.Contains(string(log), "agent ready to be asked")
	})
	c.eventually("it is ready", func(context.Context) bool {
		_, stdout, _ := execute(t, "doctor", "-c", agent.config)
		return strings.Contains(stdout, "the agent of node node-1 of cluster demo runs and is ready")
	})
	_, stdout, _ := execute(t, "doctor", "-c", agent.config)
	if !strings.Contains(stdout, "certificates.http") {
		t.Errorf("it does not look at the API's certificate:\n%s", stdout)
	}
	// Another certificate than that of the configuration gets no token.
	other, otherKey := testserver.NewCA(t).Issue(t, "api", testserver.PKCS8)
	status, stdout, _ := execute(t, "doctor", "-c", agent.config, "--http-tls-cert-file", other, "--http-tls-key-file", otherKey)
	if status != statusFailed || !strings.Contains(stdout, "it is not the one in "+other) {
		t.Errorf("status %d\n%s", status, stdout)
	}
	c.stopAll()
}

func TestDoctorOfAWrongConfiguration(t *testing.T) {
	f := consult(t, map[string]any{"cluster": "orders", "nod": "x", "provider": map[string]any{"static": map[string]any{"peers": []string{"10.0.0.5:7946"}}}})
	want := findings{
		"configuration": {Check: "configuration", Status: doctor.Fail, Hint: `did you mean "node"?`},
		"remaining":     {Check: "remaining", Status: doctor.Warn, Detail: "not checked: the configuration is wrong", Hint: "correct the configuration"},
	}
	got := f["configuration"]
	got.Detail = ""
	f["configuration"] = got
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
}
