package watcher

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
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// bench is a Watcher over a fake engine, inside a bubble of virtual time.
type bench struct {
	*testing.T
	*Watcher
	engine *stagedEngine
	logs   *bytes.Buffer
}

func watching(t *testing.T, config Config, test func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, engine: newStagedEngine(), logs: new(bytes.Buffer)}
		config.Engine = b.engine
		if config.Services == nil {
			config.Services = plainly
		}
		config.Logger = slog.New(slog.NewTextHandler(b.logs, nil))
		b.Watcher = New(config)
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
	watching(t, Config{}, func(b *bench) {
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
	watching(t, Config{}, func(b *bench) {
		b.engine.put("start", published("a", 8000))
		c := published("a", 8000)
		c.State = engine.State{Status: "restarting", Running: true, ExitCode: 1}
		b.engine.put("die", c)
		b.registers(map[string]uint16{})
		b.engine.put("start", published("a", 8005))
		b.registers(map[string]uint16{"a-name:80": 8005})
	})
}

func TestEventsThatSayNothing(t *testing.T) {
	watching(t, Config{}, func(b *bench) {
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
	watching(t, Config{}, func(b *bench) {
		b.engine.set(func() { b.engine.slow = time.Second })
		b.engine.put("start", published("a", 8000))
		time.Sleep(500 * time.Millisecond)
		b.engine.put("update", published("a", 8001))
		time.Sleep(1600 * time.Millisecond)
		b.registers(map[string]uint16{"a-name:80": 8001})
	})
}

// An answer may be older than the events that come before it: what it says of a container
// is no longer so. The last word is the event's, long before the next resync.
func TestAnswerOlderThanTheEvents(t *testing.T) {
	const under = 500 * time.Millisecond
	for _, tc := range []struct {
		name  string
		first func(b *bench) // what is inspected
		then  func(b *bench) // what happens before the answer
		want  map[string]uint16
	}{
		{"it ends and starts again", func(b *bench) { b.engine.end("a", 0) },
			func(b *bench) { b.engine.put("start", published("a", 8001)) }, map[string]uint16{"a-name:80": 8001}},
		{"it is removed and made again", func(b *bench) { b.engine.destroy("a") },
			func(b *bench) { b.engine.put("start", published("a", 8002)) }, map[string]uint16{"a-name:80": 8002}},
		{"it changes and ends", func(b *bench) { b.engine.put("update", published("a", 8003)) },
			func(b *bench) { b.engine.end("a", 0) }, map[string]uint16{}},
		{"it starts while all are listed", func(b *bench) { b.Resync() },
			func(b *bench) { b.engine.put("start", published("b", 8004)) }, map[string]uint16{"a-name:80": 8000, "b-name:80": 8004}},
		{"it ends while all are listed", func(b *bench) { b.Resync() },
			func(b *bench) { b.engine.end("a", 0) }, map[string]uint16{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			watching(t, Config{Resync: time.Hour}, func(b *bench) {
				b.engine.put("start", published("a", 8000))
				b.registers(map[string]uint16{"a-name:80": 8000})
				b.engine.set(func() { b.engine.slow = time.Second })
				tc.first(b)
				time.Sleep(under)
				tc.then(b)
				time.Sleep(3 * time.Second)
				b.registers(tc.want)
			})
		})
	}
}

// A look at all containers that finds nothing new is reported once, and not for each of
// them: to tell of one takes as long as there are services.
func TestResyncThatFindsNothingIsReportedOnce(t *testing.T) {
	watching(t, Config{}, func(b *bench) {
		const containers = 300
		b.engine.set(func() {
			for n := range containers {
				c := published(fmt.Sprintf("c%03d", n), 10000+n)
				b.engine.containers[c.ID] = c
			}
			b.engine.slow = 10 * time.Millisecond
		})
		b.Resync()
		time.Sleep(5 * time.Second)
		before := b.View()
		if !before.Complete() || len(before.Containers) != containers {
			b.Fatalf("%d containers are known, complete: %t", len(before.Containers), before.Complete())
		}
		reported := 0
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range b.Watch(ctx) {
				reported++
			}
		}()
		synctest.Wait()
		b.Resync()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		cancel()
		<-done
		after := b.View()
		if n := after.Counters.Inspections - before.Counters.Inspections; n != containers || !after.Complete() {
			b.Errorf("%d inspections, complete: %t", n, after.Complete())
		}
		if reported > 10 {
			b.Errorf("it is reported %d times", reported)
		}

		// What has changed is reported at once, even if it is the time of its start alone: of two
		// that want the same the later one has it.
		b.engine.set(func() { b.engine.slow = 0 })
		for n, change := range []func(*engine.Container){
			func(c *engine.Container) { c.NetworkSettings.Ports["80/tcp"][0].HostPort = "9000" },
			func(c *engine.Container) { c.Name = "/renamed" },
			func(c *engine.Container) { c.State.StartedAt = time.Now().Add(time.Hour).Format(time.RFC3339Nano) },
		} {
			c := published("c000", 10000)
			change(&c)
			was := b.View()
			b.engine.put("update", c)
			synctest.Wait()
			if now := b.View(); now.Counters.Inspections == was.Counters.Inspections {
				b.Errorf("change %d is not reported", n)
			}
		}
	})
}

// Of a container with thousands of ports some of what is wrong is reported, and how much it is.
func TestManyProblemsAreReported(t *testing.T) {
	const wrong = 3000
	services := func(c engine.Container, _ func(string) (engine.Container, bool)) ([]grammar.Service, []error) {
		var errs []error
		for n := range wrong {
			errs = append(errs, fmt.Errorf("%w: port %d is odd", driver.ErrInvalid, n))
		}
		return nil, errs
	}
	watching(t, Config{Services: services}, func(b *bench) {
		b.engine.put("start", published("a", 8000))
		err := b.container("a").Err
		if err == nil || !errors.Is(err, driver.ErrInvalid) || len(err.Error()) > 2000 || !strings.Contains(err.Error(), "port 15 is odd") || !strings.HasSuffix(err.Error(), "and 2984 more such") {
			b.Errorf("%d bytes: %.300s", len(fmt.Sprint(err)), err)
		}
	})
}

// What the events did not tell of is found on the timer.
func TestResync(t *testing.T) {
	watching(t, Config{}, func(b *bench) {
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
			watching(t, Config{}, func(b *bench) {
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
				if n := b.logged("container engine not followed"); n == 0 || n > 2 {
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
	watching(t, Config{}, func(b *bench) {
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
			watching(t, Config{}, func(b *bench) {
				b.engine.put("start", published("b", 8001))
				b.registers(map[string]uint16{"b-name:80": 8001})
				fault(b.engine, true)
				b.engine.put("start", published("a", 8000))
				b.engine.set(func() { b.engine.emit(engine.Event{ID: "b", Action: "update"}) })
				time.Sleep(together)
				b.registers(map[string]uint16{"a-name:80": 8000, "b-name:80": 8001})
				time.Sleep(5 * time.Minute)
				b.engine.put("start", published("c", 8002))
				time.Sleep(together)
				b.registers(map[string]uint16{"a-name:80": 8000, "b-name:80": 8001, "c-name:80": 8002})
				if b.container("b").Err == nil {
					b.Error("the view says nothing of it")
				}
				if n := b.logged("container not inspected"); n != 1 {
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
	watching(t, Config{}, func(b *bench) {
		c := published("a", 8000)
		c.NetworkSettings.Ports["81/tcp"] = []engine.Binding{{HostPort: "many"}}
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
			watching(t, Config{KeepFailed: true}, func(b *bench) {
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
	watching(t, Config{KeepFailed: true}, func(b *bench) {
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
	services := func(c engine.Container, other func(string) (engine.Container, bool)) ([]grammar.Service, []error) {
		target, ok := strings.CutPrefix(c.HostConfig.NetworkMode, "container:")
		if !ok {
			return nil, nil
		}
		t, ok := other(target)
		if !ok {
			return nil, []error{driver.ErrNotFound}
		}
		return []grammar.Service{{ID: c.ID, Name: "web", Address: t.NetworkSettings.Networks["bridge"].IPAddress, Port: 80}}, nil
	}
	watching(t, Config{Services: services}, func(b *bench) {
		at := func(ip string) engine.Container {
			c := published("a", 8000)
			c.NetworkSettings.Networks = map[string]engine.Endpoint{"bridge": {IPAddress: ip}}
			return c
		}
		sharer := engine.Container{ID: "b", State: stateOf(true, 0), HostConfig: engine.HostConfig{NetworkMode: "container:a"}}
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
	watching(t, Config{Concurrency: 8}, func(b *bench) {
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

// stagedWithNetwork is a stagedEngine with a network n1 of the driver ipvlan.
type stagedWithNetwork struct{ *stagedEngine }

func (stagedWithNetwork) Network(_ context.Context, id string) (engine.Network, error) {
	if id != "n1" {
		return engine.Network{}, fmt.Errorf("%w: no such network", driver.ErrNotFound)
	}
	return engine.Network{Driver: "ipvlan"}, nil
}

// A registrar asks the engine what kind a container's network is.
func TestWatcherKnowsNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := stagedWithNetwork{newStagedEngine()}
		c := published("hole", 8000)
		c.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}}
		c.HostConfig.NetworkMode = "back"
		c.NetworkSettings.Ports = map[string][]engine.Binding{"80/tcp": nil}
		c.NetworkSettings.Networks = map[string]engine.Endpoint{"back": {IPAddress: "172.30.0.5"}, "lan": {NetworkID: "n1", IPAddress: "192.168.66.50"}}
		w.containers[c.ID] = c
		watcher := New(Config{Engine: w, Services: grammar.Rules{Hostname: "hostname", HostIP: "192.168.1.102"}.Services})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); watcher.Run(ctx) }()
		synctest.Wait()
		v := watcher.View()
		if len(v.Containers) != 1 || len(v.Containers[0].Services) != 1 || v.Containers[0].Services[0].Address != "192.168.66.50" {
			t.Errorf("%+v", v)
		}
		cancel()
		<-done
	})
}
