package registrar

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

// tap is a client of a provider in memory whose calls a test can count, fail and
// hold up one kind at a time.
type tap struct {
	driver.Driver
	mu    sync.Mutex
	hooks map[string]func(context.Context) error
	calls map[string]int
	last  driver.Session // the newest, as the provider made it
}

// keepAlive renews the session behind the registrar's back.
func (p *tap) keepAlive(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last.Renew(ctx)
}

// on has f called before each call of op, which fails if f does. Nil ends it. For
// the op registered it is called before register returns.
func (p *tap) on(op string, f func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hooks[op] = f
}

func (p *tap) count(op string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[op]
}

func (p *tap) before(ctx context.Context, op string) error {
	p.mu.Lock()
	p.calls[op]++
	hook := p.hooks[op]
	p.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx)
}

func (p *tap) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	if err := p.before(ctx, "open"); err != nil {
		return nil, err
	}
	s, err := p.Driver.(driver.Registrar).OpenSession(ctx, o)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.last = s
	p.mu.Unlock()
	return &tapSession{s, p}, nil
}

func (p *tap) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if err := p.before(ctx, "list"); err != nil {
		return driver.Snapshot{}, err
	}
	return p.Driver.List(ctx, q)
}

func (p *tap) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return func(yield func(driver.Snapshot, error) bool) {
		if err := p.before(ctx, "watch"); err != nil {
			yield(driver.Snapshot{}, err)
			return
		}
		p.Driver.(driver.Watcher).Watch(ctx, q, since)(yield)
	}
}

type tapSession struct {
	driver.Session
	p *tap
}

func (s *tapSession) Renew(ctx context.Context) error {
	if err := s.p.before(ctx, "renew"); err != nil {
		return err
	}
	return s.Session.Renew(ctx)
}

func (s *tapSession) Register(ctx context.Context, i driver.Instance) error {
	if err := s.p.before(ctx, "register"); err != nil {
		return err
	}
	if err := s.Session.Register(ctx, i); err != nil {
		return err
	}
	return s.p.before(ctx, "registered")
}

func (s *tapSession) Deregister(ctx context.Context, i driver.Instance) error {
	if err := s.p.before(ctx, "deregister"); err != nil {
		return err
	}
	return s.Session.Deregister(ctx, i)
}

func (s *tapSession) Close(ctx context.Context) error {
	if err := s.p.before(ctx, "close"); err != nil {
		return err
	}
	return s.Session.Close(ctx)
}

// hang answers nothing until the call gives up.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return fmt.Errorf("%w: %w", driver.ErrUnavailable, ctx.Err())
}

// lasts answers with err after d.
func lasts(ctx context.Context, d time.Duration, err error) error {
	select {
	case <-time.After(d):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// logBuffer takes a log that is read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func unavailable(context.Context) error { return driver.ErrUnavailable }

const ttl = 9 * time.Second // a third of it is a round number

// lab is a provider, one client and its registrar, inside a bubble of virtual
// time.
type lab struct {
	tester
	memory *memory.Server
	tap    *tap
	*Registrar
}

// tester is what a lab needs of a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Context() context.Context
}

// virtual runs a test in a bubble, and stops the registrar at its end.
func virtual(t *testing.T, config Config, test func(l *lab)) {
	virtualFrom(t, config, nil, test)
}

// virtualFrom prepares the provider before the registrar starts, which opens its first
// session at once: a fault that comes any later may find it open.
func virtualFrom(t *testing.T, config Config, prepare func(m *memory.Server, tap *tap), test func(l *lab)) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		tap := newTap(m)
		if prepare != nil {
			prepare(m, tap)
		}
		test(startLab(t, m, tap, config))
	})
}

func newTap(m *memory.Server) *tap {
	return &tap{Driver: m.Driver(), hooks: make(map[string]func(context.Context) error), calls: make(map[string]int)}
}

func newLab(t tester, m *memory.Server, config Config) *lab { return startLab(t, m, newTap(m), config) }

func startLab(t tester, m *memory.Server, tap *tap, config Config) *lab {
	l := &lab{tester: t, memory: m, tap: tap}
	config.Registry = discovery.New("memory", l.tap, discovery.Options{})
	if config.TTL == 0 {
		config.TTL = ttl
	}
	l.Registrar = New(config)
	t.Cleanup(func() {
		l.Stop(context.Background())
		config.Registry.Close()
	})
	return l
}

func (l *lab) set(instances ...driver.Instance) {
	l.Helper()
	if err := l.Set(instances...); err != nil {
		l.Fatalf("Set: %v", err)
	}
}

// published is what the provider holds of service, by instance id.
func (l *lab) published(service string) map[string]driver.Instance {
	l.Helper()
	d := l.memory.Driver()
	defer d.Close()
	s, err := d.List(context.Background(), driver.Query{Service: service})
	if err != nil {
		l.Fatalf("List: %v", err)
	}
	all := make(map[string]driver.Instance)
	for _, i := range s.Instances {
		all[i.InstanceID] = i
	}
	return all
}

// holds wants the provider to hold exactly these of service web, when all has come
// to rest at this moment.
func (l *lab) holds(instances ...driver.Instance) {
	l.Helper()
	synctest.Wait()
	if got := l.published("web"); !sameSet(got, instances) {
		l.Fatalf("the provider holds %+v\nwant %+v\nstatus %+v", got, instances, l.Status())
	}
}

func sameSet(got map[string]driver.Instance, want []driver.Instance) bool {
	if len(got) != len(want) {
		return false
	}
	for _, w := range want {
		if g, ok := got[w.InstanceID]; !ok || !samePublished(g, w) {
			return false
		}
	}
	return true
}

// after lets time pass, and everything that is due then.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func instance(id string, port int) driver.Instance {
	return driver.Instance{
		Service: "web", NodeID: "node-" + id, InstanceID: id, Addr: fmt.Sprintf("10.0.0.1:%d", port),
		Tags: []string{"b", "a"}, Meta: map[string]string{"version": "1"},
	}
}
