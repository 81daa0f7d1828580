package membership

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// heard collects what a member is told.
type heard struct {
	mu    sync.Mutex
	msgs  []string
	from  []string // of msgs
	state []string
}

func (h *heard) options(local string) func(*Config) {
	return func(c *Config) {
		c.OnMessage = func(from string, b []byte) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.msgs, h.from = append(h.msgs, string(b)), append(h.from, from)
		}
		c.MergeState = func(b []byte) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.state = append(h.state, string(b))
		}
		if local != "" {
			c.LocalState = func() []byte { return []byte(local) }
		}
	}
}

func (h *heard) messages() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.msgs, " ")
}

func TestBroadcastReachesEveryMemberOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		const n = 20
		all, ears := make([]*member, n), make([]heard, n)
		var numbers []int
		for i := range n {
			all[i] = start(t, net, fmt.Sprintf("n%02d", i), i+1, ears[i].options(""))
			numbers = append(numbers, i+1)
		}
		for _, m := range all {
			m.peers(numbers...)
		}
		for _, m := range all {
			eventually(t, time.Second, "all", func() bool { return len(m.View().Members) == n })
		}
		net.lose(0.02)
		if err := all[0].Broadcast("master", []byte("one")); err != nil {
			t.Fatal(err)
		}
		for i := range all[1:] {
			eventually(t, time.Second, "message at "+all[i+1].cfg.NodeID, func() bool { return ears[i+1].messages() == "one" })
		}
		_ = all[0].Broadcast("master", []byte("two"))
		_ = all[0].Broadcast("master", []byte("three"))
		_ = all[0].Broadcast("other", []byte("four"))
		for i := range all[1:] {
			eventually(t, time.Second, "messages at "+all[i+1].cfg.NodeID, func() bool {
				got := ears[i+1].messages()
				return strings.Contains(got, "three") && strings.Contains(got, "four")
			})
		}
		time.Sleep(20 * time.Second)
		for i := range all {
			got := strings.Fields(ears[i].messages())
			if i == 0 {
				if len(got) != 0 {
					t.Errorf("%s heard its own %q", all[i].cfg.NodeID, got)
				}
				continue
			}
			// Each at most once, and none that a later one of its key has replaced.
			for _, msg := range []string{"one", "two", "three", "four"} {
				first, last := slices.Index(got, msg), lastIndex(got, msg)
				if first != last || first < 0 && msg != "two" {
					t.Errorf("%s heard %q: want %q once", all[i].cfg.NodeID, got, msg)
				}
			}
			for _, from := range ears[i].from {
				if from != all[0].cfg.NodeID {
					t.Errorf("%s heard from %q, want %q", all[i].cfg.NodeID, from, all[0].cfg.NodeID)
				}
			}
			if slices.Index(got, "two") > slices.Index(got, "three") {
				t.Errorf("%s heard %q: two was replaced by three", all[i].cfg.NodeID, got)
			}
		}
	})
}

func lastIndex(list []string, s string) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == s {
			return i
		}
	}
	return -1
}

func TestStateReachesLateComers(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var first, late heard
		a := start(t, net, "a", 1, first.options("from a"))
		b := start(t, net, "b", 2, late.options(""))
		b.peers(1)
		see(time.Second, "a b", a, b)
		synctest.Wait()
		late.mu.Lock()
		defer late.mu.Unlock()
		if len(late.state) == 0 || late.state[0] != "from a" || len(first.state) != 0 {
			t.Errorf("states %v and %v", late.state, first.state)
		}
	})
}

func TestBroadcastLimits(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var ears heard
		longest := strings.Repeat("c", 255)
		config := func(c *Config) { c.Cluster = longest }
		a := start(t, net, strings.Repeat("a", MaxNodeID), 1, config)
		b := start(t, net, "b", 2, ears.options(""), config)
		a.peers(2)
		see(time.Second, strings.Repeat("a", MaxNodeID)+" b", a, b)
		_ = a.SetClusterID(strings.Repeat("i", MaxID))
		if err := a.Broadcast("k", make([]byte, MaxMessage+1)); err == nil {
			t.Error("a message that is too long was taken")
		}
		if err := a.Broadcast(strings.Repeat("k", MaxKey+1), nil); err == nil {
			t.Error("a key that is too long was taken")
		}
		whole := bytes.Repeat([]byte("m"), MaxMessage)
		if err := a.Broadcast(strings.Repeat("k", MaxKey), whole); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "the longest message", func() bool { return ears.messages() == string(whole) })
	})
}

// What a member says in another one's name has no lasting effect.
func TestForgedMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var ears heard
		a := start(t, net, "a", 1)
		b := start(t, net, "b", 2, ears.options(""))
		c := start(t, net, "c", 3)
		a.peers(2, 3)
		see(2*time.Second, "a b c", a, b, c)
		forge := func(m message) {
			m.origin = a.name
			c.broadcasts.queue.QueueBroadcast(&broadcast{message: m, encoded: m.encode()})
		}
		_ = a.Broadcast("master", []byte("first"))
		eventually(t, time.Second, "the first", func() bool { return ears.messages() == "first" })
		forge(message{kind: kindUser, key: "master", seq: math.MaxUint64, payload: []byte("forged")})
		time.Sleep(time.Second)
		_ = a.Broadcast("master", []byte("second"))
		eventually(t, time.Second, "the second", func() bool { return strings.HasSuffix(ears.messages(), "second") })
		// Of a key that was never learned of, any number is the first.
		forge(message{kind: kindUser, key: "new", seq: math.MaxUint64, payload: []byte("forged")})
		time.Sleep(seenKept + time.Second)
		_ = a.Broadcast("new", []byte("third"))
		eventually(t, time.Second, "the third", func() bool { return strings.HasSuffix(ears.messages(), "third") })

		forge(message{kind: kindLeave})
		see(time.Second, "b c", b)
		see(leaveBelieved+time.Second, "a b c", b)
		for range 30 {
			forge(message{kind: kindLeave})
			time.Sleep(time.Second)
			see(0, "a b c", b)
		}
		_ = a.Leave(t.Context())
		see(10*time.Second, "b c", b)
	})
}

// A user who does not keep up loses the oldest messages and delays nobody.
func TestSlowListener(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		release := make(chan struct{})
		a := start(t, net, "a", 1)
		b := start(t, net, "b", 2, func(c *Config) { c.OnMessage = func(string, []byte) { <-release } })
		a.peers(2)
		see(time.Second, "a b", a, b)
		for i := range 3 * maxInbox {
			_ = a.Broadcast(fmt.Sprint(i), []byte("x"))
		}
		eventually(t, time.Minute, "drops", func() bool { return b.Stats().QueueDrops > 0 })
		time.Sleep(time.Minute)
		see(0, "a b", a, b)
		close(release)
	})
}

func TestSeenIsBounded(t *testing.T) {
	s, now := make(seen), time.Now()
	for i := range 3 * maxSeen {
		if !s.add(fmt.Sprint(i), 1, now) {
			t.Fatalf("message %d is no news", i)
		}
	}
	if len(s) > maxSeen {
		t.Errorf("%d entries", len(s))
	}
	s.add("key", 5, now)
	if s.add("key", 5, now) || s.add("key", 4, now) || !s.add("key", 6, now) {
		t.Error("the highest sequence number does not count")
	}
}

func TestOthersStateAndMessagesOfAnotherClusterIDAreIgnored(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var ears heard
		a := start(t, net, "a", 1, ears.options(""))
		_ = a.SetClusterID("one")
		c := callbacks{a.Membership}
		c.NotifyMsg(message{kindUser, "two", "x~000000000000", "k", 1, []byte("strange")}.encode())
		c.MergeRemoteState(exchange{clusterID: "two", payload: []byte("strange")}.encode(), false)
		c.NotifyMsg([]byte("garbage"))
		c.MergeRemoteState([]byte("\x02garbage"), false)
		c.NotifyMsg(message{77, "one", "x~000000000000", "k", 1, []byte("of a later version")}.encode())
		c.NotifyMsg(message{kindUser, "one", "x~000000000000", "k", 1, []byte("ours")}.encode())
		synctest.Wait()
		if got := ears.messages(); got != "ours" || len(ears.state) != 0 {
			t.Errorf("heard %q and %v", got, ears.state)
		}
	})
}
