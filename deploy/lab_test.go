//go:build unix

package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
)

func TestMain(m *testing.M) { os.Exit(testserver.Main(testdocker.Main(m)).Run()) }

// lab is a cluster of containers over a real registry.
type lab struct {
	t        *testing.T
	engine   *testdocker.Engine
	image    string
	cluster  string
	group    string // of the engine's socket
	provider string // the variable that tells a container of the registry
	registry driver.Driver
}

var image struct {
	once sync.Once
	name string
}

// buildImage builds the image that is released once for all tests.
func buildImage(t *testing.T, e *testdocker.Engine) string {
	t.Helper()
	image.once.Do(func() {
		dir := t.TempDir()
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "muster"), "../cmd/muster")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+e.Arch(), "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		image.name = e.LoadImage(func(path, name string, labels []string) {
			args := append([]string{"run", "-C", "../tools/release", "./mkimage", "-program", filepath.Join(dir, "muster"),
				"-arch", e.Arch(), "-name", name, "-o", path}, labels...)
			if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
				t.Fatalf("mkimage: %v\n%s", err, out)
			}
		})
	})
	if image.name == "" {
		t.Fatal("the image could not be built")
	}
	return image.name
}

// newLab starts the registry, which is etcd or consul, and no node.
func newLab(t *testing.T, provider string) *lab {
	t.Helper()
	e := testdocker.Require(t)
	name := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	l := &lab{t: t, engine: e, image: buildImage(t, e), cluster: name, group: socketGroup(t)}
	reached := func(addr string) string { return forward(t, net.JoinHostPort(e.Gateway(e.Network()), "0"), addr) }
	var err error
	if provider == "consul" {
		server := testserver.SharedConsul(t)
		l.provider = "MUSTER_PROVIDER_CONSUL_ADDRESS=" + reached(server.Addr())
		l.registry, err = consul.New(consul.Config{Address: server.Addr(), HealthyOnly: true})
	} else {
		server := testserver.SharedEtcd(t)
		l.provider = "MUSTER_PROVIDER_ETCD_ENDPOINTS=http://" + reached(server.Addr())
		l.registry, err = etcd.New(etcd.Config{Endpoints: []string{server.Endpoint()}})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.registry.Close() })
	return l
}

// forward has an address of this host that containers reach lead to another.
func forward(t *testing.T, from, to string) string {
	t.Helper()
	listener, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					defer way[0].Close()
					defer way[1].Close()
					_, _ = io.Copy(way[0], way[1])
				}()
			}
		}
	}()
	return listener.Addr().String()
}

// socketGroup is the group that may use the engine's socket.
func socketGroup(t *testing.T) string {
	t.Helper()
	path := "/var/run/docker.sock"
	if named, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		path = named
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Gid), 10)
}

// options are those of a node's container.
func (l *lab) options(name string, flags ...string) testdocker.Options {
	return testdocker.Options{
		Image: l.image, Socket: true, Flags: append(flags, "--group-add", l.group),
		Env: []string{
			"MUSTER_CLUSTER=" + l.cluster, "MUSTER_NODE_ID=" + name, l.provider,
			"MUSTER_BOOTSTRAP_EXPECT=3", "MUSTER_MASTERSHIP_TTL=2s",
		},
	}
}

// node starts one.
func (l *lab) node(name string, flags ...string) *testdocker.Container {
	l.t.Helper()
	return l.engine.Run(l.options(name, flags...))
}

// muster runs the program in a container, and reads the JSON that it prints.
func muster(c *testdocker.Container, value any, args ...string) error {
	out, err := exec.Command("docker", append([]string{"exec", c.ID, "/muster"}, append(args, "-o", "json")...)...).Output()
	if len(out) == 0 && err != nil {
		return fmt.Errorf("muster %s: %w", strings.Join(args, " "), err)
	}
	return json.Unmarshal(out, value)
}

// agree waits until the nodes see one another and nobody else, at the addresses that
// are wanted, and name one master of a term above. It returns that.
func (l *lab) agree(above uint64, nodes map[*testdocker.Container]string) httpapi.Master {
	l.t.Helper()
	var master httpapi.Master
	wait.NoError(l.t, func() error {
		master = httpapi.Master{}
		want := map[string]bool{}
		for _, addr := range nodes {
			want[addr] = true
		}
		for c := range nodes {
			var members []httpapi.Member
			if err := muster(c, &members, "members"); err != nil {
				return err
			}
			var seen []string
			for _, m := range members {
				if want[m.Addr] && m.State == "alive" {
					seen = append(seen, m.Addr)
				}
			}
			if len(seen) != len(nodes) || len(members) != len(nodes) {
				return fmt.Errorf("container %s sees %+v, want %v", c.Name, members, want)
			}
			var m httpapi.Master
			if err := muster(c, &m, "master"); err != nil {
				return err
			}
			if m.Term <= above || master.InstanceID != "" && m.InstanceID != master.InstanceID {
				return fmt.Errorf("container %s knows as master %+v, another %+v", c.Name, m, master)
			}
			master = m
		}
		return nil
	})
	return master
}

// registered waits until these addresses and no others stand in the registry.
func (l *lab) registered(nodes map[*testdocker.Container]string) {
	l.t.Helper()
	wait.NoError(l.t, func() error {
		want := map[string]bool{}
		for _, addr := range nodes {
			want[addr] = true
		}
		instances, err := l.instances()
		if err != nil {
			return err
		}
		for _, addr := range instances {
			if !want[addr] {
				return fmt.Errorf("%s is registered, want %v", addr, want)
			}
		}
		if len(instances) != len(nodes) {
			return fmt.Errorf("registered are %v, want %v", instances, want)
		}
		return nil
	})
}

// hostPort is the port of the host that leads to that of a node.
func hostPort(c *testdocker.Container) string {
	_, port, _ := net.SplitHostPort(c.Port("7946/tcp"))
	return port
}
