package membership

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Whatever time the caller gives, a quarter of it is left for the end after a goodbye that
// gossip does not get rid of, and none is wasted on more than it takes.
func TestGoodbyeTakesItsShare(t *testing.T) {
	for given, most := range map[time.Duration]time.Duration{
		20 * time.Millisecond:  15 * time.Millisecond,
		100 * time.Millisecond: 75 * time.Millisecond,
		300 * time.Millisecond: 225 * time.Millisecond,
		20 * time.Second:       leaveTimeout,
		0:                      leaveTimeout, // no deadline
	} {
		t.Run(given.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, net *memoryNetwork) {
				a, b, c := three(t, net)
				b.crash()
				c.crash() // neither is known to have failed yet
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if given > 0 {
					ctx, cancel = context.WithTimeout(ctx, given)
				}
				defer cancel()
				begin := time.Now()
				a.sayGoodbye(ctx)
				if took := time.Since(begin); took > most {
					t.Errorf("with %v it took %v, want %v at most", given, took, most)
				}
			})
		})
	}
}

// Nobody waits for members that are all gone: neither from the start nor once they are, and
// those that left a moment ago are told again.
func TestGoodbyeIsNotWaitedForInVain(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b := start(t, net, "a", 1), start(t, net, "b", 2)
		a.peers(2)
		see(time.Second, "a b", a, b)
		never := make(chan struct{}) // gossip does not get rid of it
		wait := func(what string, limit time.Duration, want bool, least, most time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			begin := time.Now()
			got := a.waitSent(ctx, never)
			if took := time.Since(begin); got != want || took < least || took > most {
				t.Errorf("%s: %v after %v, want %v after %v to %v", what, got, took, want, least, most)
			}
		}
		wait("one is there", time.Second, false, time.Second, time.Second)
		sent := make(chan struct{}, 1)
		sent <- struct{}{}
		if !a.waitSent(t.Context(), sent) {
			t.Error("what was sent is waited for")
		}
		time.AfterFunc(100*time.Millisecond, func() {
			if err := b.Leave(t.Context()); err != nil {
				t.Error(err)
			}
		})
		wait("one goes meanwhile", time.Minute, true, 100*time.Millisecond, 100*time.Millisecond+2*gossipInterval)
		wait("one has gone a moment ago", time.Minute, true, 0, 0)
		time.Sleep(2*leaveTimeout + time.Millisecond)
		wait("one has gone long ago", time.Minute, false, 0, 0)
	})
}

// A goodbye is sent directly to those that are here and to those that left a moment ago, to
// so many and no more, and never to this node itself.
func TestGoodbyeGoesToThoseThatMayBeThere(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, b, c := three(t, net)
		d := start(t, net, "d", 4)
		d.peers(1)
		see(time.Second, "a b c d", a, b, c, d)
		ids := func() string {
			all := ""
			for _, m := range a.goodbyeTo() {
				all += fmt.Sprint(m.NodeID, " ")
			}
			return all
		}
		if got := ids(); got != "b c d " {
			t.Errorf("it goes to %q", got)
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		see(time.Second, "a c d", a)
		if got := ids(); got != "c d b " {
			t.Errorf("after one has left it goes to %q", got)
		}
		time.Sleep(2 * leaveTimeout)
		c.crash()
		see(10*time.Second, "a d", a, d)
		if got := ids(); got != "d " {
			t.Errorf("long after one has left, and after one has failed, it goes to %q", got)
		}
		if err := d.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		see(time.Second, "a", a)
		if got := ids(); got != "d " {
			t.Errorf("after the last has left it goes to %q", got)
		}
		time.Sleep(2 * leaveTimeout)
		if got := ids(); got != "" {
			t.Errorf("long after that it goes to %q", got)
		}
	})
}
