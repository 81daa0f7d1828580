package membership

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/node/internal/link"
)

func bigDetails(letter string, size int) Details {
	return Details{Zone: "z", Meta: map[string]string{"big": strings.Repeat(letter, size)}, AppAddrs: map[string]string{"http": "10.0.0.9:80"}}
}

func TestDetailsThatDoNotFitIntoGossipArriveWhole(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		big := bigDetails("x", 900_000)
		a := start(t, net, "a", 1)
		b := start(t, net, "b", 2, func(c *Config) { c.Details = big })
		b.peers(1)
		eventually(t, 5*time.Second, "b's details at a", func() bool {
			v := a.View()
			return len(v.Members) == 2 && v.Members[1].DetailsKnown && v.Members[1].Details.Equal(big)
		})
		// They change, and at last fit again.
		bigger := bigDetails("y", 1000)
		if err := b.UpdateDetails(bigger); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "b's next details", func() bool { return a.View().Members[1].Details.Equal(bigger) })
		small := Details{Zone: "z"}
		_ = b.UpdateDetails(small)
		eventually(t, 5*time.Second, "b's small details", func() bool {
			m := a.View().Members[1]
			return m.DetailsKnown && m.Details.Equal(small)
		})
		if err := b.UpdateDetails(bigDetails("x", MaxDetails)); err == nil {
			t.Error("details above the limit were taken")
		}
		if s := a.Stats(); s.Fetches < 2 {
			t.Errorf("stats %+v", s)
		}
	})
}

// deafNetwork fails the first dials of the protocol "member".
type deafNetwork struct {
	link.Network
	failures atomic.Int64
}

func (d *deafNetwork) DialInstance(ctx context.Context, protocol, addr, instanceID string) (net.Conn, error) {
	if protocol == protocolMember && d.failures.Add(-1) >= 0 {
		return nil, errVanished
	}
	return d.Network.DialInstance(ctx, protocol, addr, instanceID)
}

func TestMemberIsInTheViewBeforeItsDetails(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		big := bigDetails("x", 10_000)
		deaf := &deafNetwork{}
		deaf.failures.Store(6)
		a := start(t, net, "a", 1, func(c *Config) { deaf.Network, c.Network = c.Network, deaf })
		b := start(t, net, "b", 2, func(c *Config) { c.Details = big })
		b.peers(1)
		see(time.Second, "a b", a, b)
		before := a.View()
		if m := before.Members[1]; m.DetailsKnown || !m.Details.Equal(Details{}) {
			t.Errorf("member %+v", m)
		}
		eventually(t, time.Minute, "b's details at a", func() bool { return a.View().Members[1].DetailsKnown })
		if changes := Diff(before, a.View()); len(changes) != 1 || changes[0].Kind != Updated || !changes[0].Member.Details.Equal(big) {
			t.Errorf("changes %v", changes)
		}
		if s := a.Stats(); s.FetchFailures != 6 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestFetchEndsWithItsMember(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		deaf := &deafNetwork{}
		deaf.failures.Store(1e9)
		a := start(t, net, "a", 1, func(c *Config) { deaf.Network, c.Network = c.Network, deaf })
		b := start(t, net, "b", 2, func(c *Config) { c.Details = bigDetails("x", 10_000) })
		b.peers(1)
		see(time.Second, "a b", a, b)
		b.crash()
		see(6*time.Second, "a", a)
		before := a.Stats().Fetches
		time.Sleep(time.Minute)
		if n := a.Stats().Fetches - before; n > 1 {
			t.Errorf("%d attempts to fetch from the departed", n)
		}
	})
}
