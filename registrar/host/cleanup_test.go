package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/declared"
)

func TestContainerOf(t *testing.T) {
	for id, want := range map[string]string{
		"hostname:web:80":         "web",
		"hostname:web:53:udp":     "web",
		"hostname:web:99:sctp":    "web",
		"hostname:web_1.x-2:80":   "web_1.x-2",
		"hostname:web:80:tcp":     "",
		"host:a:b:80":             "",
		"hostname:a:b:80":         "",
		"web-1":                   "",
		"hostname:web:http":       "",
		"other:web:80":            "",
		"hostname2:web:80":        "",
		"hostname:-web:80":        "",
		"https.12345":             "",
		"0123456789abcdef01":      "",
		"x:hostname:web:80":       "",
		"hostname:web:80\nother":  "",
		"hostname:web:80 ":        "",
		" hostname:web:80":        "",
		"hostname:we b:80":        "",
		"hostname:web:80:udp:udp": "",
	} {
		name, ok := containerOf("hostname", id)
		if name != want || ok != (want != "") {
			t.Errorf("%q is of container %q, %v; want %q", id, name, ok, want)
		}
	}
}

func left(service, id string) driver.Instance {
	return driver.Instance{Service: service, InstanceID: id, Addr: "192.168.1.102:7000"}
}

// What registrator left behind without a TTL, what a predecessor left with one, and what
// is none of our business.
func TestCleanup(t *testing.T) {
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		c.Spared = []string{"orders"}
		l.run(map[string]int{"ww": 8000})
		l.one.Put(
			left("web", "hostname:ww:80"), left("web", "hostname:gone:80"), left("web", "other:gone:80"), left("web", "custom-id"),
			left("dns", "hostname:gone:53:udp"), left("ww-old", "hostname:ww:81"), left("orders", "hostname:node-1:7946"),
			driver.Instance{Service: "web", Addr: "192.168.1.102:7001"},
		)
	}, func(l *lab) {
		time.Sleep(2 * secondSearch)
		l.holds(l.one, "web hostname:ww:80 192.168.1.102:8000", "web other:gone:80 192.168.1.102:7000", "web custom-id 192.168.1.102:7000",
			"ww-old hostname:ww:81 192.168.1.102:7000", "orders hostname:node-1:7946 192.168.1.102:7000", "web  192.168.1.102:7001")
		l.holds(l.two, "web hostname:ww:80 192.168.1.102:8000")
		if n := l.Status().Providers[0].Evictions; n != 2 {
			l.Errorf("%d evictions", n)
		}
		// What is left behind later is found on the timer, in the other provider as well.
		l.two.Put(left("web", "hostname:late:80"))
		time.Sleep(24 * time.Minute)
		l.holds(l.two, "web hostname:ww:80 192.168.1.102:8000")
	})
}

// byNode is a provider in memory that keeps instances under ids of its own making, which
// have the form of a container's, as some of the systems do whose records Muster writes.
type byNode struct{ driver.Driver }

func (byNode) Reduce(i driver.Instance) driver.Instance {
	if _, port, err := net.SplitHostPort(i.Addr); err == nil {
		i.InstanceID = i.NodeID + ":" + i.NodeID + ":" + port
	}
	return i
}

func (b byNode) Services(ctx context.Context) ([]string, error) {
	return b.Driver.(driver.Cataloger).Services(ctx)
}

func (b byNode) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	s, err := b.Driver.(driver.Registrar).OpenSession(ctx, o)
	return byNodeSession{s, b}, err
}

type byNodeSession struct {
	driver.Session
	b byNode
}

func (s byNodeSession) Register(ctx context.Context, i driver.Instance) error {
	return s.Session.Register(ctx, s.b.Reduce(i))
}

func (s byNodeSession) Deregister(ctx context.Context, i driver.Instance) error {
	return s.Session.Deregister(ctx, s.b.Reduce(i))
}

// What is desired is not taken away where its provider keeps it under another id.
func TestCleanupOfIDsThatTheProviderMakes(t *testing.T) {
	memory := discoverytest.NewMemory()
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		c.Registries = append(c.Registries, discovery.New("three", byNode{memory.Driver()}, discovery.Options{}))
		l.begin("secure", map[string]int{"443/tcp": 8443}, "SERVICE_ID=https.12345")
	}, func(l *lab) {
		for range 5 {
			time.Sleep(11 * time.Minute)
			l.holds(memory, "web hostname:hostname:8443 192.168.1.102:8443")
		}
		l.bothHold("web https.12345 192.168.1.102:8443")
		for _, p := range l.Status().Providers {
			if p.Evictions != 0 {
				l.Errorf("%d evictions from %s", p.Evictions, p.Name)
			}
		}
	})
}

// The id of a declared service has the form of a container's. It is none that is gone, also
// before its check has passed for the first time.
func TestCleanupOfWhatIsDeclared(t *testing.T) {
	db := "db hostname:db:5432 192.168.1.102:7000"
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		c.Services = []declared.Service{{Name: "db", Address: ":5432", Check: declared.Check{Script: []string{"/no such program"}, Interval: time.Hour}}}
		l.one.Put(left("db", "hostname:db:5432"), left("db", "hostname:db:5433"))
	}, func(l *lab) {
		time.Sleep(time.Hour)
		l.holds(l.one, db)
		if s := l.Status(); s.Checks[0].Up {
			l.Errorf("status %+v", s.Checks)
		}
	})
}

// A node with format registrator has the id HOST:NODE:PORT, and the name of its host unless
// it was given one.
func TestCleanupOfANodeOfThisHost(t *testing.T) {
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		node := left("shop", "hostname:hostname:7946")
		node.NodeID = "hostname"
		l.one.Put(node)
	}, func(l *lab) {
		time.Sleep(time.Hour)
		l.holds(l.one, "shop hostname:hostname:7946 192.168.1.102:7000")
		if n := l.Status().Providers[0].Evictions; n != 0 {
			l.Errorf("%d evictions", n)
		}
	})
}

// What has changed from one search to the next is somebody's who is at work.
func TestCleanupOfWhatChanges(t *testing.T) {
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		l.one.Put(left("web", "hostname:busy:80"))
	}, func(l *lab) {
		time.Sleep(secondSearch / 2)
		busy := left("web", "hostname:busy:80")
		for n := range 5 {
			busy.Meta = map[string]string{"start": fmt.Sprint(n)}
			l.one.Put(busy)
			time.Sleep(9 * time.Minute)
			l.holds(l.one, "web hostname:busy:80 192.168.1.102:7000")
		}
		time.Sleep(24 * time.Minute)
		l.holds(l.one)
	})
}

func TestNoCleanupUnlessAsked(t *testing.T) {
	onHost(t, func(l *lab, _ *Config) { l.one.Put(left("web", "hostname:gone:80")) }, func(l *lab) {
		time.Sleep(time.Hour)
		l.holds(l.one, "web hostname:gone:80 192.168.1.102:7000")
	})
}

// Nothing is taken away as long as it is not known what runs.
func TestCleanupWaits(t *testing.T) {
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		l.run(map[string]int{"ww": 8000, "dim": 8001})
		l.crew.broken["dim"] = errors.New("not the JSON of docker inspect")
		l.one.Put(left("web", "hostname:dim:80"), left("web", "hostname:gone:80"))
	}, func(l *lab) {
		ww := "web hostname:ww:80 192.168.1.102:8000"
		time.Sleep(time.Hour)
		l.holds(l.one, ww, "web hostname:dim:80 192.168.1.102:7000", "web hostname:gone:80 192.168.1.102:7000")
		l.crew.set(func() { delete(l.crew.broken, "dim") })
		time.Sleep(20 * time.Second)
		l.holds(l.one, ww, "web hostname:dim:80 192.168.1.102:8001")
	})
}

func TestCleanupIsRetried(t *testing.T) {
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		l.one.Put(left("web", "hostname:gone:80"))
		l.two.Put(left("web", "hostname:gone:80"))
		l.one.Fail(driver.ErrUnavailable)
	}, func(l *lab) {
		time.Sleep(10 * time.Minute)
		l.holds(l.two)
		if err := l.Status().Providers[0].CleanupErr; err == nil {
			l.Error("the status says nothing of the clean-up that fails")
		}
		if n := strings.Count(l.logs.String(), "cannot clean up"); n != 1 {
			l.Errorf("logged %d times", n)
		}
		l.one.Fail(nil)
		time.Sleep(2 * time.Minute)
		l.bothHold()
	})
}

// Somebody else may keep an id of this form registered. It is not fought over.
func TestCleanupOfWhatComesBack(t *testing.T) {
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		l.one.Put(left("web", "hostname:node-1:7946"))
	}, func(l *lab) {
		time.Sleep(2 * secondSearch)
		l.holds(l.one)
		for range 10 {
			l.one.Put(left("web", "hostname:node-1:7946"))
			time.Sleep(20 * time.Minute)
			l.holds(l.one, "web hostname:node-1:7946 192.168.1.102:7000")
		}
		if n := strings.Count(l.logs.String(), "left alone"); n != 1 {
			l.Errorf("logged %d times:\n%s", n, l.logs)
		}
	})
}
