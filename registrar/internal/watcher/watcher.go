package watcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/watch"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// Config is that of a Watcher. Engine and Services are mandatory.
type Config struct {
	Engine engine.Engine

	// Services returns what is to be registered of a container that runs, as
	// Rules.Services does. It is called from several goroutines.
	Services func(c engine.Container, other func(id string) (engine.Container, bool)) ([]grammar.Service, []error)

	// KeepFailed keeps what was registered of a container that failed: that ended with another
	// status than 0 and than those of signals, 128 and up. It stays until the container runs
	// again or is removed.
	KeepFailed bool

	// Resync is how often all containers are listed and inspected although no event
	// says so, give or take a tenth. 0: a minute.
	Resync time.Duration

	// CallTimeout bounds each call of the engine but Events, of which it bounds the
	// beginning. 0: 5 s.
	CallTimeout time.Duration

	// Concurrency is how many containers are inspected at a time. 0: 8.
	Concurrency int

	// Logger takes the watcher's records. Default: none are written.
	Logger *slog.Logger
}

// Watcher keeps in step with the containers of an engine: with the events that it
// sends, by listing them all each time that the events begin again, and again on a timer.
//
// A container that cannot be inspected stays as it was last known, is named in the
// view and tried again, and holds up none of the others. So does everything while the
// engine cannot be reached: an error says nothing about what runs.
type Watcher struct {
	config   Config
	log      *slog.Logger
	alarms   *alarm.Set
	networks *engine.Networks
	resync   chan struct{}
	view     watch.Value[View]

	mu    sync.RWMutex
	known map[string]engine.Container // by id, as last inspected
}

// New returns a Watcher, which does nothing until Run. It panics if c lacks what
// is mandatory.
func New(c Config) *Watcher {
	if c.Engine == nil || c.Services == nil {
		panic("watcher: New without an Engine or Services")
	}
	c.Resync = cmp.Or(c.Resync, time.Minute)
	c.CallTimeout = cmp.Or(c.CallTimeout, 5*time.Second)
	c.Concurrency = cmp.Or(c.Concurrency, 8)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{
		config: c, log: c.Logger, alarms: alarm.New(c.Logger), networks: engine.NewNetworks(c.Engine),
		resync: make(chan struct{}, 1), known: make(map[string]engine.Container),
	}
	w.view.Store(View{})
	return w
}

// View is what a Watcher knows. What it points to is shared and must not be changed.
type View struct {
	// Connected says that events arrive, and that the containers were listed since they do.
	Connected bool
	// Synced says further that each container that was listed has been inspected since,
	// or failed to be.
	Synced bool
	// Err is why the engine cannot be followed. Nil while it is.
	Err error
	// Containers are those that run and those that are kept, by name.
	Containers []Known
	Counters   Counters

	// What is asked for each of many instances is found once, when the View is made.
	complete bool
	names    map[string]bool
}

// Known is one container as a Watcher knows it.
type Known struct {
	ID, Name string
	// Inspected is false if nothing but the id is known yet.
	Inspected bool
	// Running is false for one that has ended and whose services are kept.
	Running bool
	// Kept says why they are.
	Kept string
	// Services are to be registered. No two of a View have the same name and id.
	Services []grammar.Service
	// LeftOut says why it, or some port of it, is not registered though nothing is wrong.
	LeftOut []string
	// Err joins why it could not be inspected last, and what is wrong with its services.
	Err error
}

// Counters count from the start of the Watcher.
type Counters struct {
	Connects      uint64 // times that events began to arrive
	ConnectErrors uint64 // times that they ended, or did not begin, and failed lists
	Events        uint64 // those of interest
	Lists         uint64
	Inspections   uint64
	InspectErrors uint64
}

// Complete reports whether every container that runs is known as it is now, so that
// what is not among them does not run.
func (v View) Complete() bool { return v.complete }

// Has reports whether a container of this name runs or is kept.
func (v View) Has(name string) bool { return v.names[name] }

// made has what its methods return found.
func (v View) made() View {
	v.complete = v.Synced
	v.names = make(map[string]bool, len(v.Containers))
	for _, k := range v.Containers {
		v.complete = v.complete && k.Inspected
		v.names[k.Name] = true
	}
	return v
}

// View returns the newest view.
func (w *Watcher) View() View {
	v, _ := w.view.Load()
	return v
}

// Watch yields the view of now, and the newest one each time that it has changed,
// until ctx ends. A slow reader misses views, never the newest.
func (w *Watcher) Watch(ctx context.Context) iter.Seq[View] { return w.view.Watch(ctx) }

// Resync has all containers inspected again, now or as soon as the engine answers. It
// does not wait.
func (w *Watcher) Resync() {
	select {
	case w.resync <- struct{}{}:
	default:
	}
}

// lookup returns a container that is known, or else asks the engine.
func (w *Watcher) lookup(ctx context.Context, id string) (engine.Container, error) {
	if c, ok := w.lookupKnown(id); ok {
		return c, nil
	}
	return w.inspectContainer(ctx, id)
}

// inspectContainer returns what the engine says of a container and of its networks.
func (w *Watcher) inspectContainer(ctx context.Context, id string) (engine.Container, error) {
	c, err := w.config.Engine.Inspect(ctx, id)
	if err != nil {
		return c, err
	}
	return w.networks.Complete(ctx, c), nil
}

func (w *Watcher) lookupKnown(id string) (engine.Container, bool) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if c, ok := w.known[id]; ok {
		return c, true
	}
	for _, c := range w.known {
		if c.ShortName() == strings.TrimPrefix(id, "/") {
			return c, true
		}
	}
	return engine.Container{}, false
}

func (w *Watcher) remember(c engine.Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known[c.ID] = c
}

func (w *Watcher) forget(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.known, id)
}

// errSilent is what an engine is taken for that does not begin to send events.
var errSilent = errors.New("the engine does not answer")

func (c Config) silent() error {
	return fmt.Errorf("%w within %v", errSilent, c.CallTimeout)
}
