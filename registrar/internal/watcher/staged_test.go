package watcher

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// stagedEngine is an engine whose faults a test decides on.
type stagedEngine struct {
	mu         sync.Mutex
	containers map[string]engine.Container
	streams    map[chan engine.Event]bool
	down       error // of every call, and what ends the streams
	hang       bool  // no call is answered; the streams are silent
	deaf       bool  // events are lost
	broken     map[string]error
	hanging    map[string]bool // that Inspect does not answer for
	inspected  map[string]int
	running    int // calls of Inspect under way
	most       int // of them at a time
	subscribed int
	slow       time.Duration
}

func newStagedEngine() *stagedEngine {
	return &stagedEngine{
		containers: make(map[string]engine.Container), streams: make(map[chan engine.Event]bool),
		broken: make(map[string]error), hanging: make(map[string]bool), inspected: make(map[string]int),
	}
}

// put makes c what the engine says of it, and reports action.
func (e *stagedEngine) put(action string, containers ...engine.Container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range containers {
		e.containers[c.ID] = c
		e.emit(engine.Event{ID: c.ID, Action: action})
	}
}

// end makes a container end with a status.
func (e *stagedEngine) end(id string, status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	c.State = stateOf(false, status)
	e.containers[id] = c
	e.emit(engine.Event{ID: id, Action: "die"})
}

func (e *stagedEngine) destroy(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id)
	e.emit(engine.Event{ID: id, Action: "destroy"})
}

func (e *stagedEngine) emit(event engine.Event) {
	if e.deaf {
		return
	}
	for s := range e.streams {
		s <- event
	}
}

// fail makes every call fail with err, and ends the streams. Nil ends it.
func (e *stagedEngine) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = err
	if err != nil {
		e.cut()
	}
}

// cut ends the streams.
func (e *stagedEngine) cut() {
	for s := range e.streams {
		close(s)
		delete(e.streams, s)
	}
}

func (e *stagedEngine) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *stagedEngine) enter(ctx context.Context) error {
	e.mu.Lock()
	hang, down, slow := e.hang, e.down, e.slow
	e.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if slow > 0 {
		time.Sleep(slow)
	}
	return down
}

// Running answers with what was so when it was asked, however long the answer takes.
func (e *stagedEngine) Running(ctx context.Context) ([]string, error) {
	var ids []string
	e.set(func() {
		for _, id := range slices.Sorted(maps.Keys(e.containers)) {
			if e.containers[id].State.Running {
				ids = append(ids, id)
			}
		}
	})
	if err := e.enter(ctx); err != nil {
		return nil, err
	}
	return ids, nil
}

// Inspect answers with what was so when it was asked, however long the answer takes.
func (e *stagedEngine) Inspect(ctx context.Context, id string) (engine.Container, error) {
	e.mu.Lock()
	c, ok := e.containers[id]
	e.inspected[id]++
	e.running++
	e.most = max(e.most, e.running)
	hanging := e.hanging[id]
	e.mu.Unlock()
	defer e.set(func() { e.running-- })
	if hanging {
		<-ctx.Done()
		return engine.Container{}, ctx.Err()
	}
	if err := e.enter(ctx); err != nil {
		return engine.Container{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.broken[id]; err != nil {
		return engine.Container{}, err
	}
	if !ok {
		return engine.Container{}, fmt.Errorf("%w: no such container: %s", driver.ErrNotFound, id)
	}
	return c, nil
}

func (e *stagedEngine) Events(ctx context.Context) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) {
		if err := e.enter(ctx); err != nil {
			yield(engine.Event{}, err)
			return
		}
		s := make(chan engine.Event, 1000)
		e.set(func() { e.streams[s] = true; e.subscribed++ })
		defer e.set(func() { delete(e.streams, s) })
		if !yield(engine.Event{}, nil) {
			return
		}
		for {
			select {
			case event, open := <-s:
				if !open {
					yield(engine.Event{}, errors.New("unexpected EOF"))
					return
				}
				if !yield(event, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// stateOf is that of a container that runs, or has ended with a status.
func stateOf(running bool, status int) engine.State {
	if running {
		return engine.State{Status: "running", Running: true, StartedAt: time.Now().Format(time.RFC3339Nano)}
	}
	return engine.State{Status: "exited", ExitCode: status}
}

// published is a container that runs, with port 80 at a port of the host.
func published(id string, hostPort int) engine.Container {
	return engine.Container{
		ID: id, Name: "/" + id + "-name", Config: engine.ContainerConfig{Image: "web"}, State: stateOf(true, 0),
		NetworkSettings: engine.NetworkSettings{Ports: map[string][]engine.Binding{
			"80/tcp": {{HostIP: "0.0.0.0", HostPort: fmt.Sprint(hostPort)}},
		}},
	}
}

// plainly registers each published port as it is.
func plainly(c engine.Container, _ func(string) (engine.Container, bool)) ([]grammar.Service, []error) {
	var services []grammar.Service
	var errs []error
	for port, bindings := range c.NetworkSettings.Ports {
		for _, b := range bindings {
			var n uint16
			if _, err := fmt.Sscan(b.HostPort, &n); err != nil {
				errs = append(errs, fmt.Errorf("%w: port %q", driver.ErrInvalid, b.HostPort))
				continue
			}
			services = append(services, grammar.Service{ID: c.ShortName() + ":" + port[:2], Name: c.Config.Image, Address: "10.0.0.1", Port: n})
		}
	}
	return services, errs
}
