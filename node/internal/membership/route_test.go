package membership

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// crowd starts n members that all know the first, and waits until all see all.
func crowd(t *testing.T, net *memoryNetwork, n int, options ...func(*Config)) []*member {
	t.Helper()
	var all []*member
	for i := range n {
		m := start(t, net, fmt.Sprintf("n%03d", i), i+1, options...)
		m.peers(1)
		all = append(all, m)
	}
	for _, m := range all {
		eventually(t, 2*time.Minute, m.cfg.NodeID+" sees all", func() bool { return len(m.View().Members) == n })
	}
	return all
}

// A message reaches all of a cluster that is much larger than the number of connections that are
// kept, and takes hardly a connection more than the probes do.
func TestNewsTakesNoDials(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		const n, messages = 80, 20
		var heard atomic.Int64
		all := crowd(t, net, n, func(c *Config) { c.OnMessage = func(string, []byte) { heard.Add(1) } })
		time.Sleep(time.Minute)
		connects := func() (sum int) {
			for _, m := range all {
				sum += m.host.connects()
			}
			return sum
		}
		began, before := time.Now(), connects()
		for i := range messages {
			sent, at := heard.Load(), time.Now()
			if err := all[i].Broadcast("k", []byte("news")); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Second, "all have heard", func() bool { return heard.Load() == sent+n-1 })
			t.Logf("message %d reached all after %v", i, time.Since(at))
			time.Sleep(time.Second)
		}
		probes := n * int(time.Since(began)/probeInterval)
		direct := messages * directMembers
		if dials := connects() - before; dials > 2*probes+direct {
			t.Errorf("%d connections for %d probes and %d messages", dials, probes, messages)
		}
	})
}

// Who crashes is missed, and who is only seldom connected is not.
func TestCrowdMissesWhoCrashed(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		const n = 70
		all := crowd(t, net, n)
		time.Sleep(time.Minute)
		all[n-1].crash()
		for _, m := range all[:n-1] {
			eventually(t, 30*time.Second, m.cfg.NodeID+" misses it", func() bool { return len(m.View().Members) == n-1 })
		}
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			for _, m := range all[:n-1] {
				if got := len(m.View().Members); got != n-1 {
					t.Fatalf("%s sees %d members, want %d", m.cfg.NodeID, got, n-1)
				}
			}
		}
	})
}

// tapped is a transport that keeps what memberlist sends.
type tapped struct {
	*host
	packets func(packet []byte, to memberlist.Address)
}

func (r *tapped) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	r.packets(bytes.Clone(b), a)
	return r.host.WriteToAddress(b, a)
}

// The packets of memberlist itself: a probe and its answer hold what is not news, and so does one
// that holds news, too.
func TestPacketsOfMemberlist(t *testing.T) {
	label := func(b ...byte) []byte { return append([]byte{typeLabel, 2, 'a', 'b'}, b...) }
	for _, tt := range []struct {
		name   string
		packet []byte
		news   bool
	}{
		{"nothing", nil, false},
		{"a ping", []byte{0, 1}, false},
		{"an answer", label(2, 1), false},
		{"a suspicion", label(typeSuspect, 1), true},
		{"one with a checksum", label(typeChecksum, 1, 2, 3, 4, typeAlive, 1), true},
		{"a ping with a checksum", label(typeChecksum, 1, 2, 3, 4, 0, 1), false},
		{"two of news", []byte{typeCompound, 2, 0, 1, 0, 2, typeDead, typeUser, 9}, true},
		{"a ping and news", []byte{typeCompound, 2, 0, 1, 0, 2, 0, typeUser, 9}, false},
		{"news and a ping", []byte{typeCompound, 2, 0, 1, 0, 2, typeUser, 0, 9}, false},
		{"none", []byte{typeCompound, 0}, false},
		{"cut off", []byte{typeCompound, 2, 0, 1, 0}, false},
		{"cut off later", []byte{typeCompound, 2, 0, 1, 0, 9, typeUser, typeUser}, false},
		{"an empty one", []byte{typeCompound, 2, 0, 0, 0, 1, typeUser}, false},
		{"only a label", []byte{typeLabel, 200, 'a'}, false},
		{"encrypted", []byte{10, 1, 2, 3}, false},
	} {
		if got := isNews(tt.packet); got != tt.news {
			t.Errorf("%s: isNews = %v", tt.name, got)
		}
	}

	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var news, other atomic.Int64
		watch := func(c *Config) {
			c.Transport = &tapped{c.Transport.(*host), func(b []byte, _ memberlist.Address) {
				switch {
				case !isNews(b):
					other.Add(1)
				case bytes.Contains(b, []byte("the message")):
					news.Add(1)
				}
			}}
		}
		a, b := start(t, net, "a", 1, watch), start(t, net, "b", 2, watch)
		a.peers(2)
		see(10*time.Second, "a b", a, b)
		news.Store(0)
		other.Store(0)
		time.Sleep(time.Minute)
		if n := other.Load(); n < 100 || news.Load() != 0 {
			t.Errorf("%d packets of two members at rest are no news, and %d are", n, news.Load())
		}
		if err := a.Broadcast("k", []byte("the message")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if news.Load() == 0 {
			t.Error("a message was sent in no packet of news")
		}
	})
}
