package dialback

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/node/internal/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a member with a link of its own.
type peer struct {
	Member
	link   *link.Link
	server *Server
}

// newPeer starts a member that knows others.
func newPeer(t *testing.T, id string, others ...Member) *peer {
	t.Helper()
	l, err := link.Listen(link.Config{Bind: "127.0.0.1:0", Cluster: "orders", NodeID: id, InstanceID: "instance-" + id})
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{Member: Member{NodeID: id, InstanceID: "instance-" + id, Addr: l.Addr().String()}, link: l}
	p.server = &Server{Network: l, Find: func(instanceID string) (Member, bool) {
		for _, m := range others {
			if m.InstanceID == instanceID {
				return m, true
			}
		}
		return Member{}, false
	}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		l.Close()
	})
	// It is asked only when it listens.
	for {
		c, err := l.Dial(t.Context(), Protocol, p.Addr)
		if err == nil {
			c.Close()
			return p
		}
		var refused *link.RefusedError
		if !errors.As(err, &refused) || refused.Reason != link.ReasonProtocol {
			t.Fatal(err)
		}
	}
}

func TestAsk(t *testing.T) {
	self := newPeer(t, "self")
	nowhere := Member{NodeID: "self", InstanceID: "instance-self", Addr: closedAddr(t)}

	if err := Ask(t.Context(), self.link, self.Member, newPeer(t, "b", self.Member).Member); err != nil {
		t.Errorf("who can be reached: %v", err)
	}

	var unreachable *UnreachableError
	err := Ask(t.Context(), self.link, nowhere, newPeer(t, "b", nowhere).Member)
	want := "advertised " + nowhere.Addr + ", which node b cannot reach: connection refused; publish the port or set node.advertise"
	if !errors.As(err, &unreachable) || err.Error() != want {
		t.Errorf("who cannot: %v\nwant %s", err, want)
	}

	refused := &UnreachableError{Addr: "10.0.0.5:7946", Peer: "b", Reason: "it demands TLS", How: "configure tls on this node too"}
	if want := "advertised 10.0.0.5:7946, which node b cannot reach: it demands TLS; configure tls on this node too"; refused.Error() != want {
		t.Errorf("whose reason says the hint: %v\nwant %s", refused, want)
	}

	other := newPeer(t, "other")
	elsewhere := Member{NodeID: "self", InstanceID: "instance-self", Addr: other.Addr}
	err = Ask(t.Context(), self.link, elsewhere, newPeer(t, "b", elsewhere).Member)
	if !errors.As(err, &unreachable) || unreachable.Reason != "node other answers there, instance instance-oth" {
		t.Errorf("another answers: %v", err)
	}

	// What is no answer.
	mute, err := link.Listen(link.Config{Bind: "127.0.0.1:0", Cluster: "orders", NodeID: "b", InstanceID: "instance-b"})
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for name, c := range map[string]struct {
		peer Member
		want string
	}{
		"nobody there":          {Member{NodeID: "b", InstanceID: "instance-b", Addr: closedAddr(t)}, "node b cannot be asked: connection refused"},
		"another answers":       {Member{NodeID: "b", InstanceID: "gone", Addr: other.Addr}, "node b cannot be asked: instance gone has left: node other answers there"},
		"an older version":      {Member{NodeID: "b", InstanceID: "instance-b", Addr: mute.Addr().String()}, "does not serve this protocol"},
		"not known there":       {newPeer(t, "b").Member, "node b declines: no such member is known"},
		"known by another addr": {newPeer(t, "b", Member{InstanceID: "instance-self", Addr: other.Addr}).Member, "knows another address"},
	} {
		err := Ask(t.Context(), self.link, self.Member, c.peer)
		if err == nil || errors.As(err, &unreachable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A peer whose address another process has is as absent as one that nobody has.
func TestWhoLeftIsAbsent(t *testing.T) {
	self, other := newPeer(t, "self"), newPeer(t, "other")
	for name, gone := range map[string]Member{
		"another answers": {NodeID: "b", InstanceID: "gone", Addr: other.Addr},
		"nobody there":    {NodeID: "b", InstanceID: "gone", Addr: closedAddr(t)},
	} {
		if err := Ask(t.Context(), self.link, self.Member, gone); !errors.Is(err, ErrAbsent) {
			t.Errorf("%s: %v, want ErrAbsent", name, err)
		}
	}
	if who, err := Who(t.Context(), self.link, other.Addr); err != nil || who != other.Member {
		t.Errorf("who answers: %+v, %v; want %+v", who, err, other.Member)
	}
}

func closedAddr(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// What a stranger may send is declined, and dials nobody.
func TestQuestionsOfStrangers(t *testing.T) {
	b := newPeer(t, "b")
	for line, want := range map[string]string{
		`{"v":1,"op":"who"}`: `{"v":1,"outcome":"declined","reason":"unknown question"}`,
		`{"v":1,"op":"reach","instance":"x","addr":"10.0.0.1:22"}`: `{"v":1,"outcome":"declined","reason":"no such member is known"}`,
		`{"v":1,"op":"shout"}`:       `{"v":1,"outcome":"declined","reason":"unknown question"}`,
		`{"v":2,"op":"reach"}`:       `{"v":1,"outcome":"declined","reason":"version 2 is not spoken here"}`,
		`hello`:                      "",
		strings.Repeat("x", maxLine): "",
	} {
		c, err := b.link.Dial(t.Context(), Protocol, b.Addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
		got, _ := bufio.NewReader(c).ReadString('\n')
		if strings.TrimSuffix(got, "\n") != want {
			t.Errorf("%.40s: %q, want %q", line, got, want)
		}
		c.Close()
	}
}

// The same member is not dialled again and again, however many ask, nor many at a time.
func TestDialsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Server
		if !s.begin("a") || s.begin("a") {
			t.Fatal("want the first dial and not the second")
		}
		s.end()
		if s.begin("a") {
			t.Error("dialled again at once")
		}
		if !s.begin("b") {
			t.Error("another member has to wait")
		}
		s.end()
		time.Sleep(Pause)
		if !s.begin("a") {
			t.Error("not dialled again after the pause")
		}
		for _, id := range []string{"c", "d", "e"} {
			if !s.begin(id) {
				t.Errorf("%s has to wait", id)
			}
		}
		if s.begin("f") {
			t.Errorf("more than %d dials at a time", maxDials)
		}
		for range maxDials {
			s.end()
		}
		// Nor is anything remembered for long.
		for n := range maxPauses {
			s.begin(string(rune('a' + n)))
			s.mu.Lock()
			s.dials = 0
			s.mu.Unlock()
		}
		if s.begin("one too many") {
			t.Error("remembers any number")
		}
		s.mu.Lock()
		s.dials = 0
		s.mu.Unlock()
		time.Sleep(Pause)
		if !s.begin("one too many") || len(s.dialed) != 1 {
			t.Errorf("remembers %d after the pause", len(s.dialed))
		}
	})
}

// Over and over the same member: declined, not dialled.
func TestAskedTooOften(t *testing.T) {
	self := newPeer(t, "self")
	b := newPeer(t, "b", self.Member)
	declined := 0
	for range 10 {
		if err := Ask(t.Context(), self.link, self.Member, b.Member); err != nil && strings.Contains(err.Error(), "too many questions") {
			declined++
		}
	}
	if declined == 0 {
		t.Error("none of ten questions at once was declined")
	}
}

// Who says nothing is waited for no longer than need be, and keeps nobody from leaving.
func TestSilentStrangerKeepsNobody(t *testing.T) {
	b := newPeer(t, "b")
	c, err := b.link.Dial(t.Context(), Protocol, b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) // after the server was seen to end
}

// What cannot be answered in time is no answer.
func TestAskIsBounded(t *testing.T) {
	silent, err := link.Listen(link.Config{Bind: "127.0.0.1:0", Cluster: "orders", NodeID: "b", InstanceID: "instance-b"})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ln, err := silent.Listen(Protocol)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = Ask(ctx, silent, Member{InstanceID: "x", Addr: "10.0.0.1:1"}, Member{NodeID: "b", InstanceID: "instance-b", Addr: silent.Addr().String()})
	if err == nil || err.Error() != "node b does not answer: no answer in time" {
		t.Errorf("%v", err)
	}
}
