package host

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// rival starts a registrar of another host that has the same name, over the first of the
// providers.
func (l *lab) rival(containers *crew, cleanup bool) *Registrar {
	l.Helper()
	registry := discovery.New("one", l.one.Driver(), discovery.Options{})
	r, err := Start(Config{
		Registries: []*discovery.Registry{registry}, Engine: containers, Cleanup: cleanup,
		Rules: grammar.Rules{Hostname: "hostname", HostIP: "192.168.1.103"},
	})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		r.Stop(context.Background())
		registry.Close()
	})
	return r
}

// Two hosts with one name register the same ids for what runs on both. Each reports it
// with the hint, seldom, and no longer when it is over.
func TestTwoHostsWithOneName(t *testing.T) {
	onHost(t, nil, func(l *lab) {
		l.run(map[string]int{"c1": 8000, "alone": 8001})
		synctest.Wait()
		other := newCrew()
		other.run(map[string]int{"c1": 9000})
		r := l.rival(other, false)
		time.Sleep(5 * time.Minute)
		const hint = "if another host has the name hostname, or another registrar runs on this one, give each a registrar.hostname of its own"
		problems := strings.Join(l.Status().Report().Problems, "\n")
		if want := "provider one: somebody else registers service web with id hostname:c1:80 at 192.168.1.103:9000, and this registrar at 192.168.1.102:8000; " + hint; problems != want {
			l.Errorf("problems %q, want %s", problems, want)
		}
		if p := r.Status().Report().Problems; len(p) != 1 || !strings.Contains(p[0], "192.168.1.102:8000, and this registrar at 192.168.1.103:9000") {
			l.Errorf("the other has the problems %q", p)
		}
		reported := strings.Count(l.logs.String(), "registration contested")
		if repairs := strings.Count(l.logs.String(), "registration missing or changed"); reported != 1 || repairs > 2 || !strings.Contains(l.logs.String(), hint) {
			l.Errorf("reported %d times within five minutes, and of repairs %d times:\n%s", reported, repairs, l.logs)
		}
		l.holds(l.one, "web hostname:alone:80 192.168.1.102:8001", "web hostname:c1:80 192.168.1.102:8000") // the other yields
		r.Stop(context.Background())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := strings.Count(l.logs.String(), "registration no longer contested"); n != 1 {
			l.Errorf("its end was reported %d times:\n%s", n, l.logs)
		}
		l.holds(l.one, "web hostname:alone:80 192.168.1.102:8001", "web hostname:c1:80 192.168.1.102:8000")
		if p := l.Status().Report().Problems; len(p) > 0 {
			l.Errorf("afterwards: %q", p)
		}
	})
}

// What runs on one of them alone looks like something that was left behind to the other,
// which takes it away once.
func TestCleanUpUnderTheNameOfAnother(t *testing.T) {
	onHost(t, func(_ *lab, c *Config) { c.Cleanup = true }, func(l *lab) {
		l.run(map[string]int{"c1": 8000})
		other := newCrew()
		other.run(map[string]int{"theirs": 9000})
		r := l.rival(other, false)
		time.Sleep(25 * time.Minute)
		l.holds(l.one, "web hostname:c1:80 192.168.1.102:8000", "web hostname:theirs:80 192.168.1.103:9000")
		const want = "provider one: somebody else keeps service web with id hostname:theirs:80 registered at 192.168.1.103:9000, of a container that does not run here; if another host has the name hostname"
		if p := l.Status().Report().Problems; len(p) != 1 || !strings.HasPrefix(p[0], want) {
			l.Errorf("problems %q, want %s", p, want)
		}
		if n := strings.Count(l.logs.String(), "registration kept by others"); n != 1 || !strings.Contains(l.logs.String(), "registrar.hostname") {
			l.Errorf("reported %d times:\n%s", n, l.logs)
		}
		r.Stop(context.Background())
		time.Sleep(15 * time.Minute)
		if p := l.Status().Report().Problems; len(p) > 0 {
			l.Errorf("afterwards: %q", p)
		}
	})
}

// A predecessor that is about to end is no rival.
func TestTakeOverIsNoContest(t *testing.T) {
	onHost(t, nil, func(l *lab) {
		l.run(map[string]int{"c1": 8000})
		synctest.Wait()
		other := newCrew()
		other.run(map[string]int{"c1": 9000})
		r := l.rival(other, false)
		time.Sleep(100 * time.Millisecond)
		r.Stop(context.Background())
		time.Sleep(time.Minute)
		if p := l.Status().Report().Problems; len(p) > 0 || strings.Contains(l.logs.String(), "again and again") {
			l.Errorf("problems %q\n%s", p, l.logs)
		}
		l.bothHold("web hostname:c1:80 192.168.1.102:8000")
	})
}
