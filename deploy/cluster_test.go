//go:build unix

package deploy_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/doctor"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar/host"
)

// instances are the addresses that stand in the registry.
func (l *lab) instances() (addrs []string, err error) {
	snapshot, err := l.registry.List(l.t.Context(), driver.Query{Service: l.cluster})
	if err != nil {
		return nil, err
	}
	for _, i := range snapshot.Instances {
		addrs = append(addrs, i.Addr)
	}
	return addrs, nil
}

// Three containers on networks of their own reach one another through ports of the
// host alone, which nobody has chosen. They are one cluster, survive the death of their
// master, and know those that come back at another port.
func TestClusterThroughMappedPorts(t *testing.T) {
	for _, provider := range []string{"etcd", "consul"} {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			testMappedPorts(t, provider)
		})
	}
}

func testMappedPorts(t *testing.T, provider string) {
	l := newLab(t, provider)
	nodes := map[*testdocker.Container]string{}
	network := map[*testdocker.Container]string{}
	byName := map[string]*testdocker.Container{}
	for _, name := range []string{"n1", "n2", "n3"} {
		own := l.engine.Network()
		c := l.node(name, "--network", own, "-p", "0:7946")
		byName[name], network[c] = c, own
		nodes[c] = net.JoinHostPort(l.engine.Gateway(own), hostPort(c))
	}
	first := l.agree(0, nodes)

	var found []doctor.Finding
	if err := muster(byName["n1"], &found, "doctor"); err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Status == doctor.Fail || (f.Check == "docker" || f.Check == "address.docker" || f.Check == "reach") && f.Status != doctor.OK {
			t.Errorf("muster doctor in a container: %+v", f)
		}
	}

	// The master dies.
	dead := byName[first.NodeID]
	dead.Kill()
	addr := nodes[dead]
	delete(nodes, dead)
	second := l.agree(first.Term, nodes)
	if second.NodeID == first.NodeID {
		t.Errorf("master is %+v, which was killed", second)
	}

	// It comes back at another port: its own is taken.
	again := func(c *testdocker.Container, addr string) {
		_, port, _ := net.SplitHostPort(addr)
		l.engine.Occupy(port, l.image, "discover", "--watch", "--cluster", "other", "--provider-static-peers", "127.0.0.1:1")
		c.Start()
		nodes[c] = net.JoinHostPort(l.engine.Gateway(network[c]), hostPort(c))
		if nodes[c] == addr {
			t.Errorf("container %s is at %s again", c.Name, addr)
		}
	}
	again(dead, addr)
	l.agree(second.Term-1, nodes)

	// Another leaves in good order and comes back in the same way. What it had registered is
	// gone with it, and what was left by the one that died after its TTL.
	for name, c := range byName {
		if name == first.NodeID || name == second.NodeID {
			continue
		}
		addr := nodes[c]
		c.Stop(20 * time.Second)
		if status := c.Inspect("{{.State.ExitCode}}"); status != "0" {
			t.Errorf("it ended with status %s", status)
		}
		if left, err := l.instances(); err != nil || strings.Contains(strings.Join(left, " "), addr) {
			t.Errorf("%s has left, and registered are %v, %v", addr, left, err)
		}
		again(c, addr)
	}
	l.agree(second.Term-1, nodes)
	l.registered(nodes)
}

// Containers in the network of the host, in two networks and in one form a cluster, too.
func TestClusterOfAllKindsOfNetworks(t *testing.T) {
	t.Parallel()
	l := newLab(t, "etcd")
	one, two, three := l.engine.Network(), l.engine.Network(), l.engine.Network()
	port, api := freePort(t), "127.0.0.1:"+freePort(t)
	onHost := l.node("host", "--network", "host", "-e", "MUSTER_NODE_BIND=0.0.0.0:"+port, "-e", "MUSTER_HTTP_ADDR="+api, "-e", "MUSTER_AGENT="+api)
	inOne := l.node("one", "--network", one, "-p", "0:7946")
	inTwo := l.engine.Create(l.options("two", "--network", two, "-p", "0:7946"))
	l.engine.Docker("network", "connect", three, inTwo.ID)
	inTwo.Start()
	var s httpapi.Status
	wait.NoError(t, func() error { return muster(onHost, &s, "status") })
	if winner := s.Advertise.Steps[len(s.Advertise.Steps)-1].Name; winner != "interface" || !strings.HasSuffix(s.Addr, ":"+port) {
		t.Errorf("in the network of the host it advertises %s, by %s", s.Addr, winner)
	}
	gateway := min(l.engine.Gateway(two), l.engine.Gateway(three))
	nodes := map[*testdocker.Container]string{
		onHost: s.Addr,
		inOne:  net.JoinHostPort(l.engine.Gateway(one), hostPort(inOne)),
		inTwo:  net.JoinHostPort(gateway, hostPort(inTwo)),
	}
	l.agree(0, nodes)
	l.registered(nodes)
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

// A container that nobody outside could reach does not become a ghost: it ends, and
// says how to fix that.
func TestContainerWithoutAMappingFailsClosed(t *testing.T) {
	t.Parallel()
	l := newLab(t, "etcd")
	for _, v := range []struct {
		name  string
		flags []string
		want  string
	}{
		{"not published", nil, "port 7946 of this container is not published; run it with -p 7946:7946"},
		{"published to this host alone", []string{"-p", "127.0.0.1:0:7946"}, "alone"},
		{"without the group of the socket", []string{"-p", "0:7946", "--user", "65532:1"}, "permission denied"},
	} {
		o := l.options("n1", v.flags...)
		if v.name == "without the group of the socket" {
			o.Flags = v.flags
		}
		c := l.engine.Run(o)
		status, log := c.Wait(), c.Log()
		if status != 1 || !strings.Contains(log, v.want) || !strings.Contains(log, "publish the port, write HOST:PORT or set MUSTER_ADVERTISE_ADDR") {
			t.Errorf("%s: status %d, want 1 and %q in\n%s", v.name, status, v.want, log)
		}
	}
	// Where all are in that network it is what is wanted.
	c := l.node("n1", "-e", "MUSTER_DETECT_REQUIRE_EXTERNAL=false")
	var s httpapi.Status
	wait.NoError(t, func() error { return muster(c, &s, "status") })
	if want := c.Inspect("{{.NetworkSettings.IPAddress}}") + ":7946"; s.Addr != want {
		t.Errorf("it advertises %s, want %s", s.Addr, want)
	}
}

// A node that has no socket finds its address by what a registrar on the host has
// registered of its container.
func TestNodeFindsItselfByTheRegistrar(t *testing.T) {
	t.Parallel()
	l := newLab(t, "etcd")
	network := l.engine.Network()
	gateway := l.engine.Gateway(network)
	o := l.options("registrar", "--no-healthcheck")
	o.Env = append(o.Env, "MUSTER_DETECT_HOST_IP="+gateway, "MUSTER_REGISTRAR_REQUIRE_LABEL=muster.test.lab="+l.cluster)
	registrar := l.engine.Run(o, "registrar")
	// A registrar takes only what is well, and this is not before it is registered.
	o = l.options("n1", "--health-start-period", "60s", "--network", network, "-p", "0:7946")
	o.Socket = false
	o.Labels = map[string]string{"muster.test.lab": l.cluster, "SERVICE_7946_NAME": l.cluster + "-ports", "SERVICE_7946_TAGS": "n1", "SERVICE_7946_PUBLISH_NOT_READY": "true"}
	o.Env = append(o.Env, "MUSTER_DETECT_REGISTRY_SERVICE="+l.cluster+"-ports", "MUSTER_DETECT_REGISTRY_TAG=n1", "MUSTER_BOOTSTRAP_EXPECT=1")
	c := l.engine.Run(o)
	l.agree(0, map[*testdocker.Container]string{c: net.JoinHostPort(gateway, hostPort(c))})
	var r host.Report
	if err := muster(registrar, &r, "registrar", "status"); err != nil || !r.Ready || len(r.Services) == 0 {
		t.Errorf("%v, %+v", err, r)
	}
	var s httpapi.Status
	if err := muster(c, &s, "status"); err != nil || s.Advertise.Steps[len(s.Advertise.Steps)-1].Name != "registry" {
		t.Errorf("%v; it was found by %+v", err, s.Advertise.Steps)
	}
}

// The image is small, runs as nobody, says how it is, and has room for the state of a voter.
func TestImage(t *testing.T) {
	t.Parallel()
	e := testdocker.Require(t)
	name := buildImage(t, e)
	size, err := strconv.ParseInt(e.Docker("image", "inspect", "--format", "{{.Size}}", name), 10, 64)
	if err != nil || size > 40<<20 {
		t.Errorf("it has %.1f MB, %v; want 40 at most", float64(size)/1e6, err)
	}
	t.Logf("the image has %.1f MB", float64(size)/1e6)
	if user := e.Docker("image", "inspect", "--format", "{{.Config.User}}", name); user != "65532:65532" {
		t.Errorf("it runs as %q", user)
	}
	c := e.Run(testdocker.Options{Image: name, Flags: []string{"--network", "none", "--health-interval", "1s", "--read-only", "--mount", "type=volume,dst=/var/lib/muster", "--cap-drop", "ALL"},
		Env: []string{"MUSTER_CLUSTER=orders", "MUSTER_NODE_ID=n1", "MUSTER_NODE_BIND=127.0.0.1:7946", "MUSTER_PROVIDER_STATIC_PEERS=127.0.0.1:7946"}})
	wait.NoError(t, func() error {
		var m httpapi.Master
		return muster(c, &m, "master") // which a voter is that can write
	})
	wait.NoError(t, func() error {
		if health := c.Inspect("{{.State.Health.Status}}"); health != "healthy" {
			return fmt.Errorf("its health is %s", health)
		}
		return nil
	})
	c.Stop(20 * time.Second)
	if status := c.Inspect("{{.State.ExitCode}}"); status != "0" {
		t.Errorf("it ended with status %s", status)
	}
}

// The compose file is one.
func TestComposeFile(t *testing.T) {
	for _, command := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if exec.Command(command[0], append(command[1:], "version")...).Run() != nil {
			continue
		}
		cmd := exec.Command(command[0], append(command[1:], "-f", "compose.yaml", "config")...)
		cmd.Env = append(os.Environ(), "HOST_NAME=one-of-many")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, file := range []string{"muster.yaml", "registrar.yaml"} {
			if want, _ := filepath.Abs(filepath.Join("compose", file)); !strings.Contains(string(out), want) {
				t.Errorf("it does not mount %s:\n%s", want, out)
			}
		}
		// Each host has a name of its own in what it registers.
		if name := regexp.MustCompile(`MUSTER_REGISTRAR_HOSTNAME: ['"]?one-of-many`); !name.Match(out) || strings.Contains(string(out), "docker-host") {
			t.Errorf("the registrar does not have the name of its host:\n%s", out)
		}
		return
	}
	t.Skip("neither docker compose nor docker-compose is there")
}
