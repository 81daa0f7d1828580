package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
)

// bench is a Watcher over a fake engine, inside a bubble of virtual time.
type bench struct {
	*testing.T
	*Watcher
	engine *stagedEngine
	logs   *bytes.Buffer
}

func watching(t *testing.T, config WatcherConfig, test func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, engine: newStagedEngine(), logs: new(bytes.Buffer)}
		config.Engine = b.engine
		if config.Services == nil {
			config.Services = plainly
		}
		config.Logger = slog.New(slog.NewTextHandler(b.logs, nil))
		b.Watcher = NewWatcher(config)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); b.Watcher.Run(ctx) }()
		defer func() { cancel(); <-done }()
		synctest.Wait()
		test(b)
	})
}

// registers wants these and no others, by id, once all has come to rest.
func (b *bench) registers(want map[string]uint16) {
	b.Helper()
	synctest.Wait()
	got := make(map[string]uint16)
	for _, c := range b.View().Containers {
		for _, s := range c.Services {
			got[s.ID] = s.Port
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		b.Fatalf("services: -want +got:\n%s\n%+v\n%s", diff, b.View(), b.logs)
	}
}

func (b *bench) container(id string) Known {
	b.Helper()
	synctest.Wait()
	for _, c := range b.View().Containers {
		if c.ID == id {
			return c
		}
	}
	b.Fatalf("container %s is not known: %+v", id, b.View())
	return Known{}
}

func (b *bench) logged(text string) int { return strings.Count(b.logs.String(), text) }

func TestContainersComeAndGo(t *testing.T) {
	watching(t, WatcherConfig{}, func(b *bench) {
		if v := b.View(); !v.Synced || !v.Complete() || len(v.Containers) != 0 {
			b.Fatalf("with no container: %+v", v)
		}
		b.engine.put("start", published("a", 8000), published("b", 8001))
		b.registers(map[string]uint16{"a-name:80": 8000, "b-name:80": 8001})
		b.engine.end("a", 1)
		b.registers(map[string]uint16{"b-name:80": 8001})
		b.engine.put("start", published("a", 9000))
		b.registers(map[string]uint16{"a-name:80": 9000, "b-name:80": 8001})
		c := published("b", 8001)
		c.Name = "/renamed"
		b.engine.put("rename", c)
		b.registers(map[string]uint16{"a-name:80": 9000, "renamed:80": 8001})
		b.engine.end("b", 0)
		b.engine.destroy("b")
		b.engine.destroy("a")
		b.registers(map[string]uint16{})
		if n := len(b.View().Containers); n != 0 {
			b.Errorf("%d containers are still known", n)
		}
	})
}

// A container that waits for its next restart has no ports, and is not up.
func TestContainerThatRestartsOverAndOver(t *testing.T) {
	watching(t, WatcherConfig{}, func(b *bench) {
		b.engine.put("start", published("a", 8000))
		c := published("a", 8000)
		c.State = State{Status: "restarting", Running: true, ExitCode: 1}
		b.engine.put("die", c)
		b.registers(map[string]uint16{})
		b.engine.put("start", published("a", 8005))
		b.registers(map[string]uint16{"a-name:80": 8005})
	})
}

func TestEventsThatSayNothing(t *testing.T) {
	watching(t, WatcherConfig{}, func(b *bench) {
		b.engine.put("start", published("a", 8000))
		synctest.Wait()
		before := b.View().Counters
		for _, action := range []string{"exec_create: /bin/check", "exec_start: /bin/check", "exec_die", "top"} {
			b.engine.put(action, published("a", 8000))
		}
		synctest.Wait()
		if after := b.View().Counters; after.Inspections != before.Inspections {
			b.Errorf("%d inspections for what changes nothing", after.Inspections-before.Inspections)
		}
		b.engine.put("health_status: unhealthy", published("a", 8001))
		b.registers(map[string]uint16{"a-name:80": 8001})
	})
}

// An event may come while the container is inspected for the one before.
func TestEventWhileInspected(t *testing.T) {
	watching(t, WatcherConfig{}, func(b *bench) {
		b.engine.set(func() { b.engine.slow = time.Second })
		b.engine.put("start", published("a", 8000))
		time.Sleep(500 * time.Millisecond)
		b.engine.put("update", published("a", 8001))
		time.Sleep(1600 * time.Millisecond)
		b.registers(map[string]uint16{"a-name:80": 8001})
	})
}

// What the events did not tell of is found on the timer.
func TestResync(t *testing.T) {
	watching(t, WatcherConfig{}, func(b *bench) {
		b.engine.put("start", published("a", 8000), published("b", 8001))
		b.registers(map[string]uint16{"a-name:80": 8000, "b-name:80": 8001})
		b.engine.set(func() { b.engine.deaf = true })
		b.engine.put("start", published("c", 8002), published("b", 9001))
		b.engine.destroy("a")
		b.registers(map[string]uint16{"a-name:80": 8000, "b-name:80": 8001})
		time.Sleep(70 * time.Second)
		b.registers(map[string]uint16{"b-name:80": 9001, "c-name:80": 8002})
		b.engine.end("c", 0)
		b.Resync()
		b.registers(map[string]uint16{"b-name:80": 9001})
	})
}

// While the events are lost everything may change. All of it is seen when they are
// back, and nothing is taken away meanwhile.
func TestStreamLost(t *testing.T) {
	for _, fault := range []struct {
		name        string
		begin, stop func(*stagedEngine)
	}{
		{"refused", func(e *stagedEngine) { e.fail(fmt.Errorf("%w: connection refused", driver.ErrUnavailable)) }, func(e *stagedEngine) { e.fail(nil) }},
		{"silent", func(e *stagedEngine) { e.set(func() { e.hang = true; e.deaf = true }) }, func(e *stagedEngine) { e.set(func() { e.hang = false; e.deaf = false }) }},
	} {
		t.Run(fault.name, func(t *testing.T) {
			watching(t, WatcherConfig{}, func(b *bench) {
				b.engine.put("start", published("a", 8000), published("b", 8001))
				b.registers(map[string]uint16{"a-name:80": 8000, "b-name:80": 8001})
				fault.begin(b.engine)
				b.engine.set(func() {
					delete(b.engine.containers, "a")
					b.engine.containers["b"] = published("b", 9001)
					b.engine.containers["c"] = published("c", 8002)
				})
				time.Sleep(10 * time.Minute)
				b.registers(map[string]uint16{"a-name:80": 8000, "b-name:80": 8001})
				v := b.View()
				if v.Connected || v.Synced || v.Err == nil {
					b.Errorf("with the engine away: %+v", v)
				}
				if v.Counters.ConnectErrors < 20 {
					b.Errorf("it was tried %d times in 10 m", v.Counters.ConnectErrors)
				}
				if n := b.logged("cannot be followed"); n == 0 || n > 2 {
					b.Errorf("logged %d times:\n%s", n, b.logs)
				}
				fault.stop(b.engine)
				time.Sleep(maxRetry + time.Second)
				b.registers(map[string]uint16{"b-name:80": 9001, "c-name:80": 8002})
				if v := b.View(); !v.Complete() || v.Err != nil {
					b.Errorf("with the engine back: %+v", v)
				}
				// The events are those of the new stream.
				b.engine.end("b", 0)
				b.registers(map[string]uint16{"c-name:80": 8002})
			})
		})
	}
}

func TestStreamThatEndsAtOnce(t *testing.T) {
	watching(t, WatcherConfig{}, func(b *bench) {
		b.engine.put("start", published("a", 8000))
		for range 200 {
			b.engine.set(b.engine.cut)
			time.Sleep(time.Second)
		}
		if n := b.View().Counters.Connects; n > 100 {
			b.Errorf("connected %d times to an engine that hangs up each second", n)
		}
		time.Sleep(maxRetry)
		b.registers(map[string]uint16{"a-name:80": 8000})
	})
}

// A container that cannot be inspected is named once and tried again, and costs the
// others nothing.
func TestOneContainerFails(t *testing.T) {
	hang := func(e *stagedEngine, on bool) { e.set(func() { e.hanging["b"] = on }) }
	garbage := func(e *stagedEngine, on bool) {
		e.set(func() {
			delete(e.broken, "b")
			if on {
				e.broken["b"] = errors.New("not the JSON of docker inspect")
			}
		})
	}
	other := func(e *stagedEngine, on bool) {
		e.set(func() {
			c := published("b", 8001)
			if on {
				c.ID = "x"
			}
			e.containers["b"] = c
		})
	}
	for name, fault := range map[string]func(*stagedEngine, bool){"hang": hang, "garbage": garbage, "another": other} {
		t.Run(name, func(t *testing.T) {
			watching(t, WatcherConfig{}, func(b *bench) {
				b.engine.put("start", published("b", 8001))
				b.registers(map[string]uint16{"b-name:80": 8001})
				fault(b.engine, true)
				b.engine.put("start", published("a", 8000))
				b.engine.set(func() { b.engine.tell(Event{ID: "b", Action: "update"}) })
				b.registers(map[string]uint16{"a-name:80": 8000, "b-name:80": 8001})
				time.Sleep(5 * time.Minute)
				b.engine.put("start", published("c", 8002))
				b.registers(map[string]uint16{"a-name:80": 8000, "b-name:80": 8001, "c-name:80": 8002})
				if b.container("b").Err == nil {
					b.Error("the view says nothing of it")
				}
				if n := b.logged("cannot be inspected"); n != 1 {
					b.Errorf("logged %d times:\n%s", n, b.logs)
				}
				tries := b.engine.inspected["b"]
				if tries < 10 || tries > 500 {
					b.Errorf("tried %d times in 5 m", tries)
				}
				fault(b.engine, false)
				time.Sleep(maxRetry + 6*time.Second)
				if err := b.container("b").Err; err != nil {
					b.Errorf("still failing: %v", err)
				}
			})
		})
	}
}

// One of two ports may be wrong.
func TestOnePortIsWrong(t *testing.T) {
	watching(t, WatcherConfig{}, func(b *bench) {
		c := published("a", 8000)
		c.NetworkSettings.Ports["81/tcp"] = []Binding{{HostPort: "many"}}
		b.engine.put("start", c)
		b.registers(map[string]uint16{"a-name:80": 8000})
		if err := b.container("a").Err; !errors.Is(err, driver.ErrInvalid) {
			b.Errorf("the view says %v", err)
		}
		time.Sleep(10 * time.Minute)
		if n := b.logged("not registered as it asks"); n != 1 {
			b.Errorf("logged %d times:\n%s", n, b.logs)
		}
	})
}

func TestDeregisterOnSuccess(t *testing.T) {
	for _, tt := range []struct {
		status int
		kept   bool
	}{{0, false}, {1, true}, {127, true}, {128, false}, {137, false}, {143, false}} {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			watching(t, WatcherConfig{Deregister: OnSuccess}, func(b *bench) {
				b.engine.put("start", published("a", 8000))
				b.registers(map[string]uint16{"a-name:80": 8000})
				b.engine.end("a", tt.status)
				want := map[string]uint16{}
				if tt.kept {
					want["a-name:80"] = 8000
				}
				b.registers(want)
				time.Sleep(5 * time.Minute)
				b.registers(want)
				if !tt.kept {
					return
				}
				if c := b.container("a"); c.Running || !strings.Contains(c.Kept, fmt.Sprint(tt.status)) {
					b.Errorf("%+v", c)
				}
				b.engine.put("start", published("a", 9000))
				b.registers(map[string]uint16{"a-name:80": 9000})
				b.engine.end("a", tt.status)
				b.registers(map[string]uint16{"a-name:80": 9000})
				b.engine.destroy("a")
				b.registers(map[string]uint16{})
			})
		})
	}
}

// A container of the same name may stand in for one that is kept, before that is
// removed.
func TestServiceOfTwoContainers(t *testing.T) {
	watching(t, WatcherConfig{Deregister: OnSuccess}, func(b *bench) {
		b.engine.put("start", published("a", 8000))
		b.registers(map[string]uint16{"a-name:80": 8000})
		b.engine.end("a", 1)
		c := published("b", 9000)
		c.Name = "/a-name"
		time.Sleep(time.Second)
		b.engine.put("start", c)
		b.registers(map[string]uint16{"a-name:80": 9000})
		if err := b.container("a").Err; !errors.Is(err, driver.ErrConflict) {
			b.Errorf("the view says %v of the one that has lost", err)
		}
		time.Sleep(time.Second)
		d := published("d", 9001) // started later
		d.Name = "/a-name"
		b.engine.put("start", d)
		b.registers(map[string]uint16{"a-name:80": 9001})
		b.engine.destroy("d")
		b.registers(map[string]uint16{"a-name:80": 9000})
	})
}

// What shares the network of another is looked at again when that changes.
func TestNetworkOfAnother(t *testing.T) {
	services := func(c Container, other func(string) (Container, bool)) ([]Service, []error) {
		target, ok := strings.CutPrefix(c.HostConfig.NetworkMode, "container:")
		if !ok {
			return nil, nil
		}
		t, ok := other(target)
		if !ok {
			return nil, []error{driver.ErrNotFound}
		}
		return []Service{{ID: c.ID, Name: "web", Address: t.NetworkSettings.Networks["bridge"].IPAddress, Port: 80}}, nil
	}
	watching(t, WatcherConfig{Services: services}, func(b *bench) {
		at := func(ip string) Container {
			c := published("a", 8000)
			c.NetworkSettings.Networks = map[string]Endpoint{"bridge": {IPAddress: ip}}
			return c
		}
		sharer := Container{ID: "b", State: stateOf(true, 0), HostConfig: HostConfig{NetworkMode: "container:a"}}
		b.engine.put("start", sharer)
		if err := b.container("b").Err; !errors.Is(err, driver.ErrNotFound) {
			b.Errorf("without the other: %v", err)
		}
		for _, ip := range []string{"172.17.0.2", "172.17.0.3"} {
			b.engine.put("start", at(ip))
			synctest.Wait()
			if c := b.container("b"); len(c.Services) != 1 || c.Services[0].Address != ip || c.Err != nil {
				b.Errorf("with the other at %s: %+v", ip, c)
			}
		}
	})
}

func TestManyContainersAtOnce(t *testing.T) {
	watching(t, WatcherConfig{Concurrency: 8}, func(b *bench) {
		want := make(map[string]uint16)
		b.engine.set(func() {
			b.engine.deaf = true
			b.engine.slow = 10 * time.Millisecond
			for n := range 300 {
				c := published(fmt.Sprintf("c%03d", n), 10000+n)
				b.engine.containers[c.ID] = c
				want[c.ID+"-name:80"] = uint16(10000 + n)
			}
		})
		b.Resync()
		time.Sleep(500 * time.Millisecond)
		b.registers(want)
		if !b.View().Complete() {
			b.Error("not complete")
		}
		if b.engine.most > 8 {
			b.Errorf("%d were inspected at a time", b.engine.most)
		}
		names := slices.Collect(maps.Keys(want))
		for _, name := range names {
			b.engine.set(func() { delete(b.engine.containers, strings.TrimSuffix(name, "-name:80")) })
		}
		b.Resync()
		time.Sleep(500 * time.Millisecond)
		b.registers(map[string]uint16{})
	})
}
