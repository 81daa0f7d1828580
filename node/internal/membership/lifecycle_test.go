package membership

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

func TestWatchCoalescesAndEndsWithTheMembership(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a := start(t, net, "a", 1)
		hold, seen := make(chan struct{}), make(chan View, 100)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for view := range a.Watch(context.Background()) {
				seen <- view
				<-hold
			}
		}()
		first := <-seen
		if names(first) != "a" {
			t.Errorf("first view [%s]", names(first))
		}
		b, c := start(t, net, "b", 2), start(t, net, "c", 3)
		a.peers(2, 3)
		see(time.Second, "a b c", a, b, c)
		b.crash()
		see(5*time.Second, "a c", a)
		close(hold)
		synctest.Wait()
		last := <-seen
		if len(seen) != 0 || names(last) != "a c" || last.Seq <= first.Seq || last.Seq != a.View().Seq {
			t.Errorf("after a pause: [%s] with seq %d, and %d more; the view is %d", names(last), last.Seq, len(seen), a.View().Seq)
		}
		_ = a.Close()
		<-ended
		for range a.Watch(context.Background()) {
			// What was known last, and then the end.
		}
	})
}

func TestLeaveIsBoundedByItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		net.cut(1, address(2))
		net.cut(2, address(3))

		// The others do not hear us; we cannot tell, and say it as often as usual.
		begin := time.Now()
		if err := a.Leave(t.Context()); err != nil || time.Since(begin) > leaveTimeout+time.Second {
			t.Errorf("Leave = %v after %v", err, time.Since(begin))
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin = time.Now()
		if err := b.Leave(ctx); err != nil && !errors.Is(err, context.Canceled) || time.Since(begin) > 100*time.Millisecond {
			t.Errorf("Leave with a context that has ended = %v after %v", err, time.Since(begin))
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}

		// Close while Leave is under way, and while a dial gets no answer.
		c.peers(1, 2)
		left := make(chan error, 1)
		go func() { left <- c.Leave(t.Context()) }()
		begin = time.Now()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-left; err != nil || time.Since(begin) > leaveTimeout+time.Second {
			t.Errorf("Leave = %v after %v", err, time.Since(begin))
		}
	})
}

func TestStartFailsWholly(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		h := net.host(address(1))
		cfg := Config{
			Cluster: "orders", NodeID: "a", InstanceID: someInstance, Addr: h.addr, Transport: h, Network: h,
			Details: bigDetails("x", MaxDetails),
		}
		if _, err := Start(cfg); err == nil || !strings.Contains(err.Error(), "details") {
			t.Errorf("Start with details above the limit = %v", err)
		}
		cfg.Details = Details{}
		if _, err := h.Listen(protocolMember); err != nil {
			t.Fatal(err)
		}
		if _, err := Start(cfg); err == nil {
			t.Error("Start where the protocol is taken succeeds")
		}
	})
}

// A packet that cannot be written is a lost packet: memberlist must go on to find
// the member dead.
func TestWritesNeverFail(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		before := a.Stats().FailedWrites
		b.crash() // from now on the memoryNetwork refuses packets with an error of its own
		see(5*time.Second, "a c", a, c)
		if a.Stats().FailedWrites == before {
			t.Error("no write failed: this proves nothing")
		}
	})
}

func TestMergeGoesOnUnlessAllAreStrange(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a := start(t, net, "a", 1)
		_ = a.SetClusterID("one")
		peer := func(id, clusterID string, state memberlist.NodeStateType) *memberlist.Node {
			m := meta{InstanceID: someInstance, Claim: 1, ClusterID: clusterID}
			return &memberlist.Node{Name: memberName(id, someInstance), Meta: m.encode(encodedDetails{}), State: state}
		}
		alive, dead := memberlist.StateAlive, memberlist.StateDead
		stranger := &memberlist.Node{Name: "someone", Meta: []byte("else"), State: alive}
		for _, test := range []struct {
			peers []*memberlist.Node
			want  bool
		}{
			{nil, true},
			{[]*memberlist.Node{peer("b", "one", alive)}, true},
			{[]*memberlist.Node{peer("b", "", alive)}, true},
			{[]*memberlist.Node{peer("b", "two", alive), peer("c", "one", alive)}, true},
			{[]*memberlist.Node{peer("b", "two", alive)}, false},
			{[]*memberlist.Node{peer("b", "two", alive), peer("c", "one", dead)}, false},
			{[]*memberlist.Node{stranger}, false},
		} {
			if err := (callbacks{a.Membership}).NotifyMerge(test.peers); (err == nil) != test.want {
				t.Errorf("NotifyMerge(%v) = %v", test.peers, err)
			}
		}
		if r := a.Stats().Refused; r[reasonMalformed] != 1 || r[reasonClusterID] == 0 {
			t.Errorf("refused %v", r)
		}
	})
}
