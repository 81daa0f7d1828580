package membership

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

func TestDeadAndUnresolvablePeersDoNotKeepOthersApart(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var lookups atomic.Int64
		a := start(t, net, "a", 1, func(c *Config) {
			c.lookup = func(context.Context, string) ([]netip.Addr, error) {
				lookups.Add(1)
				return nil, errors.New("no such host")
			}
		})
		b := start(t, net, "b", 2)
		peers := []string{"nowhere.example:7946", "not an address", "10.0.0.2:0", address(2).String()}
		for n := range 40 {
			peers = append(peers, address(100+n).String()) // nobody there
			net.cut(1, address(200+n))
			peers = append(peers, address(200+n).String()) // no answer at all
		}
		a.SetPeers(peers)
		see(12*time.Second, "a b", a, b)
		before := net.dialled(address(100))
		time.Sleep(time.Minute)
		if n := net.dialled(address(100)) - before; n < 2 || n > 60 {
			t.Errorf("a dead peer was dialled %d times in a minute", n)
		}
		if n := lookups.Load(); n < 5 {
			t.Errorf("the name was looked up %d times only", n)
		}
		s := a.Stats()
		if s.Joins != 1 || s.JoinFailures == 0 || s.Peers != len(peers) || s.Missing != len(peers)-1 {
			t.Errorf("stats %+v", s)
		}
		a.peers(2)
		eventually(t, 10*time.Second, "that the dead are given up", func() bool { return a.Stats().Peers == 1 })
	})
}

func TestJoinedPeersAreNotDialledAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		time.Sleep(time.Second)
		before := a.Stats().Joins + b.Stats().Joins + c.Stats().Joins
		time.Sleep(10 * time.Minute)
		if after := a.Stats().Joins + b.Stats().Joins + c.Stats().Joins; after != before {
			t.Errorf("%d joins among members", after-before)
		}
		if a.Stats().Missing != 0 {
			t.Errorf("stats %+v", a.Stats())
		}
	})
}

// A name stands for all of its addresses, and is resolved again when one of them
// belongs to no member.
func TestNameOfAPeer(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var ips atomic.Pointer[[]netip.Addr]
		ips.Store(&[]netip.Addr{address(2).Addr(), address(3).Addr()})
		a := start(t, net, "a", 1, func(c *Config) {
			c.lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
				if host != "orders.example" {
					return nil, fmt.Errorf("host %q", host)
				}
				return *ips.Load(), nil
			}
		})
		b, c := start(t, net, "b", 2), start(t, net, "c", 3)
		a.SetPeers([]string{"orders.example:7946"})
		see(time.Second, "a b c", a, b, c)

		c.crash()
		see(5*time.Second, "a b", a, b)
		ips.Store(&[]netip.Addr{address(2).Addr(), address(9).Addr()})
		again := start(t, net, "c", 9)
		see(5*time.Second, "a b c", a, b, again)
	})
}

// The address in the list is not the one that the member advertises, as behind a
// mapped port: it is recognised by who answers there.
func TestPeerThatAdvertisesAnotherAddress(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b := start(t, net, "a", 1), start(t, net, "b", 2)
		net.alias(address(101), address(1))
		net.alias(address(102), address(2))
		a.peers(101, 102)
		b.peers(101, 102)
		see(time.Second, "a b", a, b)
		time.Sleep(5 * time.Second)
		before := net.dialled(address(101)) + net.dialled(address(102))
		time.Sleep(time.Minute)
		if n := net.dialled(address(101)) + net.dialled(address(102)) - before; n != 0 {
			t.Errorf("members were dialled %d times at their other addresses", n)
		}
		b.crash()
		see(5*time.Second, "a", a)
		again := start(t, net, "b", 2)
		see(5*time.Second, "a b", a, again)
	})
}

func TestMemberThatMovedIsNotDialledAtItsOldAddress(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, _ := three(t, net)
		a.SetPeers(nil)
		b.crash()
		see(5*time.Second, "a c", a)
		again := start(t, net, "b", 12)
		again.peers(3)
		see(time.Second, "a b c", a, again)
		eventually(t, time.Second, "that the old address is given up", func() bool { return a.Stats().Peers == 0 })
	})
}

func TestRetryBounds(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		peer peer
		most time.Duration
	}{
		{peer{listed: true}, firstRetry},
		{peer{listed: true, failures: 2}, 4 * firstRetry},
		{peer{listed: true, failures: 1e6}, lastRetry},
		{peer{lostAt: now}, lostRetryMin},
		{peer{lostAt: now.Add(-20 * time.Second)}, 2 * time.Second},
		{peer{lostAt: now.Add(-5 * time.Minute)}, lostRetryMax},
		{peer{lostAt: now.Add(-20 * time.Hour)}, lostRetryLast},
	} {
		for range 50 {
			if got := test.peer.retry(now); got < test.most/2 || got > test.most {
				t.Fatalf("retry of %+v after %v, want from %v to %v", test.peer, got, test.most/2, test.most)
			}
		}
	}
}
