//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/registrar/host"
)

// registrarProcess is a muster registrar.
type registrarProcess struct {
	*testing.T
	addr string // of its API
	cmd  *exec.Cmd
}

// startRegistrarProcess runs a registrar with a configuration and an API on a port of
// its own.
func startRegistrarProcess(t *testing.T, text string) *registrarProcess {
	t.Helper()
	addr := testAddrs(t, 1)[0]
	cmd := program(t, "registrar", "-c", writeFile(t, "registrar.yaml", text+"\nhttp: {addr: \""+addr+"\"}\n"))
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.Env = append(ownEnvironment(), runMainVariable+"=1")
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &registrarProcess{t, addr, cmd}
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

// end sends a signal and waits for the end, whose status it returns.
func (p *registrarProcess) end(s syscall.Signal) int {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(s)
		_ = p.cmd.Wait()
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *registrarProcess) ready() {
	p.Helper()
	awaitReady(p, p.addr)
}

// awaitReady waits until the registrar whose API is at addr is ready.
func awaitReady(t testing.TB, addr string) {
	t.Helper()
	wait.NoError(t, func() error {
		answer, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: status %d", answer.StatusCode)
		}
		return nil
	})
}

// reader looks into etcd.
type reader struct {
	*testing.T
	*discovery.Registry
}

func newReader(t *testing.T, server *testserver.Etcd) reader {
	t.Helper()
	d, err := etcd.New(etcd.Config{Endpoints: []string{server.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	r := discovery.New("etcd", d, discovery.Options{})
	t.Cleanup(func() { r.Close() })
	return reader{t, r}
}

// sees waits until exactly these are registered: addresses by "SERVICE ID".
func (r reader) sees(want map[string]string) {
	r.Helper()
	wait.NoError(r, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		services, err := r.Services(ctx)
		if err != nil {
			return err
		}
		got := make(map[string]string)
		for _, service := range services {
			s, err := r.List(ctx, discovery.Query{Service: service})
			if err != nil {
				return err
			}
			for _, i := range snapshot.Instances(s) {
				got[i.Service+" "+i.InstanceID] = i.Addr
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("-want +got:\n%s", diff)
		}
		return nil
	})
}

func TestRegistrarOfServices(t *testing.T) {
	t.Parallel()
	server := testserver.StartEtcd(t)
	reader := newReader(t, server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.Close() }()
	config := func(registrar string) string {
		return fmt.Sprintf(`
provider: {etcd: {endpoints: [%q]}}
detect: {host_ip: 10.0.0.5}
registrar: {hostname: h1, containers: false, ttl: 5s%s}
services:
  - {name: web, address: %q, check: {tcp: "true", interval: 100ms, fall: 2}}
  - {name: db, id: main, address: ":5432", tags: [blue]}
`, server.Endpoint(), registrar, l.Addr().String())
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	db := map[string]string{"db main": "10.0.0.5:5432"}
	both := maps.Clone(db)
	both["web h1:web:"+port] = l.Addr().String()

	p := startRegistrarProcess(t, config(", on_exit: deregister"))
	p.ready()
	reader.sees(both)
	l.Close()
	reader.sees(db)
	if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	reader.sees(both)
	if status := p.end(syscall.SIGTERM); status != statusDone {
		t.Errorf("it ended with status %d", status)
	}
	reader.sees(map[string]string{})

	// What is left is taken over, as it is by default; so it is of a process that was killed.
	p = startRegistrarProcess(t, config(""))
	p.ready()
	reader.sees(both)
	if status := p.end(syscall.SIGTERM); status != statusDone {
		t.Errorf("it ended with status %d", status)
	}
	watching, stop := context.WithCancel(t.Context())
	gap := make(chan []discovery.Instance, 1)
	go func() {
		defer close(gap)
		for s := range reader.Watch(watching, discovery.Query{Service: "db"}) {
			if s.Known && !s.Stale && len(snapshot.Instances(s)) == 0 {
				gap <- snapshot.Instances(s)
				return
			}
		}
	}()
	p = startRegistrarProcess(t, config(""))
	p.ready()
	p.end(syscall.SIGKILL)
	p = startRegistrarProcess(t, config(", on_exit: deregister"))
	p.ready()
	reader.sees(both)
	stop()
	if _, missing := <-gap; missing {
		t.Error("between one process and the next nothing was registered")
	}
	if status := p.end(syscall.SIGTERM); status != statusDone {
		t.Errorf("it ended with status %d", status)
	}
	reader.sees(map[string]string{})
}

func TestRegistrarOfContainers(t *testing.T) {
	t.Parallel()
	engine := testdocker.Require(t)
	server := testserver.StartEtcd(t)
	reader := newReader(t, server)
	const label = "muster.test.registrar"
	run := func() *testdocker.Container {
		return engine.Run(testdocker.Options{
			Image:  engine.Build("github.com/musterhq/muster/internal/testing/images/twoports"),
			Labels: map[string]string{label: "1", "SERVICE_NAME": "web"}, Flags: []string{"-p", "0:80"},
		})
	}
	addr := func(c *testdocker.Container) string {
		_, port, _ := net.SplitHostPort(c.Port("80/tcp"))
		return "10.0.0.5:" + port
	}
	config := fmt.Sprintf(`
provider: {etcd: {endpoints: [%q]}}
registrar: {hostname: h1, ip: 10.0.0.5, require_label: %q, tags: ["{{.ShortID}}"], cleanup: true}
`, server.Endpoint(), label+"=1")
	first := run()
	p := startRegistrarProcess(t, config)
	second := run()
	both := map[string]string{"web h1:" + first.Name + ":80": addr(first), "web h1:" + second.Name + ":80": addr(second)}
	reader.sees(both)
	p.ready()
	answer, err := http.Get("http://" + p.addr + host.PathRegistrar)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var report host.Report
	if err := json.NewDecoder(answer.Body).Decode(&report); err != nil {
		t.Fatal(err)
	}
	if len(report.Services) != 2 || !slices.Equal(report.Services[0].Registered, []string{"etcd"}) || len(report.Services[0].Tags) != 1 ||
		!strings.HasPrefix(first.ID+" "+second.ID, report.Services[0].Tags[0]) && !strings.Contains(first.ID+" "+second.ID, " "+report.Services[0].Tags[0]) {
		t.Errorf("%+v", report)
	}

	// A process that is killed leaves all; the next one takes away what is gone by then.
	p.end(syscall.SIGKILL)
	second.Remove()
	p = startRegistrarProcess(t, config)
	reader.sees(map[string]string{"web h1:" + first.Name + ":80": addr(first)})
	if status := p.end(syscall.SIGTERM); status != statusDone {
		t.Errorf("it ended with status %d", status)
	}
	reader.sees(map[string]string{})
}

func TestRegistrarThatIsConfiguredWrongly(t *testing.T) {
	const provider = "provider: {etcd: {endpoints: [\"http://127.0.0.1:1\"]}}\n"
	for _, tt := range []struct{ name, text, want string }{
		{"no provider", "registrar: {cleanup: true}\n", "provider: "},
		{"static", "registrar:\nprovider: {static: {peers: [\"10.0.0.5:1\"]}}\n", "registers nothing"},
		{"template", provider + "registrar:\n  tags: [\"{{.Nonsense\"]\n", "registrar.yaml:3: registrar.tags"},
		{"service", provider + "services:\n  - {name: db, address: \"5432\"}\n", "registrar.yaml:3: services[0].address"},
		{"engine", provider + "registrar:\ndocker: {host: \"carrier-pigeon://a\"}\n", `registrar.yaml:3: docker.host: "carrier-pigeon://a": is no address of an engine; write unix:///PATH`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := writeFile(t, "registrar.yaml", tt.text)
			// One that is taken for good would run until it is told to stop.
			ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
			defer cancel()
			var stderr bytes.Buffer
			status := run(ctx, []string{"registrar", "-c", file, "--http-addr", "127.0.0.1:0"}, io.Discard, &stderr)
			if status != statusUsage || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("status %d, %q; want it to name %q", status, stderr.String(), tt.want)
			}
			if status, _, stderr := execute(t, "config", "check", "-c", file); status != statusUsage || !strings.Contains(stderr, tt.want) {
				t.Errorf("config check: status %d, %q; want it to name %q", status, stderr, tt.want)
			}
		})
	}
	if status, stdout, stderr := execute(t, "config", "check", "-c", writeFile(t, "registrar.yaml", provider+"registrar:\n")); status != statusDone {
		t.Errorf("config check of a good one: status %d, %q %q", status, stdout, stderr)
	}
}
