package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Net is one network. Its methods are safe for concurrent use, and end the test
// where they fail.
type Net struct {
	t      testing.TB
	index  int
	bridge string

	mu    sync.Mutex
	hosts []*Host
	taken int           // addresses
	rules map[way]Mode  // what is wrong with a way
	loss  map[*Host]int // percent of what comes to a host, and goes
	noUDP bool
}

// Host is one host of a Net.
type Host struct {
	name, netns, ip string
	cable           *cable // nil for one that Trouble cannot be made for
}

// Name is what New was told.
func (h *Host) Name() string { return h.name }

// IP is the host's address.
func (h *Host) IP() string { return h.ip }

// Netns is the path of its network namespace.
func (h *Host) Netns() string { return root + "/netns/" + h.netns }

// Mode is what becomes of packets.
type Mode int

const (
	// Drop: they vanish, as on a broken way.
	Drop Mode = iota + 1
	// Reject: who sends them is told that the connection is reset, as by a firewall.
	Reject
)

// way is one direction between two addresses.
type way struct{ from, to string }

// root is the directory of the namespaces and of all temporary files, in memory.
const root = "/run"

// nets numbers the networks of this process.
var nets atomic.Int64

// New makes a network in which there is only this process, at the first address of
// two. It goes with the test.
func New(t testing.TB) *Net {
	t.Helper()
	Require(t)
	index := int(nets.Add(1))
	if index > 250 {
		t.Fatal("netlab: too many networks in one process")
	}
	n := &Net{
		t: t, index: index, bridge: fmt.Sprintf("br%d", index), taken: 9,
		rules: make(map[way]Mode), loss: make(map[*Host]int),
	}
	n.must(run("", "ip", "link", "add", n.bridge, "type", "bridge"))
	t.Cleanup(func() { _ = run("", "ip", "link", "del", n.bridge) })
	for i := 1; i <= 2; i++ {
		n.must(run("", "ip", "addr", "add", n.addr(i)+"/24", "dev", n.bridge))
	}
	n.must(run("", "ip", "link", "set", n.bridge, "up"))
	return n
}

func (n *Net) addr(i int) string { return fmt.Sprintf("10.77.%d.%d", n.index, i) }

// Self is the address of this process. No way to it is ever cut.
func (n *Net) Self() string { return n.addr(1) }

// Middle is another address of this process, for proxies. The ways to it can be cut
// like any others.
func (n *Net) Middle() string { return n.addr(2) }

func (n *Net) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatalf("netlab: %v", err)
	}
}

// Host adds a host.
func (n *Net) Host(name string) *Host {
	n.t.Helper()
	return n.join(name, func(_ *Host, outer, inner string) {
		n.must(run("", "ip", "link", "add", outer, "type", "veth", "peer", "name", inner))
	})
}

// HostByCable adds a host for whose packets Trouble can be made. All of them go by way
// of this process, which costs some microseconds for each. The test is skipped where
// this process may not make the devices that it takes.
func (n *Net) HostByCable(name string) *Host {
	n.t.Helper()
	return n.join(name, func(h *Host, outer, inner string) {
		host, err := newTap(inner)
		if err != nil {
			lack(n.t, err.Error())
		}
		bridge, err := newTap(outer)
		if err != nil {
			host.Close()
			lack(n.t, err.Error())
		}
		h.cable = lay(host, bridge)
		n.t.Cleanup(h.cable.cut)
	})
}

// join adds a host, and connects it by two devices that connect makes.
func (n *Net) join(name string, connect func(h *Host, outer, inner string)) *Host {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taken++
	h := &Host{name: name, netns: fmt.Sprintf("n%d-%s", n.index, name), ip: n.addr(n.taken)}
	outer, inner := fmt.Sprintf("v%d.%d", n.index, n.taken), fmt.Sprintf("w%d.%d", n.index, n.taken)
	n.must(run("", "ip", "netns", "add", h.netns))
	n.t.Cleanup(func() { _ = run("", "ip", "netns", "del", h.netns) })
	connect(h, outer, inner)
	n.must(run(strings.Join([]string{
		"link set " + inner + " netns " + h.netns,
		"link set " + outer + " master " + n.bridge + " up",
	}, "\n"), "ip", "-batch", "-"))
	n.must(run(strings.Join([]string{
		"link set lo up",
		"link set " + inner + " name eth0",
		"addr add " + h.ip + "/24 dev eth0",
		"link set eth0 up",
	}, "\n"), "ip", "-n", h.netns, "-batch", "-"))
	n.hosts = append(n.hosts, h)
	return h
}

// Cut breaks the way from one address to another. The way back is not touched.
func (n *Net) Cut(from, to string, mode Mode) {
	n.t.Helper()
	n.change(func() { n.rules[way{from, to}] = mode })
}

// Part cuts all ways between the groups.
func (n *Net) Part(mode Mode, groups ...[]string) {
	n.t.Helper()
	n.change(func() {
		for i, group := range groups {
			for j, other := range groups {
				for _, a := range group {
					for _, b := range other {
						if i != j {
							n.rules[way{a, b}] = mode
						}
					}
				}
			}
		}
	})
}

// Lose drops so many of a hundred packets that come to a host, by chance.
func (n *Net) Lose(h *Host, percent int) {
	n.t.Helper()
	n.change(func() { n.loss[h] = percent })
}

// Trouble has the cable of a host, which HostByCable added, treat all packets so.
func (n *Net) Trouble(h *Host, t Trouble) {
	n.t.Helper()
	if h.cable == nil {
		n.t.Fatalf("netlab: no trouble can be made for %s: it was not added by HostByCable", h.name)
	}
	h.cable.trouble.Store(&t)
}

// BlockUDP drops all of UDP on all hosts. Heal does not end it.
func (n *Net) BlockUDP() {
	n.t.Helper()
	n.change(func() { n.noUDP = true })
}

// Heal ends all faults.
func (n *Net) Heal() {
	n.t.Helper()
	n.change(func() {
		clear(n.rules)
		clear(n.loss)
		for _, h := range n.hosts {
			if h.cable != nil {
				h.cable.trouble.Store(new(Trouble))
			}
		}
	})
}

// HealWay ends the fault of one way.
func (n *Net) HealWay(from, to string) {
	n.t.Helper()
	n.change(func() { delete(n.rules, way{from, to}) })
}

// change puts new rules in the place of those of each host whose rules differ, each
// in one step.
func (n *Net) change(how func()) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	before := make(map[*Host]string)
	for _, h := range n.hosts {
		before[h] = n.ruleset(h)
	}
	how()
	for _, h := range n.hosts {
		if after := n.ruleset(h); after != before[h] {
			n.must(run(after, "ip", "netns", "exec", h.netns, "nft", "-f", "-"))
		}
	}
}

// ruleset is that of one host. A packet is dropped where it arrives, or where it is
// sent if it goes to this process, whose own network has no rules.
func (n *Net) ruleset(h *Host) string {
	var in, out []string
	ways := slices.SortedFunc(maps.Keys(n.rules), func(a, b way) int {
		return strings.Compare(a.from+" "+a.to, b.from+" "+b.to)
	})
	for _, w := range ways {
		verdicts := []string{"drop"}
		if n.rules[w] == Reject {
			// The reset comes back this way where that is rejected as well.
			verdicts = []string{"tcp flags & rst == rst accept", "meta l4proto tcp reject with tcp reset", "drop"}
		}
		for _, verdict := range verdicts {
			switch {
			case w.to == h.ip:
				in = append(in, "ip saddr "+w.from+" "+verdict)
			case w.from == h.ip && w.to == n.Middle():
				out = append(out, "ip daddr "+w.to+" "+verdict)
			}
		}
	}
	switch p := n.loss[h]; {
	case p >= 100:
		in = append(in, "ip saddr != "+n.Self()+" drop")
	case p > 0:
		in = append(in, fmt.Sprintf("ip saddr != %s numgen random mod 100 < %d drop", n.Self(), p))
	}
	if n.noUDP {
		in = append(in, "meta l4proto udp drop")
		out = append(out, "meta l4proto udp drop")
	}
	var b strings.Builder
	b.WriteString("table inet lab\nflush table inet lab\ntable inet lab {\n")
	fmt.Fprintf(&b, "chain in { type filter hook input priority 0; policy accept;\n%s\n}\n", strings.Join(in, "\n"))
	fmt.Fprintf(&b, "chain out { type filter hook output priority 0; policy accept;\n%s\n}\n}\n", strings.Join(out, "\n"))
	return b.String()
}

// run runs a program with input, and returns what it complained of.
func run(input, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(input)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err), errors.New(string(bytes.TrimSpace(output))))
	}
	return nil
}
