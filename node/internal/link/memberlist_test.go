package link

import (
	"fmt"
	"io"
	"log"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/musterhq/muster/internal/testing/wait"
)

// gossiper is a memberlist on a link.
type gossiper struct {
	*station
	*memberlist.Memberlist
	inbox chan string
}

func (g *gossiper) NodeMeta(int) []byte             { return nil }
func (g *gossiper) NotifyMsg(b []byte)              { g.inbox <- string(b) }
func (g *gossiper) GetBroadcasts(int, int) [][]byte { return nil }
func (g *gossiper) LocalState(bool) []byte          { return nil }
func (g *gossiper) MergeRemoteState([]byte, bool)   {}

// brisk is the tuning that the figures are measured with.
func brisk(c *memberlist.Config) {
	c.GossipInterval = 50 * time.Millisecond
	c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 250*time.Millisecond
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 3, 2
	c.PushPullInterval = 5 * time.Second
	// With 4, one of four clusters of 50 misses an address until the next push-pull,
	// over UDP as well as over the link: 2450 e^-8 of them are expected to.
	c.RetransmitMult = 8
	c.EnableCompression = false // costs more than all the rest
}

// gossiper starts a memberlist on a link. Its name is the instance id, as the transport takes it.
func (w *world) gossiper(t testing.TB, name string, tune ...func(*memberlist.Config)) *gossiper {
	t.Helper()
	return newGossiper(t, w.station(t, func(c *Config) { c.InstanceID = name }), tune...)
}

func newGossiper(t testing.TB, s *station, tune ...func(*memberlist.Config)) *gossiper {
	t.Helper()
	g := &gossiper{station: s, inbox: make(chan string, 64)}
	cfg := memberlist.DefaultLANConfig()
	brisk(cfg)
	cfg.Name = s.cfg.InstanceID
	cfg.Label = g.cfg.Cluster
	cfg.Transport = g.tr
	cfg.Delegate = g
	cfg.Logger = log.New(io.Discard, "", 0)
	for _, f := range tune {
		f(cfg)
	}
	m, err := memberlist.Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Memberlist = m
	t.Cleanup(func() { m.Shutdown() })
	return g
}

func (g *gossiper) sees(n int) bool { return g.NumMembers() == n }

func TestMemberlistOverTheLink(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		var all []*gossiper
		for i := range 3 {
			all = append(all, w.gossiper(t, fmt.Sprint("node", i)))
		}
		for _, g := range all[1:] {
			if _, err := g.Join([]string{all[0].name()}); err != nil {
				t.Fatal(err)
			}
		}
		wait.For(t, "all see all", func() bool {
			for _, g := range all {
				if !g.sees(3) {
					return false
				}
			}
			return true
		})
		for _, n := range all[0].Members() {
			if n.Name == "node2" && n.Address() != all[2].name() {
				t.Errorf("node2 is known at %s, want %s", n.Address(), all[2].name())
			}
		}
		other := all[2].LocalNode()
		if err := all[0].SendBestEffort(other, []byte("packet")); err != nil {
			t.Error(err)
		}
		if got := <-all[2].inbox; got != "packet" {
			t.Errorf("received %q by packet", got)
		}
		if err := all[0].SendReliable(other, []byte("stream")); err != nil {
			t.Error(err)
		}
		if got := <-all[2].inbox; got != "stream" {
			t.Errorf("received %q by stream", got)
		}
		if rtt, err := all[0].Ping("node2", all[2].tcpAddr()); err != nil || rtt <= 0 {
			t.Errorf("Ping = %v, %v", rtt, err)
		}

		// Who crashes is found by its silence.
		all[1].Close()
		wait.For(t, "the crash is seen", func() bool { return all[0].sees(2) && all[2].sees(2) })
	})
}

// Who leaves and is gone at once has told the others so.
func TestLeaveIsHeard(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		noProbes := func(c *memberlist.Config) { c.ProbeInterval, c.PushPullInterval = time.Hour, 0 }
		a, b := w.gossiper(t, "a", noProbes), w.gossiper(t, "b", noProbes)
		if _, err := b.Join([]string{a.name()}); err != nil {
			t.Fatal(err)
		}
		wait.For(t, "both see both", func() bool { return a.sees(2) && b.sees(2) })
		if err := b.Leave(wait.Patience); err != nil {
			t.Error(err)
		}
		b.Memberlist.Shutdown()
		b.Close()
		wait.For(t, "the leave is seen", func() bool { return a.sees(1) })
	})
}

func TestOtherClustersDoNotMeet(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a := w.gossiper(t, "a")
		b := newGossiper(t, w.station(t, func(c *Config) { c.Cluster = "invoices" }))
		if n, err := b.Join([]string{a.name()}); err == nil {
			t.Errorf("joined %d members of another cluster", n)
		}
		if !a.sees(1) || !b.sees(1) {
			t.Error("two clusters see each other")
		}
	})
}
