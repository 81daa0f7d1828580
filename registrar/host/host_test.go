package host

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/registrar/docker"
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
	onHost(t, func(_ *lab, c *Config) { c.Deregister = docker.OnSuccess }, func(l *lab) {
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
		report := l.Status().report()
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
		report := l.Status().report()
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
		{Rules: docker.Rules{Hostname: "h"}},
		{Rules: docker.Rules{Hostname: "a:b"}},
		{Rules: docker.Rules{Hostname: "h", Tags: []string{"{{"}}},
	} {
		if _, err := Start(c); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
