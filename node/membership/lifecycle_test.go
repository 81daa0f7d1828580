package membership

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

func TestWatchCoalescesAndEndsWithTheMembership(t *testing.T) {
	inBubble(t, func(t *testing.T, net *fabric) {
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
	inBubble(t, func(t *testing.T, net *fabric) {
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
	inBubble(t, func(t *testing.T, net *fabric) {
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
	inBubble(t, func(t *testing.T, net *fabric) {
		a, b, c := three(t, net)
		before := a.Stats().FailedWrites
		b.crash() // from now on the fabric refuses packets with an error of its own
		see(5*time.Second, "a c", a, c)
		if a.Stats().FailedWrites == before {
			t.Error("no write failed: this proves nothing")
		}
	})
}

func TestMergeGoesOnUnlessAllAreStrange(t *testing.T) {
	inBubble(t, func(t *testing.T, net *fabric) {
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

// lines is a slog destination that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func TestStrangersAreLoggedOnceAMinute(t *testing.T) {
	inBubble(t, func(t *testing.T, net *fabric) {
		var log lines
		start(t, net, "a", 1, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		x := start(t, net, "x", 2, func(c *Config) { c.Cluster = "stock" })
		x.peers(1)
		time.Sleep(5*time.Minute + 30*time.Second)
		if n := log.count("reason=cluster"); n < 5 || n > 7 {
			t.Errorf("%d records in five minutes and a half", n)
		}
		if n := log.count("\n"); n > 20 {
			t.Errorf("%d records in all", n)
		}
	})
}

func TestMemberlistsLinesGetLevels(t *testing.T) {
	for line, want := range map[string]struct {
		level slog.Level
		text  string
	}{
		"[DEBUG] memberlist: Stream connection x\n": {slog.LevelDebug, "Stream connection x"},
		"[WARN] memberlist: Refuting\n":             {slog.LevelDebug, "Refuting"},
		"[ERR] memberlist: Failed to send\n":        {slog.LevelWarn, "Failed to send"},
		"[ERROR] memberlist: Failed\n":              {slog.LevelWarn, "Failed"},
		"no level\n":                                {slog.LevelDebug, "no level"},
	} {
		if level, text := splitLevel([]byte(line)); level != want.level || string(text) != want.text {
			t.Errorf("splitLevel(%q) = %v, %q", line, level, text)
		}
	}
	if kindOf("Push/Pull with a~1 failed: timeout") != kindOf("Push/Pull with a~2 failed: reset") {
		t.Error("two lines of one kind are two kinds")
	}
}
