package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/snapshot"
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

// What a record says of itself names what is taken away as far as it is of this host: an id of
// the form HOST:NAME:PORT, of a container that is none, under the service where it stands.
func TestCleanupOfHostileRecords(t *testing.T) {
	at := func(service, node, id, addr string) driver.Instance {
		return driver.Instance{Service: service, NodeID: node, InstanceID: id, Addr: addr}
	}
	const host, ours = "hostname", "192.168.1.102:8000"
	for name, v := range map[string]struct {
		record driver.Instance
		goes   bool
	}{
		"ours and gone":                         {at("web", "", "hostname:gone:80", ours), true},
		"in the name of another node":           {at("web", "other", "hostname:gone:80", "10.0.0.66:1"), true}, // the id says whose it is
		"our node name, another host's id":      {at("web", host, "other:gone:80", ours), false},
		"our node name, an id of any form":      {at("web", host, "vault", ours), false},
		"the id of what runs, elsewhere":        {at("vault", "", "hostname:ww:80", ours), false},
		"our own id, of another service":        {at("vault", host, "hostname:ww:81", ours), false},
		"the host alone":                        {at("web", host, "hostname", ours), false},
		"no name":                               {at("web", host, "hostname::80", ours), false},
		"no port":                               {at("web", host, "hostname:gone:", ours), false},
		"no id":                                 {at("web", host, "", "192.168.1.102:1"), false},
		"a path":                                {at("web", host, "hostname:../../vault:80", ours), false},
		"a path before":                         {at("web", host, "../hostname:gone:80", ours), false},
		"a name that starts as ours":            {at("web", host, "hostname2:gone:80", ours), false},
		"a name that ends as ours":              {at("web", host, "x-hostname:gone:80", ours), false},
		"a domain":                              {at("web", host, "hostname.example:gone:80", ours), false},
		"in capitals":                           {at("web", host, "HOSTNAME:gone:80", ours), false},
		"two lines":                             {at("web", host, "other:x:80\nhostname:gone:80", ours), false},
		"a huge name":                           {at("web", host, "hostname:"+strings.Repeat("x", 1<<16)+":80/..", ours), false},
		"a node that is named as its host":      {at("web", host, "hostname:hostname:80", ours), false},
		"of a service that is not cleaned":      {at("orders", host, "hostname:gone:80", ours), false},
		"of a service that starts so":           {at("orders2", host, "hostname:gone:80", ours), true},
		"the id that a node gives itself":       {at("web", host, strings.Repeat("0", 32), ours), false},
		"of a container that has a longer name": {at("web", host, "hostname:w:80", ours), false}, // two letters at least
	} {
		t.Run(name, func(t *testing.T) {
			onHost(t, func(l *lab, c *Config) {
				c.Cleanup = true
				c.Spared = []string{"orders"}
				l.run(map[string]int{"ww": 8000})
				l.one.Put(left("web", "other:beside:80"))
				l.one.Put(v.record)
			}, func(l *lab) {
				time.Sleep(time.Hour)
				reader := discovery.New("reader", l.one.Driver(), discovery.Options{})
				defer reader.Close()
				found, err := reader.List(l.Context(), discovery.Query{Service: v.record.Service})
				if err != nil {
					l.Fatal(err)
				}
				there := slices.ContainsFunc(snapshot.Instances(found), func(i discovery.Instance) bool {
					return i.InstanceID == v.record.InstanceID && i.Addr == v.record.Addr && i.NodeID == v.record.NodeID
				})
				if there == v.goes {
					l.Errorf("it is there: %v; of its service are listed %.300v", there, snapshot.Instances(found))
				}
				want := uint64(0)
				if v.goes {
					want = 1
				}
				if n := l.Status().Providers[0].Evictions; n != want {
					l.Errorf("%d evictions, want %d", n, want)
				}
			})
		})
	}
}

// byNode is a provider in memory that keeps instances under ids of its own making, which
// have the form of a container's, as some of the systems do whose records Muster writes.
type byNode struct{ driver.Driver }

func (byNode) Normalize(i driver.Instance) driver.Instance {
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
	return s.Session.Register(ctx, s.b.Normalize(i))
}

func (s byNodeSession) Deregister(ctx context.Context, i driver.Instance) error {
	return s.Session.Deregister(ctx, s.b.Normalize(i))
}

// oneFails is a provider in memory of which one service cannot be read.
type oneFails struct{ byNode }

func (f oneFails) Normalize(i driver.Instance) driver.Instance { return i }

func (f oneFails) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if q.Service == "bad" {
		return driver.Snapshot{}, driver.ErrUnavailable
	}
	return f.Driver.List(ctx, q)
}

func (f oneFails) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	return f.Driver.(driver.Registrar).OpenSession(ctx, o)
}

// A service that cannot be read keeps nobody from cleaning up the others, before and
// after it.
func TestCleanupGoesOnBesideAFailure(t *testing.T) {
	memory := memory.New()
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		c.Registries = append(c.Registries, discovery.New("three", oneFails{byNode{memory.Driver()}}, discovery.Options{}))
		memory.Put(left("aaa", "hostname:gone:80"), left("bad", "hostname:gone:80"), left("zzz", "hostname:gone:80"), left("zzz", "other:gone:80"))
	}, func(l *lab) {
		time.Sleep(2 * time.Minute)
		l.holds(memory, "bad hostname:gone:80 192.168.1.102:7000", "zzz other:gone:80 192.168.1.102:7000")
		if p := l.Status().Providers[2]; p.Evictions != 2 || p.CleanupErr == nil || !strings.Contains(p.CleanupErr.Error(), "bad") {
			l.Errorf("%d evictions, and the error %v", p.Evictions, p.CleanupErr)
		}
	})
}

// What is desired is not taken away where its provider keeps it under another id.
func TestCleanupOfIDsThatTheProviderMakes(t *testing.T) {
	memory := memory.New()
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
		if n := strings.Count(l.logs.String(), "cleanup fails"); n != 1 {
			l.Errorf("logged %d times", n)
		}
		l.one.Fail(nil)
		time.Sleep(2 * time.Minute)
		l.bothHold()
		if n := strings.Count(l.logs.String(), "cleanup works again"); n != 1 {
			l.Errorf("its end was logged %d times", n)
		}
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
		if n := strings.Count(l.logs.String(), "registration kept by others"); n != 1 {
			l.Errorf("logged %d times:\n%s", n, l.logs)
		}
	})
}

// What cannot be taken away as what it is stays, and the status says why.
func TestCleanupOfWhatWouldBeAnother(t *testing.T) {
	memory := memory.New()
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		c.Registries = append(c.Registries, discovery.New("three", byNode{memory.Driver()}, discovery.Options{}))
		memory.Put(left("web", "hostname:gone:80"))
	}, func(l *lab) {
		time.Sleep(10 * time.Minute)
		l.holds(memory, "web hostname:gone:80 192.168.1.102:7000")
		p := l.Status().Providers[2]
		if p.Evictions != 0 || !errors.Is(p.CleanupErr, driver.ErrInvalid) || !strings.Contains(p.CleanupErr.Error(), "hostname:gone:80") {
			l.Errorf("%d evictions, and the error %v", p.Evictions, p.CleanupErr)
		}
	})
}

// leaving is a provider in memory that reports what sessions have left behind, and notes
// what of it is asked for and when.
type leaving struct {
	oneFails
	all []driver.Instance
	*leavings
}

type leavings struct {
	mu    sync.Mutex
	asked []time.Time
	took  []string
}

func (l leaving) Reclaim(_ context.Context, own func(driver.Instance) bool) (gone []driver.Instance, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, time.Now())
	for _, i := range l.all {
		if own(i) {
			gone = append(gone, i)
			l.took = append(l.took, i.Service+" "+i.InstanceID)
		}
	}
	return gone, nil
}

// What is reclaimed is what a registrar of this host has registered, and what is not to be
// registered now: no other host's, no node's, nothing that is spared. It is looked for often
// after a start, when a predecessor has just gone, and then now and again.
func TestReclaimsItsOwnAlone(t *testing.T) {
	of := func(node, service, id string) driver.Instance {
		return driver.Instance{Service: service, NodeID: node, InstanceID: id, Addr: "192.168.1.102:7000"}
	}
	seen := new(leavings)
	onHost(t, func(l *lab, c *Config) {
		c.Cleanup = true
		c.Spared = []string{"orders"}
		l.run(map[string]int{"ww": 8000})
		c.Registries = append(c.Registries, discovery.New("three", leaving{
			oneFails{byNode{memory.New().Driver()}}, []driver.Instance{
				of("hostname", "web", "hostname:gone:80"), of("hostname", "web", "chosen"), of("hostname", "web", "hostname:ww:80"),
				of("other", "web", "hostname:gone:80"), of("", "web", "hostname:gone:80"), of("hostname", "orders", "hostname:gone:80"),
				of("hostname", "web", strings.Repeat("0", 32)),
			}, seen,
		}, discovery.Options{}))
	}, func(l *lab) {
		begun := time.Now()
		time.Sleep(5 * time.Second)
		seen.mu.Lock()
		if want := []string{"web hostname:gone:80", "web chosen"}; !slices.Equal(seen.took, want) {
			l.Errorf("reclaimed are %q, want %q", seen.took, want)
		}
		seen.mu.Unlock()
		if p := l.Status().Providers[2]; p.Evictions != 2 || p.CleanupErr != nil {
			l.Errorf("%d evictions, %v", p.Evictions, p.CleanupErr)
		}
		time.Sleep(3 * time.Hour)
		soon, late := 0, 0
		seen.mu.Lock()
		defer seen.mu.Unlock()
		for _, at := range seen.asked {
			if at.Sub(begun) <= reclaimOften {
				soon++
			} else {
				late++
			}
		}
		if soon < 25 || soon > 35 || late < 10 || late > 25 {
			l.Errorf("it was asked for %d times in the first %v, and %d times in the three hours after", soon, reclaimOften, late)
		}
	})
}
