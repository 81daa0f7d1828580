package host

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// The tests of this file run over a real engine and a real etcd.

const twoPorts = "github.com/musterhq/muster/internal/testing/images/twoports"

// real is a host with the engine of this machine, of which it registers the containers of
// this test alone, and an etcd.
type real struct {
	testing.TB
	*Registrar
	engine *testdocker.Engine
	reader *discovery.Registry
	label  string // which the containers need
}

func onRealHost(t testing.TB, engineHost string, change func(*Config)) *real {
	t.Helper()
	h := &real{TB: t, engine: testdocker.Require(t)}
	h.label = "muster.test.of=" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	server := testserver.StartEtcd(t)
	open := func() *discovery.Registry {
		d, err := etcd.New(etcd.Config{Endpoints: []string{server.Endpoint()}})
		if err != nil {
			t.Fatal(err)
		}
		r := discovery.New("etcd", d, discovery.Options{})
		t.Cleanup(func() { r.Close() })
		return r
	}
	h.reader = open()
	client, err := engine.New(engine.Config{Host: engineHost})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c := Config{
		Registries: []*discovery.Registry{open()}, Engine: client, TTL: 5 * time.Second,
		Rules:  grammar.Rules{Hostname: "h1", HostIP: "127.0.0.1", RequireLabel: h.label},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&c)
	}
	if h.Registrar, err = Start(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop(context.Background()) })
	return h
}

func (h *real) options(labels map[string]string, flags ...string) testdocker.Options {
	name, value, _ := strings.Cut(h.label, "=")
	all := map[string]string{name: value}
	maps.Copy(all, labels)
	return testdocker.Options{Image: h.engine.Build(twoPorts), Labels: all, Flags: flags}
}

// read returns what etcd has, by service and id.
func (h *real) read() (map[string]discovery.Instance, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	services, err := h.reader.Services(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[string]discovery.Instance)
	for _, service := range services {
		s, err := h.reader.List(ctx, discovery.Query{Service: service})
		if err != nil {
			return nil, err
		}
		for _, i := range snapshot.Instances(s) {
			all[service+" "+i.InstanceID] = i
		}
	}
	return all, nil
}

// registers waits until exactly these are registered, "SERVICE ID" with their HOST:PORT.
func (h *real) registers(want map[string]string) map[string]discovery.Instance {
	h.Helper()
	var all map[string]discovery.Instance
	wait.NoError(h, func() (err error) {
		if all, err = h.read(); err != nil {
			return err
		}
		got := make(map[string]string)
		for key, i := range all {
			got[key] = i.Addr
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("-want +got:\n%s", diff)
		}
		return nil
	})
	return all
}

// local is where this host publishes a port of c.
func local(c *testdocker.Container, port string) string {
	_, n, _ := net.SplitHostPort(c.Port(port))
	return net.JoinHostPort("127.0.0.1", n)
}

func TestRealContainer(t *testing.T) {
	t.Parallel()
	h := onRealHost(t, "", nil)
	o := h.options(map[string]string{"SERVICE_80_NAME": "http", "SERVICE_443_NAME": "https", "SERVICE_TAGS": "blue,prod", "SERVICE_REGION": "eu"},
		"-p", "0:80", "-p", "0:443", "-p", "0:53/udp")
	o.Env = []string{"SERVICE_53_NAME=dns", "SERVICE_TAGS=less"}
	c := h.engine.Run(o)
	want := func(name string) map[string]string {
		return map[string]string{
			"http h1:" + name + ":80":    local(c, "80/tcp"),
			"https h1:" + name + ":443":  local(c, "443/tcp"),
			"dns h1:" + name + ":53:udp": local(c, "53/udp"),
		}
	}
	all := h.registers(want(c.Name))
	dns := all["dns h1:"+c.Name+":53:udp"]
	if tags := slices.Sorted(slices.Values(dns.Tags)); !slices.Equal(tags, []string{"blue", "prod", "udp"}) || dns.Meta["region"] != "eu" || dns.NodeID != "h1" {
		t.Errorf("%+v", dns)
	}
	// It is registered as soon as the engine has started it, which may be before it listens.
	wait.NoError(t, func() error {
		conn, err := net.Dial("tcp", all["http h1:"+c.Name+":80"].Addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		if said, _ := io.ReadAll(conn); string(said) != "hello\n" {
			return fmt.Errorf("the address that is registered says %q", said)
		}
		return nil
	})

	// Other host ports after a restart.
	c.Restart()
	h.registers(want(c.Name))

	h.engine.Docker("pause", c.ID)
	h.registers(map[string]string{})
	h.engine.Docker("unpause", c.ID)
	h.registers(want(c.Name))

	renamed := c.Name + "-2"
	h.engine.Docker("rename", c.ID, renamed)
	h.registers(want(renamed))

	c.Kill()
	h.registers(map[string]string{})
	c.Start()
	h.registers(want(renamed))
	if err := h.Status().Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if err := h.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	h.registers(map[string]string{})
}

func TestRealContainerFails(t *testing.T) {
	t.Parallel()
	h := onRealHost(t, "", func(c *Config) { c.Deregister = DeregisterOnSuccess })
	o := h.options(nil, "-p", "0:80")
	o.Env = []string{"STATUS=3"}
	c := h.engine.Run(o)
	name := strings.SplitN(o.Image, ":", 2)[0]
	name = name[strings.LastIndex(name, "/")+1:]
	want := map[string]string{name + " h1:" + c.Name + ":80": local(c, "80/tcp")}
	h.registers(want)
	c.Stop(10 * time.Second)
	wait.NoError(t, func() error {
		for _, one := range h.Status().Engine.Containers {
			if one.ID == c.ID && one.Kept != "" {
				return nil
			}
		}
		return fmt.Errorf("not kept: %+v", h.Status().Engine.Containers)
	})
	h.registers(want)
	c.Start()
	h.registers(map[string]string{name + " h1:" + c.Name + ":80": local(c, "80/tcp")})
	c.Kill() // 137
	h.registers(map[string]string{})
}

// bridge serves the engine's socket on a TCP port, for a proxy to stand before.
func bridge(t testing.TB) string {
	t.Helper()
	socket := "/var/run/docker.sock"
	if path, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		socket = path
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", socket)
			if err != nil {
				in.Close()
				continue
			}
			pass := func(from, to net.Conn) {
				io.Copy(to, from)
				from.Close()
				to.Close()
			}
			passing.Go(func() { pass(in, out) })
			passing.Go(func() { pass(out, in) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		passing.Wait()
	})
	return l.Addr().String()
}

// The way to the engine is cut, or says nothing more, while containers come and go.
func TestEngineCutOff(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*faultproxy.TCP){
		"cut":   func(p *faultproxy.TCP) { p.Cut() },
		"mute":  func(p *faultproxy.TCP) { p.Swallow(faultproxy.Answers) },
		"reset": func(p *faultproxy.TCP) { p.ResetAfter(10) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testdocker.Require(t)
			proxy := faultproxy.NewTCP(t, bridge(t))
			h := onRealHost(t, "tcp://"+proxy.Addr(), func(c *Config) { c.Resync = 2 * time.Second })
			first := h.engine.Run(h.options(map[string]string{"SERVICE_NAME": "a"}, "-p", "0:80"))
			goes := h.engine.Run(h.options(map[string]string{"SERVICE_NAME": "b"}, "-p", "0:80"))
			stays := map[string]string{"a h1:" + first.Name + ":80": local(first, "80/tcp")}
			both := maps.Clone(stays)
			both["b h1:"+goes.Name+":80"] = local(goes, "80/tcp")
			h.registers(both)
			fault(proxy)
			wait.NoError(t, func() error {
				if h.Status().Engine.Connected {
					return fmt.Errorf("the fault is not noticed")
				}
				return nil
			})
			goes.Remove()
			late := h.engine.Run(h.options(map[string]string{"SERVICE_NAME": "c"}, "-p", "0:80"))
			h.registers(both) // nothing is taken away blindly
			proxy.Restore()
			stays["c h1:"+late.Name+":80"] = local(late, "80/tcp")
			h.registers(stays)
			late.Remove() // the events are those of the new stream
			delete(stays, "c h1:"+late.Name+":80")
			h.registers(stays)
		})
	}
}

func TestHundredContainers(t *testing.T) {
	t.Parallel()
	h := onRealHost(t, "", nil)
	o := h.options(map[string]string{"SERVICE_NAME": "many"}, "-p", "0:80")
	const n, atOnce = 100, 4
	containers := make([]*testdocker.Container, n)
	var work sync.WaitGroup
	slots := make(chan bool, atOnce)
	each := func(f func(i int)) {
		for i := range n {
			slots <- true
			work.Go(func() {
				defer func() { <-slots }()
				f(i)
			})
		}
		work.Wait()
	}
	began := time.Now()
	each(func(i int) { containers[i] = h.engine.Run(o) })
	if t.Failed() || slices.Contains(containers, nil) {
		t.Fatal("not all containers were started")
	}
	want := make(map[string]string)
	for _, c := range containers {
		want["many h1:"+c.Name+":80"] = local(c, "80/tcp")
	}
	h.registers(want)
	t.Logf("%d containers started and registered after %v", n, time.Since(began))
	each(func(i int) { containers[i].Remove() })
	h.registers(map[string]string{})
	wait.NoError(t, func() error {
		s := h.Status()
		for _, c := range s.Engine.Containers {
			if _, mine := want["many h1:"+c.Name+":80"]; mine {
				return fmt.Errorf("container %s is still known", c.Name)
			}
		}
		if len(s.Desired) > 0 || len(s.Providers[0].Instances) > 0 {
			return fmt.Errorf("%d desired and %d instances are left", len(s.Desired), len(s.Providers[0].Instances))
		}
		return nil
	})
}
