package link

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/musterhq/muster/internal/testing/wait"
)

// identified gives a link an identity.
func identified(node, instance string, features ...string) func(*Config) {
	return func(c *Config) { c.NodeID, c.InstanceID, c.Features = node, instance, features }
}

func TestBothEndsKnowWhoTheOtherIs(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a, b := w.station(t, identified("a", "a1", "mux")), w.link(t, identified("b", "b1", "new", "zstd"))
		ln, err := b.Listen("x")
		if err != nil {
			t.Fatal(err)
		}
		out, err := a.Dial(wait.Context(t), "x", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		in, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		// b has no transport, and so no address that it advertises.
		if got, want := PeerOf(out), (Peer{NodeID: "b", InstanceID: "b1", Protocol: "x", Features: []string{"new", "zstd"}}); !reflect.DeepEqual(got, want) {
			t.Errorf("the end that dialed knows %+v, want %+v", got, want)
		}
		if got, want := PeerOf(in), (Peer{NodeID: "a", InstanceID: "a1", Protocol: "x", Addr: a.Addr(), Features: []string{"mux"}}); !reflect.DeepEqual(got, want) {
			t.Errorf("the end that accepted knows %+v, want %+v", got, want)
		}
	})
	if got := PeerOf(&net.TCPConn{}); !reflect.DeepEqual(got, Peer{}) {
		t.Errorf("the peer of a connection that is none of a link: %+v", got)
	}
}

// An instance is dialed by name, and nobody else who answers at its address is taken for it: that
// costs no more round trips than to be accepted.
func TestOnlyTheInstanceThatIsMeantIsDialed(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		want := int64(1)
		if w.ca != nil {
			want = 2
		}
		first := w.link(t, identified("b", "b-first"))
		echo(t, first, "x")
		addr := first.Addr().String()
		for _, id := range []string{"b-first", "b-fi"} {
			if got := dialTurns(t, w, func(l *Link) {
				c, err := l.DialInstance(wait.Context(t), "x", addr, id)
				if err != nil {
					t.Fatal(err)
				}
				roundTrip(t, c)
				c.Close()
			}); got != want+1 { // and that of the echo
				t.Errorf("%s: %d round trips, want %d", id, got, want+1)
			}
		}
		first.Close()
		second := w.link(t, identified("b", "b-second"), func(c *Config) { c.Bind = addr })
		echo(t, second, "x")
		if got := dialTurns(t, w, func(l *Link) {
			_, err := l.DialInstance(wait.Context(t), "x", addr, "b-first")
			var refused *RefusedError
			if !errors.Is(err, ErrLeft) || !errors.As(err, &refused) || refused.Reason != ReasonInstance || refused.Peer.InstanceID != "b-second" {
				t.Errorf("another instance was dialed: %v", err)
			}
			const text = "instance b-first has left: node b answers there, instance b-second"
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%v does not say %q", err, text)
			}
		}); got != want {
			t.Errorf("it takes %d round trips to learn that, want %d", got, want)
		}
		wait.For(t, "it is counted there", func() bool { return second.Stats().Rejected[ReasonInstance] == 1 })
		c, err := w.link(t).Dial(wait.Context(t), "x", addr) // any instance
		if err != nil {
			t.Fatal(err)
		}
		if got := PeerOf(c).InstanceID; got != "b-second" {
			t.Errorf("instance %q answers", got)
		}
		c.Close()
		for _, id := range []string{"", "b first", strings.Repeat("x", MaxInstanceID+1)} {
			if _, err := second.DialInstance(wait.Context(t), "x", addr, id); err == nil || errors.Is(err, ErrLeft) || !strings.Contains(err.Error(), "instance id") {
				t.Errorf("instance %q: %v", id, err)
			}
		}
	})
}

// A process that lets in who means another one is found out by the end that dials.
func TestWhoAnswersForAnotherIsFoundOut(t *testing.T) {
	liar, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer liar.Close()
	answer := func(change func(*hello)) {
		h := ask("x")
		change(&h)
		go func() {
			c, err := liar.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if _, err := readHello(c); err == nil {
				c.Write(h.append([]byte{byte(statusAccepted)}))
				io.Copy(io.Discard, c)
			}
		}()
	}
	l := (&world{}).link(t)
	for _, c := range []struct {
		change func(*hello)
		want   Reason
	}{
		{func(h *hello) { h.peer.InstanceID = "other" }, ReasonInstance},
		{func(h *hello) { h.cluster = "invoices" }, ReasonCluster},
		{func(h *hello) { h.version++ }, ReasonVersion},
		{func(h *hello) { h.peer.NodeID = "" }, ReasonGarbage},
		{func(h *hello) { h.peer.Protocol = "y" }, ReasonGarbage},
	} {
		answer(c.change)
		_, err := l.DialInstance(wait.Context(t), "x", liar.Addr().String(), "strange")
		wantRefused(t, err, c.want)
	}
	if n := l.Stats().Outbound; n != 0 {
		t.Errorf("%d connections are open", n)
	}
}

// Gossip for an instance that has left does not reach the process that has its address now, and
// that is no alarm.
func TestGossipReachesOnlyTheInstanceThatIsMeant(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		var records recorder
		a := w.station(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&records, nil)) })
		b := w.station(t, identified("b", "b-second"))
		stale := memberlist.Address{Addr: b.name(), Name: "b-first"}
		if _, err := a.tr.WriteToAddress([]byte("stale"), stale); err != nil {
			t.Fatal(err)
		}
		wait.For(t, "it is rejected", func() bool { return b.Stats().Rejected[ReasonInstance] > 0 })
		if _, err := a.tr.DialAddressTimeout(stale, wait.Patience); !errors.Is(err, ErrLeft) {
			t.Errorf("a stream to the instance that has left: %v", err)
		}
		for _, name := range []string{"b-second", "b-sec", ""} {
			if _, err := a.tr.WriteToAddress([]byte("to "+name), memberlist.Address{Addr: b.name(), Name: name}); err != nil {
				t.Fatal(err)
			}
			if got := string(b.receive(t).Buf); got != "to "+name {
				t.Errorf("%q came, want %q", got, "to "+name)
			}
		}
		if n := records.count("dial_refused") + records.count("alarm=dial_refused"); n != 0 {
			t.Errorf("%d alarms", n)
		}
	})
}

// Every connection of an instance that has departed is closed at once, both ways; those of others
// stay, and gossip, by which a leaver still learns who else leaves. It can connect again.
func TestDisconnectEndsTheConnectionsOfAnInstance(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		hungUp := make(chan string, 10)
		a := w.station(t, identified("a", "a1"), func(c *Config) { c.HungUp = func(id string) { hungUp <- id } })
		b, other := w.station(t, identified("b", "b1")), w.station(t, identified("c", "c1"))
		for _, l := range []*Link{a.Link, b.Link, other.Link} {
			echo(t, l, "x")
		}
		open := func(from, to *station) net.Conn {
			c, err := from.Dial(wait.Context(t), "x", to.name())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			roundTrip(t, c)
			return c
		}
		toB, fromB, toOther, fromOther := open(a, b), open(b, a), open(a, other), open(other, a)
		a.sendUntilReceived(t, b, "one")
		b.sendUntilReceived(t, a, "two")
		kept := b.Stats().Accepted[protocolPackets]
		a.Disconnect("b1")
		if in, out := a.Stats().Inbound, a.Stats().Outbound; in != 2 || out != 2 {
			t.Errorf("%d inbound and %d outbound are left, want gossip and those of the other, each way", in, out)
		}
		for _, c := range []net.Conn{toB, fromB} {
			c.SetReadDeadline(time.Now().Add(wait.Patience))
			var timeout net.Error
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("a connection of it is open: %v", err)
			}
		}
		for _, c := range []net.Conn{toOther, fromOther} {
			roundTrip(t, c)
		}
		a.sendUntilReceived(t, b, "three")
		b.sendUntilReceived(t, a, "four")
		if n := b.Stats().Accepted[protocolPackets]; n != kept {
			t.Errorf("%d gossip connections were made, want that of before", n-kept)
		}
		open(a, b)
		if len(hungUp) > 0 {
			t.Errorf("%s is said to have hung up", <-hungUp)
		}
	})
}

// A certificate that names a node is good for no other node, whichever end dials.
func TestVerifyNodeID(t *testing.T) {
	w := &world{newAuthority(t)}
	node := func(id string, verify bool, names ...string) func(*Config) {
		return func(c *Config) {
			c.NodeID, c.VerifyNodeID = id, verify
			c.TLS.Certificates = []tls.Certificate{w.ca.issueFor(t, func(c *certificate) { c.names = names })}
		}
	}
	for _, c := range []struct {
		name     string
		from, to func(*Config)
		want     Reason // empty: accepted
		rejected Reason
	}{
		{"both are named", node("a", true, "a"), node("b", true, "x", "b"), "", ""},
		{"neither wants to know", node("a", false, "x"), node("b", false, "y"), "", ""},
		{"the end that dials says another's name", node("a", true, "thief"), node("b", true, "b"), ReasonNodeID, ReasonNodeID},
		{"and has no name at all", node("a", false), node("b", true, "b"), ReasonNodeID, ReasonNodeID},
		{"the end that accepts says another's name", node("a", true, "a"), node("b", true, "thief"), ReasonNodeID, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to := w.link(t, c.from), w.link(t, c.to)
			echo(t, to, "x")
			nc, err := from.Dial(wait.Context(t), "x", to.Addr().String())
			if err == nil {
				nc.Close()
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantRefused(t, err, c.want)
			var refused *RefusedError
			if errors.As(err, &refused) && !strings.Contains(refused.Hint(), "tls.verify_node_id") {
				t.Errorf("hint %q", refused.Hint())
			}
			if c.rejected != "" {
				wait.For(t, "it is counted there", func() bool { return to.Stats().Rejected[c.rejected] == 1 })
				if n := to.Stats().Accepted["x"]; n != 0 {
					t.Errorf("%d connections were accepted", n)
				}
			}
		})
	}
}
