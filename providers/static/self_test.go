package static_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testnet"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/static"
)

// names are those that a resolver knows now.
type names struct {
	mu    sync.Mutex
	addrs map[string][]string
}

func (n *names) set(host string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.addrs == nil {
		n.addrs = make(map[string][]string)
	}
	n.addrs[host] = addrs
}

func (n *names) LookupHost(_ context.Context, host string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.addrs[host]) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return n.addrs[host], nil
}

func (n *names) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errors.ErrUnsupported
}

func hostAddrs(addrs ...string) func() ([]netip.Addr, error) {
	return func() ([]netip.Addr, error) {
		var out []netip.Addr
		for _, a := range append([]string{"127.0.0.1", "::1"}, addrs...) {
			out = append(out, netip.MustParseAddr(a))
		}
		return out, nil
	}
}

// TestLocate: an entry of the list that leads to this host says where it is reached.
func TestLocate(t *testing.T) {
	known := &names{}
	known.set("n1", "172.18.0.2")
	known.set("n2", "172.18.0.3")
	known.set("dual", "fd00::2", "172.18.0.2")
	known.set("all", "172.18.0.2", "172.18.0.3")
	known.set("own", "127.0.1.1")
	for _, c := range []struct {
		says, bound string
		peers       []string
		addr, name  string
		err         error
		part        string
	}{
		{says: "a name", peers: []string{"n1:7946", "n2:7946"}, addr: "172.18.0.2:7946", name: "n1:7946"},
		{says: "in another spelling", peers: []string{"N1.:7946", "n2:7946"}, addr: "172.18.0.2:7946", name: "n1:7946"},
		{says: "an address", peers: []string{"172.18.0.2:7946", "n2:7946"}, addr: "172.18.0.2:7946"},
		{says: "IPv4 first", peers: []string{"dual:7946", "n2:7946"}, addr: "172.18.0.2:7946", name: "dual:7946"},
		{says: "what is bound to", bound: "[fd00::2]:7946", peers: []string{"[fd00::2]:7946", "n2:7946"}, addr: "[fd00::2]:7946"},
		{says: "bound to IPv4", bound: "0.0.0.0:7946", peers: []string{"[fd00::2]:7946", "n2:7946"}, err: driver.ErrNotFound},
		{says: "another port", bound: "[::]:7947", peers: []string{"n1:7946"}, err: driver.ErrNotFound, part: "no entry with port 7947"},
		{says: "no entry of ours", peers: []string{"n2:7946"}, err: driver.ErrNotFound},
		{says: "loopback says nothing to others", peers: []string{"own:7946", "127.0.0.1:7946"}, err: driver.ErrNotFound, part: "127.0.0.1:7946 leads to this host, but not from others"},
		{says: "two entries", peers: []string{"n1:7946", "172.18.0.2:7946"}, err: driver.ErrInvalid, part: "172.18.0.2:7946 and n1:7946 are one node"},
		{says: "one name for all", peers: []string{"all:7946"}, err: driver.ErrUnavailable, part: "leads to this node (172.18.0.2) and to others (172.18.0.3)"},
		{says: "not resolved", peers: []string{"n3:7946", "n2:7946"}, err: driver.ErrUnavailable, part: "n3:7946 is not resolved"},
		{says: "not resolved, but another is", peers: []string{"n3:7946", "n1:7946"}, addr: "172.18.0.2:7946", name: "n1:7946"},
	} {
		d := open(t, static.Config{Peers: c.peers})
		d.Resolver, d.Interfaces = known, hostAddrs("172.18.0.2", "fd00::2")
		bound := "[::]:7946"
		if c.bound != "" {
			bound = c.bound
		}
		got, err := d.Locate(wait.Context(t), netip.MustParseAddrPort(bound))
		if c.err != nil {
			if !errors.Is(err, c.err) || !strings.Contains(fmt.Sprint(err), c.part) {
				t.Errorf("%s: %v, %v; want %v with %q", c.says, got, err, c.err, c.part)
			}
			continue
		}
		if err != nil || got.Addr.String() != c.addr || got.Name != c.name {
			t.Errorf("%s: %+v, %v; want %s, %q", c.says, got, err, c.addr, c.name)
		}
	}
	d := open(t, static.Config{DNS: []string{"n1:7946"}})
	if _, err := d.Locate(wait.Context(t), netip.MustParseAddrPort("[::]:7946")); !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("without a list: %v", err)
	}
}

// named is a network whose nodes are dialled by names, too.
type named struct {
	*testnet.Node
	names *names
}

func (n named) Dial(ctx context.Context, protocol, addr string) (net.Conn, error) {
	host, port, _ := net.SplitHostPort(addr)
	if found, err := n.names.LookupHost(ctx, host); err == nil {
		addr = net.JoinHostPort(found[0], port)
	} else if net.ParseIP(host) == nil {
		return nil, err
	}
	return n.Node.Dial(ctx, protocol, addr)
}

// voter opens the authority of one of three nodes on loopback, at 127.0.0.x.
type voter struct {
	driver.Authority
	self driver.Holder
	node *testnet.Node
}

func openVoter(t *testing.T, port *testnet.Port, known *names, peers []string, dir string) (voter, error) {
	t.Helper()
	self := port.Addr()
	d := open(t, static.Config{Peers: peers, Refresh: 100 * time.Millisecond})
	host, _, _ := net.SplitHostPort(self)
	d.Resolver = known
	d.Interfaces = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(host)}, nil }
	v := voter{self: driver.Holder{NodeID: self, InstanceID: self, Addr: self}, node: port.Node()}
	var err error
	v.Authority, err = d.OpenAuthority(context.Background(), driver.AuthorityOptions{
		Cluster: "c", Self: v.self, TTL: 500 * time.Millisecond, DataDir: dir, Network: named{v.node, known}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		v.node.Close()
		return v, err
	}
	t.Cleanup(v.close)
	return v, nil
}

func (v voter) close() {
	_ = v.Close(context.Background())
	v.node.Close()
}

// until waits until the authority shows what is wanted.
func (v voter) until(t *testing.T, what string, ok func(driver.Mastership) bool) driver.Mastership {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
	defer cancel()
	var last driver.Mastership
	for m, err := range v.Observe(ctx) {
		if last = m; err == nil && ok(m) {
			return m
		}
	}
	t.Fatalf("%s is not %s: %+v", v.self.Addr, what, last)
	return last
}

// onePort returns ports of the network with one number at 127.0.0.1 to .n.
func onePort(t *testing.T, f *testnet.Net, n int) (ports []*testnet.Port, number string) {
	t.Helper()
	for range 50 {
		var bound []net.Listener
		number = "0"
		for i := 1; i <= n; i++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:%s", i, number))
			if err != nil {
				break
			}
			_, number, _ = net.SplitHostPort(l.Addr().String())
			bound = append(bound, l)
		}
		for _, l := range bound {
			if len(bound) == n {
				ports = append(ports, f.On(t, l))
			} else {
				l.Close()
			}
		}
		if len(ports) == n {
			return ports, number
		}
	}
	t.Fatal("no port is free at all addresses")
	return nil, ""
}

// TestNamesOfVoters: the list has names, and each node is the voter whose name leads to
// it: at once, or when its name comes to be known. One that has come to lead elsewhere is
// a warning, and another node behind it takes its place only as a new voter.
func TestNamesOfVoters(t *testing.T) {
	ports, port := onePort(t, testnet.New(), 3)
	known := &names{}
	peers := []string{"n1:" + port, "n2:" + port, "n3:" + port}
	known.set("n1", "127.0.0.1")
	known.set("n2", "127.0.0.2", "127.0.0.2") // each server of two says so
	var voters []voter
	for _, p := range ports {
		v, err := openVoter(t, p, known, peers, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		voters = append(voters, v)
	}
	late := voters[2]
	m := late.until(t, "without a name", func(m driver.Mastership) bool { return strings.Contains(m.Ineligible, "n3:"+port+" is not resolved") })
	if m.Voter != "" || m.Blocked != "" {
		t.Errorf("before its name is known it is %+v", m)
	}
	voters[0].until(t, "waiting", func(m driver.Mastership) bool { return strings.Contains(m.Blocked, "n3:"+port) })
	known.set("n3", "127.0.0.3")
	for i, v := range voters {
		v.until(t, "a voter", func(m driver.Mastership) bool {
			return m.Voter == peers[i] && m.Ineligible == "" && m.Blocked == "" && m.Warning == ""
		})
	}
	granted := func() bool {
		for _, v := range voters {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := v.Acquire(ctx, driver.Claim{Holder: v.self, ClusterID: "id"})
			cancel()
			if err == nil {
				return true
			}
		}
		return false
	}
	wait.For(t, "a voter is granted mastership", granted)
	known.set("n3", "127.0.0.1")
	late.until(t, "warning", func(m driver.Mastership) bool {
		return m.Voter == peers[2] && strings.Contains(m.Warning, "this node is voter "+peers[2]+", whose name leads to another node")
	})
	// To node 1 there are two entries now, of which it stays the one that it is.
	voters[0].until(t, "warning", func(m driver.Mastership) bool {
		return m.Voter == peers[0] && strings.Contains(m.Warning, peers[0]+" and "+peers[2]+" are one node")
	})
	known.set("n3", "127.0.0.3")
	for _, v := range voters {
		v.until(t, "content again", func(m driver.Mastership) bool { return m.Warning == "" })
	}
}

// TestEntriesOfOneNode: two entries that lead to this node are an error that names both,
// when it starts.
func TestEntriesOfOneNode(t *testing.T) {
	ports, port := onePort(t, testnet.New(), 1)
	known := &names{}
	known.set("n1", "127.0.0.1")
	for _, peers := range [][]string{{"n1:" + port, "127.0.0.1:" + port}, {"n1:" + port, "alias:" + port}} {
		known.set("alias", "127.0.0.1")
		_, err := openVoter(t, ports[0], known, peers, t.TempDir())
		if !errors.Is(err, driver.ErrInvalid) {
			t.Fatalf("OpenAuthority returned %v", err)
		}
		for _, p := range peers {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("%v does not name %s", err, p)
			}
		}
	}
}

// TestLocalhostIsNoVoterOfAll: an entry that means each host to itself would make each a
// voter, and a cluster, of its own.
func TestLocalhostIsNoVoterOfAll(t *testing.T) {
	for _, entry := range []string{"localhost:7946", "127.0.0.1:7946", "[::1]:7946", "a.localhost:7946"} {
		known := &names{}
		known.set("localhost", "127.0.0.1")
		known.set("a.localhost", "127.0.0.1")
		d := open(t, static.Config{Peers: []string{entry}})
		d.Resolver, d.Interfaces = known, hostAddrs("10.0.0.5")
		n := testnet.New().Node(t)
		a, err := d.OpenAuthority(context.Background(), driver.AuthorityOptions{
			Cluster: "c", Self: driver.Holder{NodeID: "a", InstanceID: "a", Addr: "10.0.0.5:7946"}, DataDir: t.TempDir(), Network: n, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		for m, err := range a.Observe(wait.Context(t)) {
			if m.Voter != "" || err == nil && m.Ineligible == "" {
				t.Errorf("%s: this node is voter %q (%v)", entry, m.Voter, err)
			}
			break
		}
		_ = a.Close(context.Background())
		n.Close()
	}
}
