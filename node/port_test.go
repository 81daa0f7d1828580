package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
)

// echo serves a protocol that says who is there, and repeats what it reads.
func echo(t testing.TB, n *node.Node, name string) net.Listener {
	t.Helper()
	ln, err := n.Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, node.PeerOf(c).InstanceID)
				io.Copy(c, c)
			}()
		}
	}()
	return ln
}

// member waits until n sees a member, and returns it.
func member(t testing.TB, n *node.Node, id string) (found node.Member) {
	t.Helper()
	wait.For(t, n.ID()+" sees "+id, func() bool {
		for _, m := range n.Members() {
			if m.NodeID == id {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// check speaks with an echo.
func check(t testing.TB, from *node.Node, c net.Conn, to string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(wait.Patience))
	if peer := c.(node.Conn).Peer(); peer.InstanceID != to {
		t.Errorf("the other end is %v, want instance %s", peer, to)
	}
	buf := make([]byte, len(from.InstanceID())+1)
	if _, err := io.ReadFull(c, buf); err != nil || strings.TrimSpace(string(buf)) != from.InstanceID() {
		t.Fatalf("accepted from %q, want %s: %v", buf, from.InstanceID(), err)
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf[:4]); err != nil || string(buf[:4]) != "ping" {
		t.Fatalf("read %q: %v", buf[:4], err)
	}
}

// Nodes dial each other and themselves, and both ends know who is there.
func TestListenAndDial(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	one, two := c.start("one"), c.start("two")
	c.waitMaster(0, one, two)
	echo(t, one, "echo")
	ln := echo(t, two, "echo")
	for _, to := range []string{"one", "two"} {
		conn, err := one.Dial(t.Context(), "echo", member(t, one, to))
		if err != nil {
			t.Fatal(err)
		}
		check(t, one, conn, member(t, one, to).InstanceID)
		conn.Close()
	}

	for _, bad := range []string{"", "a/b", "Echo", strings.Repeat("x", node.MaxProtocol+1)} {
		if _, err := one.Listen(bad); !errors.Is(err, discovery.ErrInvalid) {
			t.Errorf("Listen(%q): %v", bad, err)
		}
		if _, err := one.Dial(t.Context(), bad, member(t, one, "two")); !errors.Is(err, discovery.ErrInvalid) {
			t.Errorf("Dial(%q): %v", bad, err)
		}
	}
	for _, own := range []string{"gossip", "state", "member", "dialback", "raft"} { // those of Muster itself
		l, err := one.Listen(own)
		if err != nil {
			t.Errorf("Listen(%q): %v", own, err)
			continue
		}
		l.Close()
		if _, err := two.Dial(t.Context(), own, member(t, two, "one")); !errors.Is(err, node.ErrNoListener) {
			t.Errorf("Dial(%q): %v", own, err)
		}
	}
	if _, err := two.Listen("echo"); !errors.Is(err, discovery.ErrConflict) {
		t.Errorf("a second listener: %v", err)
	}
	ln.Close()
	ln.Close()
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	for _, n := range []*node.Node{one, two} {
		if _, err := n.Dial(t.Context(), "echo", member(t, n, "two")); !errors.Is(err, node.ErrNoListener) {
			t.Errorf("Dial where nobody listens: %v", err)
		}
	}
	if _, err := one.Dial(t.Context(), "echo", node.Member{NodeID: "x"}); !errors.Is(err, discovery.ErrInvalid) {
		t.Errorf("Dial of nobody: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := one.Dial(ended, "echo", member(t, one, "two")); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial with an ended context: %v", err)
	}
	again := echo(t, two, "echo") // the name is free again
	self, err := two.Dial(t.Context(), "echo", member(t, two, "two"))
	if err != nil {
		t.Fatal(err)
	}
	wait.Leave(t, two.Leave)
	if _, err := again.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Leave: %v", err)
	}
	self.SetDeadline(time.Now().Add(wait.Patience))
	if _, err := io.Copy(io.Discard, self); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection of the node to itself outlives it")
	}
	if _, err := two.Listen("late"); !errors.Is(err, node.ErrStopped) {
		t.Errorf("Listen after Leave: %v", err)
	}
	if _, err := two.Dial(t.Context(), "echo", member(t, one, "one")); !errors.Is(err, node.ErrStopped) {
		t.Errorf("Dial after Leave: %v", err)
	}
}

// Too many connections that nobody accepts are rejected, and those that wait are not lost.
func TestBacklogIsBounded(t *testing.T) {
	t.Parallel()
	n := aloneNode(t)
	ln, err := n.Listen("slow")
	if err != nil {
		t.Fatal(err)
	}
	var err2 error
	dialed := 0
	for ; err2 == nil && dialed < 1000; dialed++ {
		_, err2 = n.Dial(t.Context(), "slow", n.View().Self())
	}
	if !errors.Is(err2, node.ErrBusy) || dialed < 100 {
		t.Errorf("after %d: %v", dialed, err2)
	}
	if _, err := ln.Accept(); err != nil {
		t.Error(err)
	}
}

// What is meant for an instance does not reach the process that follows it at its address, and the
// connections of the one that has left are closed.
func TestAFastRestartIsAnotherInstance(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	one, two := c.start("one"), c.start("two")
	c.waitMaster(0, one, two)
	echo(t, two, "echo")
	old := member(t, one, "two")
	held, err := one.Dial(t.Context(), "echo", old)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	check(t, one, held, old.InstanceID)
	wait.Leave(t, two.Leave)
	held.SetDeadline(time.Now().Add(wait.Patience))
	if _, err := io.Copy(io.Discard, held); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection of an instance that has left stays")
	}
	wait.For(t, "one knows that it has left", func() bool { return len(one.View().Departed) == 1 })
	if _, err := one.Dial(t.Context(), "echo", old); !errors.Is(err, node.ErrLeft) {
		t.Errorf("Dial of an instance that has left: %v", err)
	}
	next := c.start("two", func(cfg *node.Config) { cfg.Bind = old.Addr })
	if next.Addr() != old.Addr {
		t.Fatalf("the restart is at %s, not %s", next.Addr(), old.Addr)
	}
	echo(t, next, "echo")
	if _, err := one.Dial(t.Context(), "echo", old); !errors.Is(err, node.ErrLeft) {
		t.Errorf("Dial of the old instance: %v", err)
	}
	c.waitMembers(2, one, next)
	conn, err := one.Dial(t.Context(), "echo", member(t, one, "two"))
	if err != nil {
		t.Fatal(err)
	}
	check(t, one, conn, next.InstanceID())
	conn.Close()
}

// Connections leave nothing behind.
func TestDialsLeaveNothingBehind(t *testing.T) {
	c := newCluster(t)
	one, two := c.start("one"), c.start("two")
	c.waitMaster(0, one, two)
	echo(t, one, "echo")
	echo(t, two, "echo")
	dial := func(times int) {
		for range times {
			for _, to := range []string{"one", "two"} {
				conn, err := one.Dial(t.Context(), "echo", member(t, one, to))
				if err != nil {
					t.Fatal(err)
				}
				check(t, one, conn, member(t, one, to).InstanceID)
				conn.Close()
			}
		}
	}
	dial(5)
	goroutines, files := runtime.NumGoroutine(), openFiles()
	dial(100)
	wait.For(t, "all is as it was", func() bool {
		// Gossip may have a connection or two more.
		return runtime.NumGoroutine() <= goroutines+8 && openFiles() <= files+8
	}, func() string {
		return fmt.Sprintf("%d goroutines, were %d; %d files, were %d", runtime.NumGoroutine(), goroutines, openFiles(), files)
	})
}

// openFiles is the number of open descriptors, or 0 where the system does not say.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}
