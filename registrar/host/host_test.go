package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

func TestContainersAndServices(t *testing.T) {
	onHost(t, func(_ *lab, c *Config) {
		c.Services = []declared.Service{{Name: "db", Address: ":5432"}, {Name: "ext", ID: "e1", Address: "ext.example:80"}}
	}, func(l *lab) {
		db, ext := "db hostname:db:5432 192.168.1.102:5432", "ext e1 ext.example:80"
		l.bothHold(db, ext)
		l.run(map[string]int{"c1": 8000, "c2": 8001})
		l.bothHold(db, ext, "web hostname:c1:80 192.168.1.102:8000", "web hostname:c2:80 192.168.1.102:8001")
		if err := l.Status().Ready(); err != nil {
			l.Errorf("not ready: %v", err)
		}
		l.end("c1", 1)
		l.bothHold(db, ext, "web hostname:c2:80 192.168.1.102:8001")
		if err := l.Stop(context.Background()); err != nil {
			l.Fatal(err)
		}
		l.bothHold()
	})
}

// One provider may be away, and one of two ports refused.
func TestPartialFailures(t *testing.T) {
	onHost(t, func(l *lab, _ *Config) {
		l.two.Fail(driver.ErrUnavailable)
		l.picky.set("hostname:c1:443", true)
	}, func(l *lab) {
		l.begin("c1", map[string]int{"80/tcp": 8000, "443/tcp": 4443})
		p80, p443 := "web-80 hostname:c1:80 192.168.1.102:8000", "web-443 hostname:c1:443 192.168.1.102:4443"
		time.Sleep(5 * time.Minute)
		l.holds(l.one, p80)
		err := l.Status().Ready()
		if err == nil || !strings.Contains(err.Error(), "provider one: service web-443") || !strings.Contains(err.Error(), "provider two: ") {
			l.Errorf("waits for %v", err)
		}
		l.picky.set("hostname:c1:443", false)
		time.Sleep(6 * time.Second)
		l.holds(l.one, p80, p443)
		l.two.Fail(nil)
		time.Sleep(6 * time.Second)
		l.bothHold(p80, p443)
		if err := l.Status().Ready(); err != nil {
			l.Errorf("not ready: %v", err)
		}
	})
}

// What one container has set may be more than a provider keeps. That one is a problem, and the
// registrar is ready: nothing that can be registered is missing.
func TestOneContainerThatNoProviderTakes(t *testing.T) {
	onHost(t, func(l *lab, _ *Config) {
		for n := range 9 {
			l.picky.never[fmt.Sprintf("hostname:big:%d", 80+n)] = true
		}
	}, func(l *lab) {
		l.run(map[string]int{"c1": 8000})
		l.begin("big", map[string]int{"80/tcp": 9000})
		time.Sleep(5 * time.Minute)
		c1 := "web hostname:c1:80 192.168.1.102:8000"
		l.holds(l.one, c1)
		l.holds(l.two, c1, "web hostname:big:80 192.168.1.102:9000")
		if err := l.Status().Ready(); err != nil {
			l.Errorf("not ready: %v", err)
		}
		report := l.Status().Report()
		want := "provider one: service web, id hostname:big:80 is not registered: "
		if !report.Ready || len(report.Problems) != 1 || !strings.HasPrefix(report.Problems[0], want) || !strings.Contains(report.Problems[0], "99 pairs of meta") {
			l.Errorf("ready: %t, problems %q", report.Ready, report.Problems)
		}
		// What is refused for now is waited for all the same.
		l.picky.set("hostname:c1:80", true)
		l.end("c1", 0)
		l.run(map[string]int{"c1": 8001})
		time.Sleep(time.Minute)
		if err := l.Status().Ready(); err == nil || !strings.Contains(err.Error(), "hostname:c1:80") {
			l.Errorf("waits for %v", err)
		}
		l.picky.set("hostname:c1:80", false)
		ports := make(map[string]int)
		for n := range 9 {
			ports[fmt.Sprintf("%d/tcp", 80+n)] = 9000 + n
		}
		l.end("big", 0)
		l.begin("big", ports)
		time.Sleep(time.Minute)
		report = l.Status().Report()
		if len(report.Problems) != 5 || !strings.Contains(report.Problems[4], "5 more services are not registered") || !report.Ready {
			l.Errorf("ready: %t (%s), problems %q", report.Ready, report.WaitingFor, report.Problems)
		}
	})
}

// etcd says in two ways that a value is too large for it.
func TestContainerTooLargeForEtcd(t *testing.T) {
	t.Parallel()
	server := testserver.StartEtcd(t)
	containers := newCrew()
	containers.begin("small", map[string]int{"80/tcp": 8000})
	for name, size := range map[string]int{"large": 1_700_000, "huge": 5_000_000} {
		containers.begin(name, map[string]int{"80/tcp": 9000}, "SERVICE_X="+strings.Repeat("x", size))
	}
	d, err := etcd.New(etcd.Config{Endpoints: []string{server.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	registry := discovery.New("etcd", d, discovery.Options{})
	t.Cleanup(func() { registry.Close() })
	r, err := Start(Config{Registries: []*discovery.Registry{registry}, Engine: containers, Rules: grammar.Rules{Hostname: "h1", HostIP: "10.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Stop(context.Background()) })
	wait.NoError(t, func() error {
		s := r.Status()
		report := s.Report()
		if !report.Ready || len(report.Problems) != 2 || report.Providers[0].Registered != 1 {
			return fmt.Errorf("ready: %t (%.300s), %d registered, problems %.900q", report.Ready, report.WaitingFor, report.Providers[0].Registered, report.Problems)
		}
		return nil
	})
}

func TestProviderLosesItsMemory(t *testing.T) {
	onHost(t, nil, func(l *lab) {
		l.run(map[string]int{"c1": 8000})
		l.bothHold("web hostname:c1:80 192.168.1.102:8000")
		l.two.Wipe()
		time.Sleep(6 * time.Second)
		l.bothHold("web hostname:c1:80 192.168.1.102:8000")
	})
}

func TestRestartWithAnotherPort(t *testing.T) {
	onHost(t, func(_ *lab, c *Config) { c.Deregister = DeregisterOnSuccess }, func(l *lab) {
		l.run(map[string]int{"c1": 8000})
		l.bothHold("web hostname:c1:80 192.168.1.102:8000")
		l.end("c1", 1)
		time.Sleep(3 * time.Minute)
		l.bothHold("web hostname:c1:80 192.168.1.102:8000")
		l.run(map[string]int{"c1": 9000})
		l.bothHold("web hostname:c1:80 192.168.1.102:9000")
		l.end("c1", 143)
		l.bothHold()
	})
}

func TestSameIDTwice(t *testing.T) {
	onHost(t, func(_ *lab, c *Config) {
		c.Services = []declared.Service{{Name: "web", ID: "x", Address: ":1"}}
	}, func(l *lab) {
		l.begin("c1", map[string]int{"80/tcp": 8000}, "SERVICE_ID=x")
		l.bothHold("web x 192.168.1.102:1")
		report := l.Status().Report()
		if len(report.Services) != 2 || !strings.Contains(report.Services[1].Error, "another id") {
			l.Errorf("%+v", report.Services)
		}
		if n := strings.Count(l.logs.String(), "not all is registered"); n != 1 {
			l.Errorf("logged %d times:\n%s", n, l.logs)
		}
	})
}

// The address of the host may be found late, and may change.
func TestAddressOfTheHost(t *testing.T) {
	var ip atomic.Pointer[netip.Addr]
	onHost(t, func(_ *lab, c *Config) {
		c.Rules.HostIP = ""
		c.Services = []declared.Service{{Name: "db", Address: ":5432"}}
		c.Advertise.Route = func(netip.Addr) (netip.Addr, error) {
			if a := ip.Load(); a != nil {
				return *a, nil
			}
			return netip.Addr{}, errors.New("no route")
		}
		c.Advertise.Interfaces = func() ([]advertise.Interface, error) {
			if a := ip.Load(); a != nil {
				return []advertise.Interface{{Index: 1, Name: "eth0", Up: true, Addrs: []netip.Addr{*a}}}, nil
			}
			return nil, nil
		}
		c.Advertise.Isolated = func(string) string { return "" }
	}, func(l *lab) {
		l.run(map[string]int{"c1": 8000})
		time.Sleep(time.Minute)
		l.bothHold()
		report := l.Status().Report()
		if len(report.Problems) != 2 || !strings.Contains(report.Problems[1], "detect.host_ip") || !strings.Contains(report.Services[0].Error, "detect.host_ip") {
			l.Errorf("problems %q, services %+v", report.Problems, report.Services)
		}
		for _, text := range []string{"192.168.1.7", "192.168.1.8"} {
			a := netip.MustParseAddr(text)
			ip.Store(&a)
			time.Sleep(time.Minute)
			l.bothHold("db hostname:db:5432 "+text+":5432", "web hostname:c1:80 "+text+":8000")
		}
	})
}

func TestKeepOnStop(t *testing.T) {
	onHost(t, func(_ *lab, c *Config) { c.KeepOnStop = true }, func(l *lab) {
		l.run(map[string]int{"c1": 8000})
		l.bothHold("web hostname:c1:80 192.168.1.102:8000")
		if err := l.Stop(context.Background()); err != nil {
			l.Fatal(err)
		}
		l.bothHold("web hostname:c1:80 192.168.1.102:8000")
		time.Sleep(time.Minute)
		l.bothHold()
	})
}

// An engine that is away takes nothing with it.
func TestEngineAway(t *testing.T) {
	onHost(t, func(l *lab, c *Config) {
		l.crew.down = driver.ErrUnavailable
		c.Services = []declared.Service{{Name: "db", Address: ":5432"}}
	}, func(l *lab) {
		db := "db hostname:db:5432 192.168.1.102:5432"
		l.bothHold(db)
		if err := l.Status().Ready(); err == nil || !strings.Contains(err.Error(), "engine") {
			l.Errorf("waits for %v", err)
		}
		l.crew.set(func() { l.crew.down = nil })
		l.run(map[string]int{"c1": 8000})
		time.Sleep(16 * time.Second)
		l.bothHold(db, "web hostname:c1:80 192.168.1.102:8000")
		l.crew.set(func() { l.crew.down = driver.ErrUnavailable })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		l.bothHold(db, "web hostname:c1:80 192.168.1.102:8000")
	})
}

func TestConfigThatIsRefused(t *testing.T) {
	for _, c := range []Config{
		{Rules: grammar.Rules{Hostname: "h"}},
		{Rules: grammar.Rules{Hostname: "a:b"}},
		{Rules: grammar.Rules{Hostname: "h", Tags: []string{"{{"}}},
	} {
		if _, err := Start(c); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// The status says where the address of this host comes from, the configuration's before all.
func TestStatusOfTheAddress(t *testing.T) {
	for name, v := range map[string]struct {
		rules    func(*Config)
		found    string // by detection
		ip, from string
	}{
		"configured for the host": {func(c *Config) { c.Rules.HostIP = "192.168.1.102" }, "", "192.168.1.102", "detect.host_ip"},
		"configured for all":      {func(c *Config) { c.Rules.IP = "10.9.8.7" }, "", "10.9.8.7", "registrar.ip"},
		"found":                   {func(c *Config) { c.Rules.HostIP = "192.168.1.102" }, "the route", "192.168.1.102", "the route"},
		"found, and configured":   {func(c *Config) { c.Rules.IP = "10.9.8.7" }, "the route", "10.9.8.7", "registrar.ip"},
	} {
		t.Run(name, func(t *testing.T) {
			onHost(t, func(l *lab, c *Config) { v.rules(c) }, func(l *lab) {
				l.Registrar.mu.Lock()
				l.hostSrc = v.found
				l.Registrar.mu.Unlock()
				if s := l.Status(); s.HostIP != v.ip || s.HostSource != v.from || s.HostErr != nil {
					l.Errorf("the address is %s of %q, %v; want %s of %q", s.HostIP, s.HostSource, s.HostErr, v.ip, v.from)
				}
			})
		})
	}
}

// What is to go counts neither as wanted nor as registered.
func TestWanted(t *testing.T) {
	var p ProviderStatus
	p.Instances = []registrar.InstanceStatus{{Registered: true}, {}, {Leaving: true, Registered: true}, {Leaving: true}, {Registered: true}}
	if wanted, registered := p.Wanted(); wanted != 3 || registered != 2 {
		t.Errorf("%d are wanted and %d registered, want 3 and 2", wanted, registered)
	}
}
