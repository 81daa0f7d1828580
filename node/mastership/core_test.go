package mastership

import (
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// script drives one machine by hand.
type script struct {
	t   *testing.T
	m   *machine
	now clock.Instant
}

func newScript(t *testing.T) *script {
	s := &script{t: t, now: clock.Instant(time.Hour), m: newMachine(params{
		self: driver.Holder{NodeID: "a", InstanceID: "a"}, freshID: "c",
		drain: time.Second, isolationGrace: 10 * time.Second, poll: 5 * time.Second,
		callTimeout: 2 * time.Second, cooldown: 3 * time.Second,
		random: func(time.Duration) time.Duration { return 0 },
	}, soundRules())}
	s.do(conditions{ready})
	return s
}

func (s *script) do(ev event) []command { return s.m.step(s.now, ev) }

// call returns the call that the last commands ask for.
func (s *script) call(cs []command, kind callKind) call {
	s.t.Helper()
	for _, c := range cs {
		if c, ok := c.(doCall); ok && c.kind == kind {
			return c.call
		}
	}
	s.t.Fatalf("no call of kind %d in %+v", kind, cs)
	return call{}
}

// next lets time pass until the machine asks for a call.
func (s *script) next(kind callKind) call {
	s.t.Helper()
	for range 100 {
		s.now = max(s.now, s.m.wakeAt)
		if cs := s.do(tick{}); len(cs) > 0 {
			return s.call(cs, kind)
		}
	}
	s.t.Fatalf("no call of kind %d is asked for", kind)
	return call{}
}

func grantOf(term driver.Term) driver.Grant {
	return driver.Grant{Term: term, ClusterID: "c", ValidFor: ttl}
}

// A release that was given up on may still arrive. The grant that it would free
// must not be made active in the meantime, however it was come by.
func TestSpentTermIsNotBegunAgain(t *testing.T) {
	s := newScript(t)
	first := s.call(s.do(observation{}), acquiring)
	s.now = s.now.Add(2 * time.Second) // no answer
	s.do(tick{})
	s.next(acquiring)
	s.do(result{seq: first.seq, grant: grantOf(1)}) // now it comes: kept aside
	if len(s.m.orphans) != 1 {
		t.Fatalf("orphans %v, want term 1", s.m.orphans)
	}
	second := s.m.call
	cs := s.do(result{seq: second.seq, err: driver.ErrUnavailable})
	var rel call
	if len(cs) > 0 {
		rel = s.call(cs, releasing)
	} else {
		rel = s.next(releasing)
	}
	s.now = s.now.Add(rel.timeout)
	cs = s.do(tick{})
	for range 20 { // releases are tried until the orphan must have expired
		if c := s.m.call; c != nil && c.kind == acquiring {
			break
		}
		s.now = max(s.now, s.m.wakeAt)
		s.do(tick{})
	}
	third := s.m.call
	if third == nil || third.kind != acquiring {
		t.Fatalf("call %+v, want an acquire; commands %+v", third, cs)
	}
	for _, c := range s.do(result{seq: third.seq, grant: grantOf(1)}) {
		if _, ok := c.(begun); ok {
			t.Fatal("term 1 was begun after its release was sent")
		}
	}
	if s.m.state == Active {
		t.Fatal("active in a spent term")
	}
}

// A machine that is woken up late believes the clock and not the event.
func TestStaleWakeUps(t *testing.T) {
	for name, ev := range map[string]func(c call) event{
		"tick":               func(call) event { return tick{} },
		"successful renewal": func(c call) event { return result{seq: c.seq, grant: grantOf(1)} },
		"observation of us": func(call) event {
			return observation{mastership: driver.Mastership{Term: 1, ClusterID: "c", Holder: &driver.Holder{InstanceID: "a"}}}
		},
		"resignation": func(call) event { return resign{} },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			c := s.call(s.do(observation{}), acquiring)
			s.do(result{seq: c.seq, grant: grantOf(1)})
			if !s.m.isMaster(s.now) {
				t.Fatal("not master")
			}
			renewal := s.next(renewing)
			deadline := s.m.hold.deadline
			s.now = deadline.Add(time.Minute)
			cs := s.do(ev(renewal))
			if len(cs) == 0 {
				t.Fatal("nothing happened")
			}
			end, ok := cs[0].(over)
			if !ok || end.reason != ReasonDeadline || end.until != deadline {
				t.Fatalf("%+v, want the end at the deadline %v first", cs[0], deadline)
			}
			if s.m.state == Active {
				t.Error("active after the deadline")
			}
		})
	}
}

// The deadline counts from the send and never moves back, in whatever order the
// answers come.
func TestRenewalsOutOfOrder(t *testing.T) {
	s := newScript(t)
	c := s.call(s.do(observation{}), acquiring)
	s.now = s.now.Add(300 * time.Millisecond)
	s.do(result{seq: c.seq, grant: grantOf(1)})
	if got, want := s.m.hold.deadline, c.sent.Add(4850*time.Millisecond); got != want {
		t.Fatalf("deadline %v, want %v", got, want)
	}
	slow := s.next(renewing)
	s.now = s.now.Add(slow.timeout)
	quick := s.call(s.do(tick{}), renewing)
	s.now = s.now.Add(time.Millisecond)
	s.do(result{seq: quick.seq, grant: grantOf(1)})
	want := quick.sent.Add(4850 * time.Millisecond)
	if got := s.m.hold.deadline; got != want {
		t.Fatalf("deadline %v, want %v", got, want)
	}
	s.now = s.now.Add(100 * time.Millisecond)
	s.do(result{seq: slow.seq, grant: grantOf(1)})
	if got := s.m.hold.deadline; got != want {
		t.Errorf("deadline %v after an older answer, want %v", got, want)
	}
}

// The call took most of a validity that allows for it. What is left is divided up
// as if it were the whole, and not spent on the drain.
func TestSlowGrant(t *testing.T) {
	s := newScript(t)
	c := s.call(s.do(observation{}), acquiring)
	s.now = s.now.Add(time.Second)
	g := grantOf(1)
	g.ValidFor = 1400 * time.Millisecond
	s.do(result{seq: c.seq, grant: g})
	if s.m.state != Active || s.m.hold.deadline != c.sent.Add(usable(g.ValidFor)) {
		t.Fatalf("state %v, deadline %v", s.m.state, s.m.hold.deadline)
	}
	answered := s.now
	renewal := s.next(renewing)
	if d := renewal.sent.Sub(answered); d > 400*time.Millisecond/3 {
		t.Errorf("renewed after %v, want a third of the 400ms left", d)
	}
	g.ValidFor = 400 * time.Millisecond
	s.do(result{seq: renewal.seq, grant: g})
	if s.m.state != Active || s.m.hold.plan.validFor != g.ValidFor {
		t.Errorf("state %v, plan %+v", s.m.state, s.m.hold.plan)
	}
}

func TestGrantTooShortIsGivenBack(t *testing.T) {
	s := newScript(t)
	c := s.call(s.do(observation{}), acquiring)
	g := grantOf(1)
	g.ValidFor = 100 * time.Millisecond
	s.do(result{seq: c.seq, grant: g})
	if s.m.state == Active || s.m.callErr == nil {
		t.Errorf("state %v, error %v", s.m.state, s.m.callErr)
	}
}

// A driver that lets calls hang for good is not given ever more of them.
func TestHangingCallsAreBounded(t *testing.T) {
	s := newScript(t)
	s.do(observation{})
	n := 1
	for range 1000 {
		s.now = min(max(s.now, s.m.wakeAt), s.now.Add(time.Minute))
		for _, c := range s.do(tick{}) {
			if _, ok := c.(doCall); ok {
				n++
			}
		}
	}
	if n != maxAbandoned {
		t.Errorf("%d calls, want %d", n, maxAbandoned)
	}
}

// An authority that was wiped grants at once. A node that knows better by gossip
// waits until the master of before has run out.
func TestForgottenMasterIsWaitedFor(t *testing.T) {
	s := newScript(t)
	s.do(learned{Announcement{Term: 7, ClusterID: "c", Holder: driver.Holder{NodeID: "b", InstanceID: "b"}, Active: true, Seq: 1, ValidFor: ttl}})
	heard := s.now
	if cs := s.do(observation{}); len(cs) > 0 {
		t.Fatalf("commands %+v while a master of term 7 may stand", cs)
	}
	if c := s.next(acquiring); s.now.Sub(heard) < ttl || c.claim.MinTerm != 7 {
		t.Fatalf("acquires %v after the announcement with MinTerm %d, want at least %v and 7", s.now.Sub(heard), c.claim.MinTerm, ttl)
	}
}
