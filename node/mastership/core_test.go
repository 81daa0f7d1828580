package mastership

import (
	"errors"
	"fmt"
	"math"
	"strings"
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
		callTimeout: 2 * time.Second, cooldown: 3 * time.Second, forgottenWait: forgottenWait,
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
			deadline := s.m.grant.deadline
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
	if got, want := s.m.grant.deadline, c.sent.Add(4850*time.Millisecond); got != want {
		t.Fatalf("deadline %v, want %v", got, want)
	}
	slow := s.next(renewing)
	s.now = s.now.Add(slow.timeout)
	quick := s.call(s.do(tick{}), renewing)
	s.now = s.now.Add(time.Millisecond)
	s.do(result{seq: quick.seq, grant: grantOf(1)})
	want := quick.sent.Add(4850 * time.Millisecond)
	if got := s.m.grant.deadline; got != want {
		t.Fatalf("deadline %v, want %v", got, want)
	}
	s.now = s.now.Add(100 * time.Millisecond)
	s.do(result{seq: slow.seq, grant: grantOf(1)})
	if got := s.m.grant.deadline; got != want {
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
	if s.m.state != Active || s.m.grant.deadline != c.sent.Add(usable(g.ValidFor)) {
		t.Fatalf("state %v, deadline %v", s.m.state, s.m.grant.deadline)
	}
	answered := s.now
	renewal := s.next(renewing)
	if d := renewal.sent.Sub(answered); d > 400*time.Millisecond/3 {
		t.Errorf("renewed after %v, want a third of the 400ms left", d)
	}
	g.ValidFor = 400 * time.Millisecond
	s.do(result{seq: renewal.seq, grant: g})
	if s.m.state != Active || s.m.grant.plan.validFor != g.ValidFor {
		t.Errorf("state %v, plan %+v", s.m.state, s.m.grant.plan)
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
// waits until the master of before has expired.
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

// active brings the machine to be master in a term, which the authority then shows.
func (s *script) active(term driver.Term) {
	s.t.Helper()
	c := s.call(s.do(observation{mastership: driver.Mastership{Term: term - 1, ClusterID: "c"}}), acquiring)
	s.do(result{seq: c.seq, grant: grantOf(term)})
	s.do(observation{mastership: driver.Mastership{Term: term, ClusterID: "c", Holder: &s.m.p.self}})
	if s.m.state != Active || !s.m.grant.confirmed {
		s.t.Fatalf("state %v, want active and confirmed in term %d", s.m.state, term)
	}
}

// What the authority shows ends a mastership, whatever the term that it shows.
func TestObservationsThatEnd(t *testing.T) {
	self := driver.Holder{NodeID: "a", InstanceID: "a"}
	other := driver.Holder{NodeID: "b", InstanceID: "b"}
	for _, tt := range []struct {
		name string
		m    driver.Mastership
		want Reason // empty: it goes on
	}{
		{"its own term", driver.Mastership{Term: 5, ClusterID: "c", Holder: &self}, ""},
		{"its own term, and that it may not be master", driver.Mastership{Term: 5, ClusterID: "c", Holder: &self, Ineligible: "not listed"}, ReasonIneligible},
		{"a lower term, of a store that was restored", driver.Mastership{Term: 3, ClusterID: "c"}, ReasonLost},
		{"a lower term of its own", driver.Mastership{Term: 3, ClusterID: "c", Holder: &self}, ReasonLost},
		{"nothing, of a store that was wiped", driver.Mastership{}, ReasonLost},
		{"a higher term", driver.Mastership{Term: 6, ClusterID: "c", Holder: &other}, ReasonLost},
		{"its own term vacant", driver.Mastership{Term: 5, ClusterID: "c"}, ReasonLost},
		{"its own term in another name", driver.Mastership{Term: 5, ClusterID: "c", Holder: &other}, ReasonLost},
		{"another cluster", driver.Mastership{Term: 5, ClusterID: "d", Holder: &self}, ReasonLost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t)
			s.active(5)
			var got Reason
			for _, c := range s.do(observation{mastership: tt.m}) {
				if end, ok := c.(over); ok {
					got = end.reason
				}
			}
			if got != tt.want {
				t.Errorf("ended as %q, want %q", got, tt.want)
			}
		})
	}
}

// An observation from before the grant was made ends nothing.
func TestObservationFromBefore(t *testing.T) {
	s := newScript(t)
	c := s.call(s.do(observation{mastership: driver.Mastership{Term: 4, ClusterID: "c"}}), acquiring)
	s.do(result{seq: c.seq, grant: grantOf(5)})
	s.do(observation{mastership: driver.Mastership{Term: 4, ClusterID: "c"}})
	if s.m.state != Active {
		t.Errorf("state %v after an observation of term 4, want active in 5", s.m.state)
	}
}

// A grant that is not used is given back at once, and not when the next is asked for.
func TestUnusedGrantIsGivenBackAtOnce(t *testing.T) {
	for name, prepare := range map[string]func(s *script) driver.Grant{
		"of another cluster": func(s *script) driver.Grant {
			s.m.clusterID = "mine"
			return grantOf(1)
		},
		"too short": func(s *script) driver.Grant {
			g := grantOf(1)
			g.ValidFor = 100 * time.Millisecond
			return g
		},
		"no longer wanted": func(s *script) driver.Grant {
			s.do(conditions{Conditions{Eligible: true}})
			return grantOf(1)
		},
		"below a term that was learned of": func(s *script) driver.Grant {
			s.do(learned{Announcement{Term: 3, ClusterID: "c"}})
			return grantOf(1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			c := s.call(s.do(observation{}), acquiring)
			g := prepare(s)
			cs := s.do(result{seq: c.seq, grant: g})
			if back := s.call(cs, releasing); back.grant.Term != g.Term || s.m.state == Active {
				t.Errorf("gives back %+v in state %v, want term %d", back, s.m.state, g.Term)
			}
		})
	}
}

// However often a higher term is announced while a candidate is granted one, it is master
// after a few tries.
func TestOutbidCandidate(t *testing.T) {
	s := newScript(t)
	term := driver.Term(0)
	s.do(observation{})
	for try := 1; ; try++ {
		c := s.m.call
		if c == nil || c.kind != acquiring {
			got := s.next(acquiring)
			c = &got
		}
		if want := term; c.claim.MinTerm != want {
			t.Fatalf("try %d asks for a term above %d, want %d", try, c.claim.MinTerm, want)
		}
		granted := term + 1
		term += 2
		s.do(learned{Announcement{Term: term, ClusterID: "c"}})
		s.do(result{seq: c.seq, grant: grantOf(granted)})
		if s.m.state == Active {
			if try != maxOutbid+1 {
				t.Errorf("master at try %d, want %d", try, maxOutbid+1)
			}
			return
		}
		if try > maxOutbid {
			t.Fatalf("no master after %d grants", try)
		}
		back := s.m.call
		if back == nil || back.kind != releasing {
			t.Fatalf("call %+v, want a release", back)
		}
		s.do(result{seq: back.seq})
	}
}

// A master whose renewals are answered soon announces itself again before it has said; one
// that is silent is missed long before its grant has expired.
func TestNextAnnouncement(t *testing.T) {
	s := newScript(t)
	c := s.call(s.do(observation{}), acquiring)
	s.do(result{seq: c.seq, grant: grantOf(1)})
	for range 5 {
		a, said := s.m.announcement(s.now), s.now
		if !a.Active || a.Next > ttl/2 {
			t.Fatalf("announces %+v, want itself, and the next within %v", a, ttl/2)
		}
		c := s.next(renewing)
		s.now = s.now.Add(c.timeout/2 - time.Millisecond)
		if left := said.Add(a.Next).Sub(s.now); left <= 0 {
			t.Errorf("the renewal is announced %v too late", -left)
		}
		s.do(result{seq: c.seq, grant: grantOf(1)})
	}
}

// A claim never asks for more than every authority can grant, whatever its record says.
func TestClaimIsInBounds(t *testing.T) {
	s := newScript(t)
	c := s.call(s.do(observation{mastership: driver.Mastership{Term: driver.MaxTerm + 7, ClusterID: "c"}}), acquiring)
	if c.claim.MinTerm != driver.MaxTerm {
		t.Errorf("asks for a term above %d, want %d", c.claim.MinTerm, driver.MaxTerm)
	}
	s.do(result{seq: c.seq, grant: grantOf(driver.MaxTerm + 8)})
	if s.m.state != Active {
		t.Errorf("state %v, want active", s.m.state)
	}
	a, err := DecodeAnnouncement(s.m.announcement(s.now).Encode())
	if err != nil || a.Term != driver.MaxTerm+8 {
		t.Errorf("announces %+v, %v", a, err)
	}
}

// A term is believed up to one step above what is proven, and not before the authority was
// observed.
func TestHeardStep(t *testing.T) {
	for _, tt := range []struct {
		proven, heard driver.Term
		want          driver.Term
		absurd        uint64
	}{
		{7, 8, 8, 0},
		{7, 7 + heardStep, 7 + heardStep, 0},
		{7, 8 + heardStep, 7, 1},
		{7, driver.MaxTerm, 7, 1},
		{7, math.MaxUint64, 7, 1},
		{0, heardStep, heardStep, 0},
		{0, heardStep + 1, 0, 1},
		{driver.MaxTerm, 1, driver.MaxTerm, 0},
	} {
		s := newScript(t)
		s.do(learned{Announcement{Term: math.MaxUint64}})
		if s.m.hearsay.AbsurdTerms != 0 {
			t.Error("counted before anything is proven")
		}
		s.do(observation{mastership: driver.Mastership{Term: tt.proven, Holder: &driver.Holder{NodeID: "b", InstanceID: "b"}}})
		s.do(learned{Announcement{Term: tt.heard}})
		if got := s.m.highest(); got != tt.want || s.m.hearsay.AbsurdTerms != tt.absurd {
			t.Errorf("after %d was announced where %d is proven the highest is %d with %d absurd, want %d with %d",
				tt.heard, tt.proven, got, s.m.hearsay.AbsurdTerms, tt.want, tt.absurd)
		}
	}
}

// A vacancy is left alone for a master that only gossip knows of, but not for longer than
// grants are valid.
func TestForgottenMasterIsNotWaitedForIndefinitely(t *testing.T) {
	s := newScript(t)
	s.do(observation{mastership: driver.Mastership{Term: 1, ClusterID: "c", Holder: &driver.Holder{InstanceID: "b"}}})
	began := s.now
	lie := Announcement{Term: 2, ClusterID: "c", Holder: driver.Holder{InstanceID: "x"}, Active: true, ValidFor: maxAnnouncedValidity}
	s.do(learned{lie})
	s.do(observation{mastership: driver.Mastership{Term: 1, ClusterID: "c"}})
	for n := uint64(1); s.now.Sub(began) < time.Hour; n++ {
		x := driver.Holder{NodeID: "x", InstanceID: fmt.Sprintf("x%d", n%100)}
		cs := s.do(learned{Announcement{Term: driver.Term(1 + n), ClusterID: "c", Holder: x, Active: true, Seq: n, ValidFor: maxAnnouncedValidity}})
		for _, c := range cs {
			if c, ok := c.(doCall); ok && c.kind == acquiring {
				if waited := s.now.Sub(began); waited > forgottenWait+time.Second {
					t.Errorf("waited %v, want at most %v", waited, forgottenWait)
				}
				return
			}
		}
		s.now = s.now.Add(100 * time.Millisecond)
	}
	t.Error("never a candidate")
}

// An id that is learned of is proposed, gives way to the authority's, and to another that is
// learned of once it is not repeated.
func TestHeardClusterID(t *testing.T) {
	s := newScript(t)
	say := func(id string) { s.do(learned{Announcement{Term: 1, ClusterID: id}}) }
	say("first")
	say("second")
	if got := s.m.cluster(); got != "first" {
		t.Errorf("cluster %q, want the first that was learned of", got)
	}
	s.now = s.now.Add(heardIDStands - 1)
	say("second")
	if got := s.m.cluster(); got != "first" {
		t.Errorf("cluster %q, want first", got)
	}
	s.now = s.now.Add(1)
	say("second")
	if got := s.m.cluster(); got != "second" {
		t.Errorf("cluster %q, want second, as first is not repeated", got)
	}
	c := s.call(s.do(observation{}), acquiring)
	if c.claim.ClusterID != "second" || c.claim.Known {
		t.Errorf("claims %+v, want second and not known", c.claim)
	}
	g := grantOf(2)
	g.ClusterID = "of the authority"
	s.do(result{seq: c.seq, grant: g})
	if st := s.m.status(s.now); st.State != Active || st.ClusterID != g.ClusterID || !st.ClusterProven || st.Alarm != nil {
		t.Errorf("%+v, want active in the authority's cluster", st)
	}
	say("second")
	if st := s.m.status(s.now); st.Hearsay.ForeignClusters != 1 || st.ClusterID != g.ClusterID || st.State != Active {
		t.Errorf("%+v after another cluster was announced", st)
	}
}

// Followers ask by trying when there is no news of the master, however long gossip vouches.
func TestVouchingIsBounded(t *testing.T) {
	s := newScript(t)
	b := driver.Holder{NodeID: "b", InstanceID: "b"}
	s.do(observation{mastership: driver.Mastership{Term: 1, ClusterID: "c", Holder: &b}})
	began := s.now
	for n := uint64(1); s.now.Sub(began) < time.Hour; n++ {
		cs := s.do(learned{Announcement{Term: 1, ClusterID: "c", Holder: b, Active: true, Seq: n, ValidFor: maxAnnouncedValidity}})
		for _, c := range cs {
			if c, ok := c.(doCall); ok && c.kind == acquiring {
				if d := s.now.Sub(began); d < s.m.p.poll || d > vouchedPolls*s.m.p.poll+time.Second {
					t.Errorf("asked after %v", d)
				}
				return
			}
		}
		s.now = s.now.Add(100 * time.Millisecond)
	}
	t.Error("never asked")
}

// An outage in which this node asked for mastership in vain is over once the master that
// the authority shows vouches for itself again: nothing else may be asked for a minute.
func TestVouchingEndsWhatFailed(t *testing.T) {
	s := newScript(t)
	b := driver.Holder{NodeID: "b", InstanceID: "b"}
	s.do(observation{mastership: driver.Mastership{Term: 1, ClusterID: "c", Holder: &b}})
	var asked *doCall
	for range 10 { // nobody vouches for b
		s.now = s.now.Add(s.m.p.poll)
		for _, c := range s.do(tick{}) {
			if c, ok := c.(doCall); ok && c.kind == acquiring {
				asked = &c
			}
		}
		if asked != nil {
			break
		}
	}
	if asked == nil {
		t.Fatal("never asked")
	}
	s.do(result{seq: asked.seq, err: driver.ErrUnavailable})
	if st := s.m.status(s.now); !errors.Is(st.Err, driver.ErrUnavailable) {
		t.Fatalf("after a call that failed: %v", st.Err)
	}
	another := Announcement{Term: 1, ClusterID: "c", Holder: driver.Holder{NodeID: "x", InstanceID: "x"}, Active: true, Seq: 9, ValidFor: ttl}
	s.do(learned{another})
	if st := s.m.status(s.now); st.Err == nil {
		t.Error("who is not the recorded holder has ended it")
	}
	for n := uint64(1); n <= 2; n++ {
		s.do(learned{Announcement{Term: 1, ClusterID: "c", Holder: b, Active: true, Seq: n, ValidFor: ttl}})
		s.now = s.now.Add(10 * time.Millisecond)
		s.do(tick{})
	}
	s.do(learned{Announcement{Term: 1, ClusterID: "c", Holder: b, Active: true, Seq: 3, ValidFor: ttl}})
	if st := s.m.status(s.now); st.Err != nil {
		t.Errorf("the master vouches for itself, and there is still %v", st.Err)
	}
}

// Who was granted mastership and has not announced itself is not named, and waited for.
func TestNobodyIsNamedWhoDoesNotClaimIt(t *testing.T) {
	s := newScript(t)
	s.m.known.announced = true
	b := driver.Holder{NodeID: "b", InstanceID: "b"}
	s.do(observation{mastership: driver.Mastership{Term: 1, ClusterID: "c", Holder: &b}})
	if st := s.m.status(s.now); st.Master != nil || !strings.Contains(st.WaitingFor, "node b, which was granted term 1") || st.WaitingReason != WaitSilent {
		t.Errorf("names %v, waiting for %q", st.Master, st.WaitingFor)
	}
	claim := Announcement{Term: 1, ClusterID: "c", Holder: b, Active: true, Seq: 1, ValidFor: ttl}
	s.do(learned{claim})
	if st := s.m.status(s.now); st.Master == nil || st.Master.InstanceID != "b" || st.MasterTerm != 1 {
		t.Errorf("names %v of term %d, want b of 1", st.Master, st.MasterTerm)
	}
	s.now = s.now.Add(time.Hour) // the record stands
	s.do(tick{})
	if st := s.m.status(s.now); st.Master == nil {
		t.Error("the name is lost, though the record stands")
	}
	// The record lags behind a failover: the new master is named ahead of it, and not for long.
	claim.Active, claim.Seq = false, 2
	s.do(learned{claim})
	c := driver.Holder{NodeID: "c", InstanceID: "c"}
	cs := s.do(learned{Announcement{Term: 2, ClusterID: "c", Holder: c, Active: true, Seq: 1, ValidFor: maxAnnouncedValidity}})
	if st := s.m.status(s.now); st.Master == nil || st.Master.InstanceID != "c" {
		t.Errorf("names %v, want c", st.Master)
	}
	asked := false
	for _, cmd := range cs {
		_, ok := cmd.(observeAfresh)
		asked = asked || ok
	}
	if !asked {
		t.Error("the authority is not observed afresh")
	}
	s.now = s.now.Add(trialTime)
	s.do(tick{})
	if st := s.m.status(s.now); st.Master != nil {
		t.Errorf("names %v, which the authority does not record", st.Master)
	}
	s.do(observation{mastership: driver.Mastership{Term: 2, ClusterID: "c", Holder: &c}})
	if st := s.m.status(s.now); st.Master == nil || st.Master.InstanceID != "c" {
		t.Errorf("names %v, want c, which is recorded and has announced itself", st.Master)
	}
}

// That the authority fails is what is waited for, also when it has answered before, and where
// this node is no candidate itself. What the members lack comes first: it is nearer.
func TestFailingAuthorityIsWaitedFor(t *testing.T) {
	failing := fmt.Errorf("%w: hung", driver.ErrUnavailable)
	ineligible, alone := ready, ready
	ineligible.Eligible = false
	alone.Have, alone.Need = 1, 2
	for _, test := range []struct {
		name string
		cond Conditions
		err  error
		want WaitReason
	}{
		{"a candidate", ready, failing, WaitAuthority},
		{"denied", ready, driver.ErrDenied, WaitAuthority},
		{"not eligible", ineligible, failing, WaitAuthority},
		{"without a majority", alone, failing, WaitMajority},
		{"not eligible, and it answers", ineligible, nil, WaitNotEligible},
		{"it answers", ready, nil, WaitElection},
	} {
		s := newScript(t)
		s.do(conditions{test.cond})
		s.do(observation{mastership: driver.Mastership{Term: 1, ClusterID: "c"}})
		if test.err != nil {
			s.do(observation{err: test.err})
		}
		st := s.m.status(s.now)
		if st.WaitingReason != test.want || (test.want == WaitAuthority) != strings.Contains(st.WaitingFor, fmt.Sprint(test.err)) {
			t.Errorf("%s: waiting for %q (%s), want %s", test.name, st.WaitingFor, st.WaitingReason, test.want)
		}
	}
}

// The kinds of blocks have their codes, and what a later driver may say has one as well.
func TestBlockedBy(t *testing.T) {
	for kind, want := range map[driver.Block]WaitReason{
		"": WaitBlocked, "unheard_of": WaitBlocked, driver.BlockCluster: "another_cluster", driver.BlockTerm: "term_behind",
		driver.BlockStateLost: "state_lost", driver.BlockUnwritable: "state_unwritable", driver.BlockNotFounded: "not_founded",
	} {
		s := newScript(t)
		s.do(observation{mastership: driver.Mastership{Blocked: "why", BlockedBy: kind}})
		if st := s.m.status(s.now); st.WaitingReason != want || st.WaitingFor != "why" {
			t.Errorf("%q: waiting for %q (%s), want %s", kind, st.WaitingFor, st.WaitingReason, want)
		}
	}
}

// A store that was restored from an old copy shows another node as master in a term that was
// another's: an alarm names both terms and what to do, and nobody is named. Once that master
// is gone, the claim of this node raises the term, and all is well.
func TestAuthorityThatWentBack(t *testing.T) {
	s := newScript(t)
	b, x := driver.Holder{NodeID: "b", InstanceID: "b"}, driver.Holder{NodeID: "x", InstanceID: "x", Addr: "10.0.0.9:1"}
	s.do(observation{mastership: driver.Mastership{Term: 5, ClusterID: "c", Holder: &b}})
	s.do(observation{mastership: driver.Mastership{Term: 2, ClusterID: "c", Holder: &x}})
	if st := s.m.status(s.now); st.Alarm != nil || st.Warning != "" {
		t.Errorf("an observation may lag for a moment: %v, %q", st.Alarm, st.Warning)
	}
	if s.m.wakeAt > s.now.Add(trialTime) {
		t.Errorf("wakes in %v, want in %v at most", s.m.wakeAt.Sub(s.now), trialTime)
	}
	s.now = s.now.Add(trialTime)
	s.do(tick{})
	st := s.m.status(s.now)
	if !errors.Is(st.Alarm, ErrTermBehind) || !errors.Is(st.Err, ErrTermBehind) || st.WaitingReason != WaitTerm || st.WaitingFor != st.Alarm.Error() || st.Master != nil || st.MaxTerm != 5 {
		t.Fatalf("%+v", st)
	}
	for _, part := range []string{"node x at 10.0.0.9:1 as master with term 2", "term 5 of cluster c", "run muster resign on x"} {
		if !strings.Contains(st.WaitingFor, part) {
			t.Errorf("%q does not say %q", st.WaitingFor, part)
		}
	}
	s.do(observation{err: driver.ErrUnavailable}) // what it says now is not known
	if st := s.m.status(s.now); st.Alarm != nil {
		t.Errorf("of an authority that does not answer: %v", st.Alarm)
	}
	c := s.call(s.do(observation{mastership: driver.Mastership{Term: 2, ClusterID: "c"}}), acquiring)
	if st := s.m.status(s.now); st.Alarm != nil || !strings.Contains(st.Warning, "records term 2, and this node has seen term 5 of cluster c") {
		t.Errorf("nobody is master: %v, %q", st.Alarm, st.Warning)
	}
	if c.claim.MinTerm != 5 || !c.claim.Known {
		t.Errorf("the claim is %+v", c.claim)
	}
	s.do(result{seq: c.seq, grant: grantOf(6)})
	if st := s.m.status(s.now); st.State != Active || st.Alarm != nil || st.Warning != "" {
		t.Errorf("%+v", st)
	}
}

// A term that one of two authorities has granted, to a candidate that the other one refused, says
// nothing against a master with an earlier one: as where a node has just started, tries, and
// then learns who is master.
func TestTermInPart(t *testing.T) {
	s := newScript(t)
	x := driver.Holder{NodeID: "x", InstanceID: "x", Addr: "10.0.0.9:1"}
	self := s.m.p.self
	for _, o := range []driver.Mastership{
		{ClusterID: "c"},
		{Term: 6, ClusterID: "c", Holder: &self, Partial: true},
		{Term: 6, ClusterID: "c", Partial: true},
		{Term: 7, ClusterID: "c", Holder: &driver.Holder{NodeID: "y", InstanceID: "y"}, Partial: true},
		{Term: 5, ClusterID: "c", Holder: &x},
	} {
		s.do(observation{mastership: o})
	}
	s.do(learned{Announcement{Term: 5, ClusterID: "c", Holder: x, Active: true, Seq: 1, ValidFor: time.Minute}})
	s.now = s.now.Add(2 * trialTime)
	s.do(tick{})
	if st := s.m.status(s.now); st.Alarm != nil || st.Warning != "" || st.Master == nil || st.Master.NodeID != "x" || st.MasterTerm != 5 {
		t.Errorf("%+v", st)
	}
	// Terms that both have granted do.
	s.do(observation{mastership: driver.Mastership{Term: 8, ClusterID: "c"}})
	s.do(observation{mastership: driver.Mastership{Term: 5, ClusterID: "c", Holder: &x}})
	s.now = s.now.Add(2 * trialTime)
	s.do(tick{})
	if st := s.m.status(s.now); !errors.Is(st.Alarm, ErrTermBehind) {
		t.Errorf("after term 8 was granted by both: %+v", st)
	}
}

// A term that was shown in part is not granted again, where the authority that counted it is
// restored from an old copy before both have granted one.
func TestTermInPartThatWasForgotten(t *testing.T) {
	s := newScript(t)
	x := driver.Holder{NodeID: "x", InstanceID: "x"}
	s.do(observation{mastership: driver.Mastership{Term: 100, ClusterID: "c", Holder: &x, Partial: true}})
	s.do(observation{mastership: driver.Mastership{Term: 50, ClusterID: "c", Partial: true}})
	if c := s.next(acquiring); c.claim.MinTerm != 100 {
		t.Errorf("asks for a term above %d, want 100", c.claim.MinTerm)
	}
}

// A store that was emptied while nodes run is named at once, with what it has forgotten. A
// grant that the record lags behind is no reason.
func TestAuthorityThatForgot(t *testing.T) {
	s := newScript(t)
	grown := ready
	grown.Eligible = false
	s.do(conditions{grown})
	s.do(observation{mastership: driver.Mastership{Term: 5, ClusterID: "c"}})
	s.do(observation{})
	if st := s.m.status(s.now); st.Alarm != nil || !strings.Contains(st.Warning, "records term 0, and this node has seen term 5 of cluster c") {
		t.Errorf("%v, %q", st.Alarm, st.Warning)
	}
	s.do(observation{mastership: driver.Mastership{Term: 5, ClusterID: "c"}})
	if st := s.m.status(s.now); st.Warning != "" {
		t.Errorf("it is back, and still: %q", st.Warning)
	}
	s.do(observation{mastership: driver.Mastership{Term: 5, ClusterID: "c", Withheld: "its record was lost"}})
	s.do(conditions{ready})
	if st := s.m.status(s.now); st.WaitingReason != WaitForgotten || st.WaitingFor != "its record was lost" {
		t.Errorf("a stand-in is waited for: %q (%s)", st.WaitingFor, st.WaitingReason)
	}
	s.do(observation{mastership: driver.Mastership{Term: 5, ClusterID: "c"}})
	if st := s.m.status(s.now); st.WaitingReason != WaitElection {
		t.Errorf("it is over: %q (%s)", st.WaitingFor, st.WaitingReason)
	}

	s = newScript(t)
	c := s.call(s.do(observation{}), acquiring)
	s.do(result{seq: c.seq, grant: grantOf(1)})
	s.do(observation{})
	for range 3 {
		if st := s.m.status(s.now); st.State != Active || st.Warning != "" || st.Alarm != nil {
			t.Errorf("a grant that is not shown yet: %+v", st)
		}
		s.now = s.now.Add(trialTime / 4)
		s.do(tick{})
	}
}

// A node that its authority blocks is no candidate until it is not blocked any more.
func TestBlockedIsNoCandidate(t *testing.T) {
	s := newScript(t)
	s.do(observation{mastership: driver.Mastership{Blocked: "its directory is of another cluster"}})
	for range 20 {
		s.now = max(s.now.Add(time.Second), s.m.wakeAt)
		if cs := s.do(tick{}); len(cs) > 0 {
			t.Fatalf("blocked, it asks for %+v", cs)
		}
		if s.m.wakeAt == never {
			break
		}
	}
	if st := s.m.status(s.now); st.WaitingReason != WaitBlocked {
		t.Errorf("waiting for %s", st.WaitingReason)
	}
	if got := s.m.status(s.now).WaitingFor; got != "its directory is of another cluster" {
		t.Errorf("it waits for %q", got)
	}
	s.call(s.do(observation{}), acquiring)
}

// A renewal that was under way when a contradiction was heard does not settle it: its answer
// may be from before.
func TestDisputeIsNotSettledByAnEarlierCall(t *testing.T) {
	s := newScript(t)
	s.active(5)
	early := s.next(renewing)
	s.now = s.now.Add(10 * time.Millisecond)
	s.do(learned{Announcement{Term: 6, ClusterID: "c"}})
	s.now = s.now.Add(10 * time.Millisecond)
	s.do(result{seq: early.seq, grant: grantOf(5)})
	if s.m.dispute == nil || s.m.status(s.now).Err == nil {
		t.Error("settled by a call that was sent before")
	}
	heard := s.now
	late := s.next(renewing)
	if d := s.now.Sub(heard); d > s.m.grant.plan.renewEvery/2 {
		t.Errorf("the authority is asked %v after the answer, want no more than half of %v", d, s.m.grant.plan.renewEvery)
	}
	s.do(result{seq: late.seq, grant: grantOf(5)})
	if s.m.dispute != nil || s.m.status(s.now).Err != nil || s.m.state != Active {
		t.Errorf("not settled by a later call: %v", s.m.dispute)
	}
}

// What was learned of another cluster raises no claim of the one that the authority records.
func TestHearsayOfAnotherClusterIsForgotten(t *testing.T) {
	s := newScript(t)
	x := driver.Holder{NodeID: "x", InstanceID: "x"}
	s.do(learned{Announcement{Term: 9, ClusterID: "foreign", Holder: x, Active: true, Seq: 1, ValidFor: ttl}})
	s.do(observation{mastership: driver.Mastership{Term: 1, ClusterID: "c", Holder: &driver.Holder{InstanceID: "b"}}})
	if s.m.highest() != 1 || len(s.m.known.claims) != 0 {
		t.Errorf("the highest term is %d with %d claims, want 1 and none", s.m.highest(), len(s.m.known.claims))
	}
}

// While the authority cannot be observed gossip alone names. When it can be again, its record
// and who announces itself count.
func TestNamesAfterAnOutageOfTheAuthority(t *testing.T) {
	b := driver.Holder{NodeID: "b", InstanceID: "b"}
	x := driver.Holder{NodeID: "x", InstanceID: "x"}
	record := driver.Mastership{Term: 1, Holder: &b}
	k := known{announced: true}
	now := clock.Instant(time.Hour)
	named := func() string {
		if h, _ := k.master(now, "self"); h != nil {
			return h.InstanceID
		}
		return ""
	}
	claim := Announcement{Term: 1, Holder: b, Active: true, Seq: 1, ValidFor: ttl}
	k.observe(now, record)
	k.learn(now, claim)
	k.observeFailed(now)
	now = now.Add(2 * ttl)
	k.observe(now, record)
	if got := named(); got != "" {
		t.Errorf("names %q, which has been silent for longer than its word counts", got)
	}
	claim.Seq++
	k.learn(now, claim)
	if got := named(); got != "b" {
		t.Errorf("names %q, want b", got)
	}

	k.observeFailed(now)
	k.memberGone(now, "b")
	k.learn(now, Announcement{Term: 9, Holder: x, Active: true, Seq: 1, ValidFor: maxAnnouncedValidity})
	if got := named(); got != "x" {
		t.Errorf("names %q, want x, of which gossip alone tells", got)
	}
	k.observe(now, record)
	claim.Seq++
	k.learn(now, claim)
	now = now.Add(trialTime)
	if got := named(); got != "b" {
		t.Errorf("names %q %v after the authority is back, want b", got, trialTime)
	}

	// The time for claims ahead of the record begins again with each record.
	now = now.Add(outranksFor)
	k.learn(now, Announcement{Term: 9, Holder: x, Active: true, Seq: 2, ValidFor: maxAnnouncedValidity})
	now = now.Add(trialTime)
	k.observe(now, driver.Mastership{Term: 1})
	if got := named(); got != "" {
		t.Errorf("names %q, want nobody", got)
	}
	c := driver.Holder{NodeID: "c", InstanceID: "c"}
	k.learn(now, Announcement{Term: 10, Holder: c, Active: true, Seq: 1, ValidFor: ttl})
	if got := named(); got != "c" {
		t.Errorf("names %q, want c ahead of the record", got)
	}
}

// A node that takes the grant each time and never gets the answer leaves it to others after a few
// tries, for longer and longer; an answer that comes is good at once.
func TestAnswersThatDoNotArrive(t *testing.T) {
	s := newScript(t)
	self := s.m.p.self
	shown := observation{mastership: driver.Mastership{Term: 1, ClusterID: "c", Holder: &self}}
	c := s.call(s.do(observation{}), acquiring)
	fail := func() { s.do(result{seq: c.seq, err: driver.ErrUnavailable}) }
	fail()
	var waits []time.Duration
	for range 9 {
		s.do(shown)
		before := s.now
		c = s.next(acquiring)
		waits = append(waits, s.now.Sub(before))
		fail()
	}
	for n, want := range []time.Duration{0, 0, 0, 5, 10, 20, 40, 60, 60} {
		if want *= time.Second; want == 0 && waits[n] > fastRetryMax || want > 0 && waits[n] != want {
			t.Errorf("waits %v; the one at %d is to be %v", waits, n, want)
		}
	}
	if w := s.m.status(s.now); w.WaitingReason != WaitAuthority || !strings.Contains(w.WaitingFor, "do not arrive") {
		t.Errorf("waiting for %q (%s)", w.WaitingFor, w.WaitingReason)
	}
	c = s.next(acquiring)
	s.do(result{seq: c.seq, grant: grantOf(2)})
	if s.m.state != Active || s.m.unheard != 0 {
		t.Errorf("state %v, %d unheard", s.m.state, s.m.unheard)
	}
}

// An authority that grants nothing at all is tried as before, also by one who has rested.
func TestOutageIsNoRest(t *testing.T) {
	s := newScript(t)
	c := s.call(s.do(observation{}), acquiring)
	self := s.m.p.self
	for range maxUnheard + 1 {
		s.do(result{seq: c.seq, err: driver.ErrUnavailable})
		s.do(observation{mastership: driver.Mastership{Term: 1, ClusterID: "c", Holder: &self}})
		c = s.next(acquiring)
	}
	s.do(observation{mastership: driver.Mastership{Term: 1, ClusterID: "c"}})
	if s.m.unheard < maxUnheard {
		t.Fatalf("%d unheard", s.m.unheard)
	}
	for range 50 {
		s.do(result{seq: c.seq, err: driver.ErrUnavailable})
		before := s.now
		c = s.next(acquiring)
		if wait := s.now.Sub(before); wait > slowRetryMax {
			t.Fatalf("waits for %v", wait)
		}
	}
}
