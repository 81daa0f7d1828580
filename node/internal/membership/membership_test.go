package membership

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/node/internal/link"
)

func TestMain(m *testing.M) {
	code := m.Run()
	// memberlist does not wait for its goroutines: a probe ends when its time is up.
	var leaked error
	for deadline := time.Now().Add(10 * time.Second); code == 0; {
		if leaked = goleak.Find(); leaked == nil || time.Now().After(deadline) {
			break
		}
	}
	if leaked != nil {
		fmt.Fprintln(os.Stderr, leaked)
		code = 1
	}
	os.Exit(code)
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, f func(t *testing.T, net *memoryNetwork)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// memberlist does not wait for its goroutines, and time ends with the test.
		t.Cleanup(func() { time.Sleep(10 * time.Second) })
		f(t, newMemoryNetwork())
	})
}

func address(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 7946)
}

var instances atomic.Int64

// member is a membership with its host.
type member struct {
	*Membership
	t    *testing.T
	host *host
}

// start starts node id at address n of the network.
func start(t *testing.T, net *memoryNetwork, id string, n int, options ...func(*Config)) *member {
	t.Helper()
	h := net.host(address(n))
	cfg := Config{
		Cluster:    "orders",
		NodeID:     id,
		InstanceID: fmt.Sprintf("%012d%020d", instances.Add(1), 0),
		Addr:       h.addr,
		Transport:  h,
		Network:    h,
		Details:    Details{Zone: "zone-" + id},
	}
	if testing.Verbose() && os.Getenv("MEMBERSHIP_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", id)
	}
	for _, option := range options {
		option(&cfg)
	}
	h.identify(link.Peer{NodeID: cfg.NodeID, InstanceID: cfg.InstanceID})
	m, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return &member{m, t, h}
}

// crash ends a member without a word.
func (m *member) crash() {
	m.host.crash()
	_ = m.Close()
}

func (m *member) peers(numbers ...int) {
	var addrs []string
	for _, n := range numbers {
		addrs = append(addrs, address(n).String())
	}
	m.SetPeers(addrs)
}

// names shows a view as "a b c".
func names(v View) string {
	var ids []string
	for _, m := range v.Members {
		ids = append(ids, m.NodeID)
	}
	return strings.Join(ids, " ")
}

// eventually waits for a condition, in virtual time.
func eventually(t *testing.T, within time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// see waits until each member's view is want, and logged.
func see(within time.Duration, want string, members ...*member) {
	t := members[0].t
	t.Helper()
	deadline := time.Now().Add(within)
	for _, m := range members {
		for names(m.View()) != want {
			if time.Now().After(deadline) {
				t.Fatalf("%s sees [%s] after %v, want [%s]; departed %v", m.cfg.NodeID, names(m.View()), within, want, m.View().Departed)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	synctest.Wait() // what has changed is logged after it is seen
}

// departed returns what m knows of a departed instance.
func (m *member) departed(instanceID string) Member {
	for _, d := range m.View().Departed {
		if d.InstanceID == instanceID {
			return d
		}
	}
	return Member{}
}

func three(t *testing.T, net *memoryNetwork) (a, b, c *member) {
	t.Helper()
	a, b, c = start(t, net, "a", 1), start(t, net, "b", 2), start(t, net, "c", 3)
	for _, m := range []*member{a, b, c} {
		m.peers(1, 2, 3) // its own address among them
	}
	see(time.Second, "a b c", a, b, c)
	return a, b, c
}

func TestFiftyNodesStartedAtOnce(t *testing.T) {
	for range 2 {
		inBubble(t, func(t *testing.T, net *memoryNetwork) {
			const n = 50
			net.lose(0.05)
			var all []*member
			var numbers []int
			var want []string
			for i := range n {
				all = append(all, start(t, net, fmt.Sprintf("n%02d", i), i+1))
				numbers = append(numbers, i+1)
				want = append(want, fmt.Sprintf("n%02d", i))
			}
			begin := time.Now()
			for _, m := range all {
				m.peers(numbers...)
			}
			see(time.Second, strings.Join(want, " "), all...)
			var joins uint64
			for _, m := range all {
				joins += m.Stats().Joins
			}
			t.Logf("all saw all after %v, with %d joins", time.Since(begin), joins)
		})
	}
}

func TestMembersShowTheirDetails(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, _ := three(t, net)
		for _, m := range a.View().Members {
			if m.Zone != "zone-"+m.NodeID || !m.DetailsKnown || m.State != StateAlive || m.Self != (m.NodeID == "a") {
				t.Errorf("member %+v", m)
			}
		}
		if err := b.UpdateDetails(Details{Tags: []string{"web"}}); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "b's new tags at a", func() bool { return slices.Equal(a.View().Members[1].Tags, []string{"web"}) })
		if err := b.UpdateDetails(Details{Zone: "\xff"}); err == nil {
			t.Error("details that are not UTF-8 were taken")
		}
	})
}

func TestLeaveAndCrashAreDistinguished(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		begin := time.Now()
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("Leave took %v", took)
		}
		see(100*time.Millisecond, "a c", a, c)
		for _, m := range []*member{a, c} {
			if gone := m.departed(b.cfg.InstanceID); gone.State != StateLeft || gone.Reason != departureLeft || gone.DepartedAt.IsZero() {
				t.Errorf("%s knows of b: %+v", m.cfg.NodeID, gone)
			}
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Errorf("second Leave: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close after Leave: %v", err)
		}
		select {
		case <-b.Done():
		default:
			t.Error("Done is open after Leave")
		}
		if b.Err() != nil {
			t.Errorf("Err() = %v after Leave", b.Err())
		}

		c.crash()
		see(5*time.Second, "a", a)
		if gone := a.departed(c.cfg.InstanceID); gone.State != StateDead {
			t.Errorf("a knows of c: %+v", gone)
		}
		if err := c.Leave(t.Context()); err != nil {
			t.Errorf("Leave after Close: %v", err)
		}
		s := a.Stats()
		if s.Members[StateAlive] != 1 || s.Members[StateLeft] != 1 || s.Members[StateDead] != 1 || s.Joins == 0 {
			t.Errorf("stats %+v", s)
		}
		time.Sleep(departedKept + time.Second)
		if view := a.View(); len(view.Departed) != 0 {
			t.Errorf("departed ones are kept without end: %v", view.Departed)
		}
	})
}

func TestLeaveOfOneAloneIsQuick(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a := start(t, net, "a", 1)
		begin := time.Now()
		if err := a.Leave(t.Context()); err != nil || time.Since(begin) > 10*time.Millisecond {
			t.Errorf("Leave = %v after %v", err, time.Since(begin))
		}
	})
}

func TestHealedPartitionIsOneComponent(t *testing.T) {
	for _, outage := range []time.Duration{12 * time.Second, 3 * time.Minute} {
		for _, listed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v listed=%v", outage, listed), func(t *testing.T) {
				inBubble(t, func(t *testing.T, net *memoryNetwork) {
					var all []*member
					for i, id := range []string{"a", "b", "c", "d", "e"} {
						all = append(all, start(t, net, id, i+1))
						all[i].peers(1, 2, 3, 4, 5)
					}
					see(time.Second, "a b c d e", all...)
					if !listed {
						for _, m := range all {
							m.SetPeers(nil) // discovery has lost sight of them all
						}
					}
					net.cut(1, address(4), address(5))
					see(12*time.Second, "a b c", all[:3]...)
					see(12*time.Second, "d e", all[3:]...)
					time.Sleep(outage)
					net.heal()
					begin := time.Now()
					see(5*time.Second, "a b c d e", all...)
					t.Logf("one component %v after the heal", time.Since(begin))
				})
			})
		}
	}
}

func TestTwoWithNothingInCommonButAThird(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := start(t, net, "a", 1), start(t, net, "b", 2), start(t, net, "c", 3)
		a.peers(3)
		b.peers(3)
		see(time.Second, "a b c", a, b, c)
	})
}

func TestRestartIsSeenByAll(t *testing.T) {
	for _, port := range []int{2, 12} {
		t.Run(fmt.Sprintf("port %d", port), func(t *testing.T) {
			inBubble(t, func(t *testing.T, net *memoryNetwork) {
				a, b, c := three(t, net)
				time.Sleep(time.Minute)
				before := a.View()
				b.crash()
				time.Sleep(300 * time.Millisecond)
				again := start(t, net, "b", port)
				again.peers(1, 3)
				for _, m := range []*member{a, c, again} {
					eventually(t, time.Second, "new instance of b at "+m.cfg.NodeID, func() bool {
						v := m.View()
						return names(v) == "a b c" && v.Members[1].InstanceID == again.cfg.InstanceID
					})
				}
				var kinds []ChangeKind
				for _, change := range Diff(before, a.View()) {
					kinds = append(kinds, change.Kind)
				}
				if !slices.Equal(kinds, []ChangeKind{Left, Joined}) {
					t.Errorf("changes %v, want that b left and joined", kinds)
				}
				if gone := a.departed(b.cfg.InstanceID); gone.State != StateLeft || gone.Reason != departureSuperseded {
					t.Errorf("the old instance: %+v", gone)
				}
				// It crashes again before its predecessor was found dead: no ghost.
				again.crash()
				gone := false
				for range 4000 {
					switch v := names(a.View()); {
					case v == "a c":
						gone = true
					case gone:
						t.Fatalf("ghost: a sees [%s]", v)
					}
					time.Sleep(5 * time.Millisecond)
				}
				if !gone {
					t.Errorf("a sees [%s]", names(a.View()))
				}
			})
		})
	}
}

func TestDuplicateNodeID(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		time.Sleep(time.Minute)
		twin := start(t, net, "b", 4)
		twin.peers(1)
		select {
		case <-b.Done():
		case <-time.After(time.Second):
			t.Fatal("the earlier b does not end")
		}
		if err := b.Err(); !errors.Is(err, ErrDuplicateNodeID) || !strings.Contains(err.Error(), twin.cfg.InstanceID) ||
			!strings.Contains(err.Error(), address(4).String()) || !strings.Contains(err.Error(), "give each a node.id of its own") {
			t.Errorf("Err() = %v, want one that says which instance and where", err)
		}
		for _, m := range []*member{a, c, twin} {
			eventually(t, time.Second, "the later b at "+m.cfg.NodeID, func() bool {
				v := m.View()
				return names(v) == "a b c" && v.Members[1].InstanceID == twin.cfg.InstanceID
			})
		}
		for range 3000 {
			for _, m := range []*member{a, c, twin} {
				if v := m.View(); names(v) != "a b c" || v.Members[1].InstanceID != twin.cfg.InstanceID {
					t.Fatalf("%s sees %v", m.cfg.NodeID, v.Members)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		if twin.Err() != nil {
			t.Errorf("the later one ended: %v", twin.Err())
		}
		if gone := a.departed(b.cfg.InstanceID); gone.State != StateLeft {
			t.Errorf("the earlier one: %+v", gone)
		}
	})
}

func TestDuplicateMetAfterAPartition(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		net.cut(1, address(2))
		see(8*time.Second, "a c", a, c)
		time.Sleep(time.Minute)
		twin := start(t, net, "b", 4)
		twin.peers(1)
		see(time.Second, "a b c", a, c, twin)
		net.heal()
		select {
		case <-b.Done():
		case <-time.After(6 * time.Second):
			t.Fatal("the earlier b does not end")
		}
		if !errors.Is(b.Err(), ErrDuplicateNodeID) || twin.Err() != nil {
			t.Errorf("errors %v and %v", b.Err(), twin.Err())
		}
	})
}

func TestTwinsStartedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a := start(t, net, "a", 1)
		x, y := start(t, net, "b", 2), start(t, net, "b", 3)
		x.peers(1)
		y.peers(1)
		time.Sleep(10 * time.Second)
		if (x.Err() == nil) == (y.Err() == nil) {
			t.Errorf("of two, want one to stay: %v and %v", x.Err(), y.Err())
		}
		see(time.Second, "a b", a)
	})
}

func TestRestartWithAClockThatIsBehind(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		b.crash()
		again := start(t, net, "b", 2, func(c *Config) {
			c.now = func() time.Time { return time.Now().Add(-time.Hour) }
		})
		again.peers(1, 3)
		for _, m := range []*member{a, c, again} {
			eventually(t, 6*time.Second, "new instance of b at "+m.cfg.NodeID, func() bool {
				v := m.View()
				return names(v) == "a b c" && v.Members[1].InstanceID == again.cfg.InstanceID
			})
		}
		time.Sleep(10 * time.Second)
		if again.Err() != nil {
			t.Error(again.Err())
		}
	})
}

func TestOtherClusterIsTurnedAwayOnBothSides(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b := start(t, net, "a", 1), start(t, net, "b", 2)
		x := start(t, net, "x", 3, func(c *Config) { c.Cluster = "stock" })
		a.peers(2, 3)
		x.peers(1, 2)
		see(time.Second, "a b", a, b)
		time.Sleep(10 * time.Second)
		see(0, "a b", a, b)
		see(0, "x", x)
		if a.Stats().Refused[reasonCluster] == 0 || x.Stats().Refused[reasonCluster] == 0 {
			t.Errorf("refusals %v and %v", a.Stats().Refused, x.Stats().Refused)
		}
		if x.Stats().JoinFailures == 0 {
			t.Error("x counts no failed join")
		}
	})
}

func TestOtherClusterIDIsTurnedAwayOnBothSides(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		for _, m := range []*member{a, b, c} {
			if err := m.SetClusterID("one"); err != nil {
				t.Fatal(err)
			}
		}
		x, y := start(t, net, "x", 4), start(t, net, "y", 5)
		y.peers(4)
		see(time.Second, "x y", x, y)
		for _, m := range []*member{x, y} {
			_ = m.SetClusterID("two")
		}
		time.Sleep(time.Second)
		x.peers(1, 2, 3)
		a.peers(4)
		time.Sleep(10 * time.Second)
		see(0, "a b c", a, b, c)
		see(0, "x y", x, y)
		if a.Stats().Refused[reasonClusterID] == 0 || x.Stats().Refused[reasonClusterID] == 0 {
			t.Errorf("refusals %v and %v", a.Stats().Refused, x.Stats().Refused)
		}
		if id := a.View().Members[1].ClusterID; id != "one" {
			t.Errorf("b's cluster id at a is %q", id)
		}
		if err := a.SetClusterID("no spaces"); err == nil {
			t.Error("an id with a space was taken")
		}
	})
}

// Two clusters met before they knew their ids, and one of them learns its id later.
func TestClusterIDsThatDifferLater(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		_ = a.SetClusterID("one")
		_ = b.SetClusterID("one")
		see(time.Second, "a b c", a, b, c)
		_ = c.SetClusterID("two")
		see(time.Second, "a b", a, b)
		see(8*time.Second, "c", c) // it may have to find them dead: they say nothing to it any longer
		time.Sleep(30 * time.Second)
		see(0, "a b", a, b)
		see(0, "c", c)
		if gone := a.departed(c.cfg.InstanceID); gone.State != StateLeft || gone.Reason != reasonClusterID {
			t.Errorf("a knows of c: %+v", gone)
		}
		// A mistake that is fixed.
		_ = c.SetClusterID("one")
		see(10*time.Second, "a b c", a, b, c)
	})
}

func TestSingleRefusesOthersAndIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b := start(t, net, "a", 1), start(t, net, "b", 2)
		s := start(t, net, "s", 3, func(c *Config) { c.Single = true })
		a.peers(2, 3)
		s.peers(1, 2)
		see(time.Second, "a b", a, b)
		time.Sleep(10 * time.Second)
		see(0, "a b", a, b)
		see(0, "s", s)
		if a.Stats().Refused[reasonSingle] == 0 || s.Stats().Refused[reasonSingle] == 0 {
			t.Errorf("refusals %v and %v", a.Stats().Refused, s.Stats().Refused)
		}
		if n := net.dialled(address(1)); s.Stats().Joins != 0 {
			t.Errorf("the single node joined others; %d dials", n)
		}
	})
}
