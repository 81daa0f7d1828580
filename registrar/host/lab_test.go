package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testserver.Main(testdocker.Main(m))) }

// crew is an engine whose containers a test makes.
type crew struct {
	mu         sync.Mutex
	containers map[string]engine.Container
	broken     map[string]error
	down       error
	streams    map[chan engine.Event]bool
}

func newCrew() *crew {
	return &crew{containers: make(map[string]engine.Container), broken: make(map[string]error), streams: make(map[chan engine.Event]bool)}
}

// run starts containers, each with port 80 at a port of the host.
func (c *crew) run(ports map[string]int) {
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		c.begin(name, map[string]int{"80/tcp": ports[name]})
	}
}

func (c *crew) begin(name string, ports map[string]int, env ...string) {
	bindings := make(map[string][]engine.Binding)
	for port, at := range ports {
		all, err := engine.ParseInspect(fmt.Appendf(nil, `{"Id":"x","NetworkSettings":{"Ports":{"p":[{"HostIp":"0.0.0.0","HostPort":"%d"}]}}}`, at))
		if err != nil {
			panic(err)
		}
		bindings[port] = all[0].NetworkSettings.Ports["p"]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.containers[name] = engine.Container{
		ID: name, Name: "/" + name, Config: engine.ContainerConfig{Image: "web", Env: env},
		State:           engine.State{Status: "running", Running: true},
		NetworkSettings: engine.NetworkSettings{Ports: bindings},
	}
	c.emit(engine.Event{ID: name, Action: "start"})
}

func (c *crew) end(name string, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.containers[name]
	one.State = engine.State{Status: "exited", ExitCode: status}
	c.containers[name] = one
	c.emit(engine.Event{ID: name, Action: "die"})
}

func (c *crew) emit(e engine.Event) {
	for s := range c.streams {
		s <- e
	}
}

func (c *crew) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *crew) Running(context.Context) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id, one := range c.containers {
		if one.State.Running {
			ids = append(ids, id)
		}
	}
	return ids, c.down
}

func (c *crew) Inspect(_ context.Context, id string) (engine.Container, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one, ok := c.containers[id]
	if err := cmpOr(c.down, c.broken[id]); err != nil {
		return engine.Container{}, err
	}
	if !ok {
		return engine.Container{}, driver.ErrNotFound
	}
	return one, nil
}

func cmpOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *crew) Events(ctx context.Context) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) {
		s := make(chan engine.Event, 1000)
		c.mu.Lock()
		down := c.down
		c.streams[s] = true
		c.mu.Unlock()
		defer c.set(func() { delete(c.streams, s) })
		if down != nil {
			yield(engine.Event{}, down)
			return
		}
		if !yield(engine.Event{}, nil) {
			return
		}
		for {
			select {
			case e := <-s:
				if !yield(e, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// picky is a client of a provider that refuses single registrations.
type picky struct {
	driver.Driver
	mu      sync.Mutex
	fails   map[string]bool // ids
	never   map[string]bool // ids of what it can never take
	crowded bool            // it has one place for each id, and readers that want small letters
}

func (p *picky) RecordKey(i driver.Instance) string {
	if !p.crowded {
		return ""
	}
	return i.InstanceID
}

func (p *picky) Review(i driver.Instance) error {
	if !p.crowded || strings.ToLower(i.Service) == i.Service {
		return nil
	}
	return errors.New("capitals in " + i.Service)
}

func (p *picky) set(id string, fails bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails[id] = fails
}

func (p *picky) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	s, err := p.Driver.(driver.Registrar).OpenSession(ctx, o)
	return pickySession{s, p}, err
}

func (p *picky) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return p.Driver.(driver.Watcher).Watch(ctx, q, since)
}

func (p *picky) Services(ctx context.Context) ([]string, error) {
	return p.Driver.(driver.Cataloger).Services(ctx)
}

type pickySession struct {
	driver.Session
	p *picky
}

func (s pickySession) Register(ctx context.Context, i driver.Instance) error {
	s.p.mu.Lock()
	fails, never := s.p.fails[i.InstanceID], s.p.never[i.InstanceID]
	s.p.mu.Unlock()
	if never {
		return fmt.Errorf("%w: it takes 99 pairs of meta", driver.ErrInvalid)
	}
	if fails {
		return driver.ErrUnavailable
	}
	return s.Session.Register(ctx, i)
}

// lab is a host with two providers, inside a bubble of virtual time.
type lab struct {
	*testing.T
	*crew
	*Registrar
	one, two *memory.Server
	picky    *picky // of the first
	logs     *bytes.Buffer
}

// onHost runs a test with a Registrar, whose host name is "hostname" and whose address
// is 192.168.1.102 unless configured otherwise.
func onHost(t *testing.T, prepare func(l *lab, c *Config), test func(l *lab)) {
	synctest.Test(t, func(t *testing.T) {
		l := &lab{T: t, crew: newCrew(), one: memory.New(), two: memory.New(), logs: new(bytes.Buffer)}
		l.picky = &picky{Driver: l.one.Driver(), fails: make(map[string]bool), never: make(map[string]bool)}
		c := Config{
			Registries: []*discovery.Registry{
				discovery.New("one", l.picky, discovery.Options{}), discovery.New("two", l.two.Driver(), discovery.Options{}),
			},
			Engine: l.crew, Rules: grammar.Rules{Hostname: "hostname", HostIP: "192.168.1.102"},
			Logger: slog.New(slog.NewTextHandler(l.logs, nil)),
			Advertise: advertise.Options{
				Interfaces: func() ([]advertise.Interface, error) { return nil, errors.New("no interfaces here") },
				Route:      func(netip.Addr) (netip.Addr, error) { return netip.Addr{}, errors.New("no route") },
				LookupEnv:  func(string) (string, bool) { return "", false }, Environ: func() []string { return nil },
			},
		}
		if prepare != nil {
			prepare(l, &c)
		}
		var err error
		if l.Registrar, err = Start(c); err != nil {
			t.Fatal(err)
		}
		defer func() {
			l.Stop(context.Background())
			for _, r := range c.Registries {
				r.Close()
			}
		}()
		test(l)
	})
}

// published is what a provider has, as "service id addr".
func (l *lab) published(m *memory.Server) []string {
	l.Helper()
	d := m.Driver()
	defer d.Close()
	services, err := d.(driver.Cataloger).Services(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	all := []string{}
	for _, service := range services {
		s, err := d.List(l.Context(), driver.Query{Service: service})
		if err != nil {
			l.Fatal(err)
		}
		for _, i := range s.Instances {
			all = append(all, strings.Join([]string{i.Service, i.InstanceID, i.Addr}, " "))
		}
	}
	slices.Sort(all)
	return all
}

// holds wants a provider to have exactly these, once all has come to rest.
func (l *lab) holds(m *memory.Server, want ...string) {
	l.Helper()
	synctest.Wait()
	slices.Sort(want)
	if diff := cmp.Diff(append([]string{}, want...), l.published(m)); diff != "" {
		l.Fatalf("-want +got:\n%s\n%+v\n%s", diff, l.Status().Report(), l.logs)
	}
}

// bothHold wants it of both.
func (l *lab) bothHold(want ...string) {
	l.Helper()
	l.holds(l.one, want...)
	l.holds(l.two, want...)
}
