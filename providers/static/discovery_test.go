package static_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/static"
)

var query = driver.Query{Service: "orders"}

func addrs(s driver.Snapshot) []string {
	var all []string
	for _, i := range s.Instances {
		all = append(all, i.Addr)
	}
	return all
}

func TestConfigErrors(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	write(t, broken, "10.0.0.5:7946\n\n10.0.0.6 # no port\n")
	empty := filepath.Join(dir, "empty")
	write(t, empty, "")
	for _, c := range []struct {
		says   string
		config static.Config
		want   []string // parts, one line each
	}{
		{"nothing", static.Config{}, []string{`peers: "": no peer is configured`}},
		{"no port", static.Config{Peers: []string{"10.0.0.5"}}, []string{`peers[0]: "10.0.0.5": has no port; write HOST:PORT, such as 10.0.0.5:7946`}},
		{"no host either", static.Config{Peers: []string{"7946"}}, []string{`peers[0]: "7946": is a port without a host; name an address of the node, such as 10.0.0.5:7946`}},
		{"no port of IPv6", static.Config{Peers: []string{"[fd00::5]"}}, []string{`such as [fd00::5]:7946`}},
		{"IPv6 without brackets", static.Config{Peers: []string{"fd00::5:7946"}}, []string{`write IPv6 in brackets`}},
		{"unspecified", static.Config{Peers: []string{"0.0.0.0:7946"}}, []string{`nobody can dial 0.0.0.0; name an address of the node`}},
		{"unspecified IPv6", static.Config{Peers: []string{"[::]:7946"}}, []string{`nobody can dial ::`}},
		{"no host", static.Config{Peers: []string{":7946"}}, []string{`has no host`}},
		{"port 0", static.Config{Peers: []string{"10.0.0.5:0"}}, []string{`port "0" is not one; write a number from 1 to 65535`}},
		{"a high port", static.Config{Peers: []string{"10.0.0.5:65536"}}, []string{`port "65536" is not one`}},
		{"duplicates", static.Config{Peers: []string{"a:1", "[::ffff:10.0.0.5]:1", "A.:1", "10.0.0.5:1"}},
			[]string{`peers[2]: "A.:1": is the same as peers[0]`, `peers[3]: "10.0.0.5:1": is the same as peers[1]`}},
		{"no file", static.Config{File: filepath.Join(dir, "none")}, []string{`none": cannot be read: no such file or directory; make it`}},
		{"a directory", static.Config{File: dir}, []string{`cannot be read: is a directory`}},
		{"a broken file", static.Config{File: broken}, []string{`broken": line 3: "10.0.0.6": has no port`}},
		{"an empty file", static.Config{File: empty}, []string{`is empty`}},
		{"a bad name", static.Config{DNS: []string{"example.org"}}, []string{`dns[0]: "example.org": has no port`}},
		{"a bad service", static.Config{DNS: []string{"_muster.example.org", "_m._tcp.example.org:80"}}, []string{`dns[0]: "_muster.example.org": is no name of SRV`, `dns[1]:`}},
		{"a name twice", static.Config{DNS: []string{"a:1", "A:1"}}, []string{`dns[1]: "A:1": is the same as dns[0]`}},
		{"refresh", static.Config{Peers: []string{"a:1"}, Refresh: time.Millisecond}, []string{`refresh: "1ms": is less than 100ms`}},
		{"all at once", static.Config{Peers: []string{"a"}, File: "none", DNS: []string{"b"}}, []string{"peers[0]", "file", "dns[0]"}},
	} {
		_, err := static.New(c.config)
		if err == nil {
			t.Errorf("%s: no error", c.says)
			continue
		}
		var configErr *driver.ConfigError
		if !errors.As(err, &configErr) || !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v is no *driver.ConfigError", c.says, err)
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != len(c.want) {
			t.Errorf("%s: %d lines, want %d:\n%v", c.says, len(lines), len(c.want), err)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(lines[i], want) {
				t.Errorf("%s: %q does not say %q", c.says, lines[i], want)
			}
		}
	}
}

func TestRegistered(t *testing.T) {
	p, err := driver.Lookup(static.Name)
	if err != nil {
		t.Fatal(err)
	}
	c := p.NewConfig().(*static.Config)
	c.Peers = []string{"a:1"}
	d, err := p.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := d.List(wait.Context(t), query); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("List after Close: %v", err)
	}
	if _, ok := d.(driver.Registrar); ok {
		t.Error("a list takes no registrations")
	}
	if _, err := p.Open("x"); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("Open of a string: %v", err)
	}
}

func TestListKeepsNamesAndOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers")
	write(t, path, "# ours\r\n  c.example:7946   # the third\r\n\n[fd00::5]:7946\na.example:7946\n")
	d := open(t, static.Config{Peers: []string{"b.example:7946", "a.example:7946"}, File: path})
	s, err := d.List(wait.Context(t), query)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"[fd00::5]:7946", "a.example:7946", "b.example:7946", "c.example:7946"}
	if diff := cmp.Diff(want, addrs(s)); diff != "" {
		t.Error(diff)
	}
	if i := s.Instances[0]; i.Service != "orders" || i.InstanceID != "" || i.Validate() != nil {
		t.Errorf("instance %+v", i)
	}
	again, err := d.List(wait.Context(t), query)
	if err != nil || again.Revision != s.Revision || s.Revision == 0 {
		t.Errorf("revision %d, then %d, %v", s.Revision, again.Revision, err)
	}
	if _, err := d.List(wait.Context(t), driver.Query{}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("a query without a service: %v", err)
	}
}

// next returns what the registry yields next that f accepts.
func next(t *testing.T, from <-chan discovery.Snapshot, what string, f func(discovery.Snapshot) bool) discovery.Snapshot {
	t.Helper()
	deadline := time.After(wait.Patience)
	var last discovery.Snapshot
	for {
		select {
		case last = <-from:
			if f(last) {
				return last
			}
		case <-deadline:
			t.Fatalf("no %s; last %+v", what, last)
		}
	}
}

// watch follows a registry over d until the test ends.
func watch(t *testing.T, d driver.Driver) <-chan discovery.Snapshot {
	t.Helper()
	r := discovery.New("static", d, discovery.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	out := make(chan discovery.Snapshot)
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := range r.Watch(ctx, query) {
			select {
			case out <- s:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		r.Close()
	})
	return out
}

// is accepts a set that is good now.
func is(want ...string) func(discovery.Snapshot) bool {
	return func(s discovery.Snapshot) bool {
		var got []string
		for _, i := range snapshot.Instances(s) {
			got = append(got, i.Addr)
		}
		return s.Known && !s.Stale && slices.Equal(got, want)
	}
}

// TestBrokenEdit: package discovery keeps the last good list, and says which file
// and line is at fault and how to fix it.
func TestBrokenEdit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers")
	write(t, path, "a:1\nb:1\n")
	from := watch(t, open(t, static.Config{File: path, Refresh: time.Hour}))
	next(t, from, "first list", is("a:1", "b:1"))
	for _, c := range []struct{ content, problem string }{
		{"a:1\nb:1\nc\n", `line 3: "c": has no port; write HOST:PORT, such as c:7946`},
		{"", "is empty"},
		{"0.0.0.0:1\n", `line 1: "0.0.0.0:1": nobody can dial 0.0.0.0`},
	} {
		// In place, as careless editors do.
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		s := next(t, from, "stale list", func(s discovery.Snapshot) bool { return s.Stale })
		if got := len(snapshot.Instances(s)); got != 2 {
			t.Errorf("with %q the list has %d entries", c.content, got)
		}
		if msg := fmt.Sprint(s.Err); !strings.Contains(msg, path) || !strings.Contains(msg, c.problem) || strings.Contains(msg, "\n") {
			t.Errorf("with %q it says %q, which lacks the file or %q", c.content, msg, c.problem)
		}
		write(t, path, "b:1\na:1\n")
		next(t, from, "good list again", is("a:1", "b:1"))
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next(t, from, "stale list", func(s discovery.Snapshot) bool {
		return s.Stale && strings.Contains(fmt.Sprint(s.Err), "no such file")
	})
	write(t, path, "c:1\n")
	next(t, from, "another list", is("c:1"))
	write(t, path, "# nobody for now\n")
	next(t, from, "list of none", func(s discovery.Snapshot) bool { return s.Known && !s.Stale && len(snapshot.Instances(s)) == 0 })
}

// TestLinkSwap is how Kubernetes replaces a mounted file: the file is a link into
// a directory that is a link, and only that one is replaced.
func TestLinkSwap(t *testing.T) {
	dir := t.TempDir()
	version := func(n int, content string) {
		t.Helper()
		real := fmt.Sprintf("..%d", n)
		if err := os.Mkdir(filepath.Join(dir, real), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, real, "peers"), content)
		if err := os.Symlink(real, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version(1, "a:1\n")
	path := filepath.Join(dir, "peers")
	if err := os.Symlink(filepath.Join("..data", "peers"), path); err != nil {
		t.Fatal(err)
	}
	from := watch(t, open(t, static.Config{File: path, Refresh: time.Hour}))
	next(t, from, "first list", is("a:1"))
	version(2, "b:1\n")
	next(t, from, "second list", is("b:1"))
}

// zone is a name server.
type zone struct {
	mu      sync.Mutex
	records map[string][]string // by name and type: "h.test. A"
	rcode   int
	asked   int
}

func (z *zone) set(key string, records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[key] = records
}

func (z *zone) fail(rcode int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.rcode = rcode
}

func (z *zone) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	m := new(dns.Msg)
	m.SetReply(r)
	q := r.Question[0]
	known := false
	for key, records := range z.records {
		name, kind, _ := strings.Cut(key, " ")
		if !strings.EqualFold(name, q.Name) {
			continue
		}
		known = true
		if kind != dns.TypeToString[q.Qtype] {
			continue
		}
		for _, rec := range records {
			rr, err := dns.NewRR(fmt.Sprintf("%s 1 IN %s %s", q.Name, kind, rec))
			if err == nil {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	switch {
	case z.rcode != 0:
		m.Answer, m.Rcode = nil, z.rcode
	case !known:
		m.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(m)
}

// serveDNS starts a name server, and returns a resolver that asks it.
func serveDNS(t *testing.T) (*zone, static.Resolver) {
	t.Helper()
	z := &zone{records: make(map[string][]string)}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	s := &dns.Server{PacketConn: pc, Handler: z, NotifyStartedFunc: func() { close(started) }}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		_ = s.Shutdown()
		<-done
	})
	return z, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

func TestDNS(t *testing.T) {
	z, resolver := serveDNS(t)
	z.set("h.test. A", "10.0.0.5", "10.0.0.6")
	z.set("h.test. AAAA", "fd00::5")
	z.set("_muster._tcp.s.test. SRV", "0 0 7001 x.test.", "0 0 7002 y.test.")
	d := open(t, static.Config{
		Peers:   []string{"10.0.0.5:7946"},
		DNS:     []string{"h.test:7946", "_muster._tcp.s.test", "10.0.0.9:7946"},
		Refresh: 100 * time.Millisecond,
	})
	d.Resolver = resolver
	s, err := d.List(wait.Context(t), query)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"10.0.0.5:7946", "10.0.0.6:7946", "10.0.0.9:7946", "[fd00::5]:7946", "x.test:7001", "y.test:7002"}
	if diff := cmp.Diff(want, addrs(s)); diff != "" {
		t.Error(diff)
	}

	from := watch(t, d)
	next(t, from, "names", is(want...))
	z.set("h.test. AAAA")
	z.set("h.test. A", "10.0.0.7")
	next(t, from, "names looked up again", is("10.0.0.5:7946", "10.0.0.7:7946", "10.0.0.9:7946", "x.test:7001", "y.test:7002"))

	// One name that fails makes the whole set unknown: part of it is none.
	z.fail(dns.RcodeServerFailure)
	stale := next(t, from, "stale list", func(s discovery.Snapshot) bool { return s.Stale })
	if len(snapshot.Instances(stale)) != 5 {
		t.Errorf("the stale list has %d entries", len(snapshot.Instances(stale)))
	}
	if msg := fmt.Sprint(stale.Err); !strings.Contains(msg, `dns[0]: "h.test:7946": unresolvable name`) {
		t.Errorf("it says %q", msg)
	}
	z.fail(0)
	next(t, from, "good list again", is("10.0.0.5:7946", "10.0.0.7:7946", "10.0.0.9:7946", "x.test:7001", "y.test:7002"))
}

func TestUnresolvableName(t *testing.T) {
	_, resolver := serveDNS(t)
	for _, name := range []string{"none.test:7946", "_muster._tcp.none.test"} {
		d := open(t, static.Config{Peers: []string{"a:1"}, DNS: []string{name}})
		d.Resolver = resolver
		s, err := d.List(wait.Context(t), query)
		if !errors.Is(err, driver.ErrUnavailable) || len(s.Instances) != 0 {
			t.Errorf("%s: %+v, %v", name, s, err)
			continue
		}
		for _, part := range []string{"dns[0]", name, "unresolvable name", "there is no such name, or none yet"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not say %q", name, err, part)
			}
		}
	}
}

// TestBusyDirectory: what else goes on in the directory of the file does not make
// the names be looked up.
func TestBusyDirectory(t *testing.T) {
	z, resolver := serveDNS(t)
	z.set("h.test. A", "10.0.0.5")
	dir := t.TempDir()
	path := filepath.Join(dir, "peers")
	write(t, path, "a:1\n")
	d := open(t, static.Config{File: path, DNS: []string{"h.test:1"}, Refresh: time.Hour})
	d.Resolver = resolver
	from := watch(t, d)
	next(t, from, "first list", is("10.0.0.5:1", "a:1"))
	z.mu.Lock()
	before := z.asked
	z.mu.Unlock()
	// Changes that follow each other within the time in which a file settles are one: these come
	// at half that pace. The watch may yet begin with a look of its own.
	const others = 20
	for i := range others {
		write(t, filepath.Join(dir, "other"), fmt.Sprint(i))
		time.Sleep(100 * time.Millisecond)
	}
	write(t, path, "b:1\n")
	next(t, from, "second list", is("10.0.0.5:1", "b:1"))
	z.mu.Lock()
	defer z.mu.Unlock()
	if lookUps := z.asked - before; lookUps >= others {
		t.Errorf("%d questions to the name server for one edit", lookUps)
	}
}

func TestNoVoters(t *testing.T) {
	d := open(t, static.Config{DNS: []string{"h.test:1"}})
	_, err := d.OpenAuthority(wait.Context(t), driver.AuthorityOptions{Cluster: "x", Self: driver.Holder{Addr: "10.0.0.5:1"}})
	if !errors.Is(err, driver.ErrUnsupported) || !strings.Contains(err.Error(), "list the voters in peers or in file") {
		t.Errorf("OpenAuthority returned %v", err)
	}
	d = open(t, static.Config{Peers: []string{"10.0.0.5:1"}})
	_, err = d.OpenAuthority(wait.Context(t), driver.AuthorityOptions{Cluster: "x", Self: driver.Holder{Addr: "10.0.0.5:1"}, Voter: "a"})
	if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), `node.voter: "a": has no port`) {
		t.Errorf("OpenAuthority returned %v", err)
	}
	_, err = d.OpenAuthority(wait.Context(t), driver.AuthorityOptions{Cluster: "x", Self: driver.Holder{Addr: "10.0.0.5:1"}, TTL: time.Millisecond})
	if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), "mastership.ttl") {
		t.Errorf("OpenAuthority returned %v", err)
	}
}
