package share

import (
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// script is a history that is written out. All clocks are one, unless it says otherwise.
type script struct {
	t     *testing.T
	rules rules
	now   clock.Instant
}

const scriptTotal = 10

func (s *script) holder(id string) *Holder {
	h := NewHolder(id, Divide(15*time.Second))
	h.rules = s.rules
	return h
}

// master returns one that reigns, on top of another one.
func (s *script) master(term driver.Term, prior *Divider) *Divider {
	s.t.Helper()
	p := Divide(15 * time.Second)
	d := NewDivider(Reign{Token: string(rune('a' + term)), Term: term, InstanceID: "m", Params: p}, prior == nil)
	d.rules = s.rules
	r := Record{Total: scriptTotal}
	if prior != nil {
		r.Reign = &prior.self
	}
	next, write := d.Read(r, true, s.now, s.now)
	if !write {
		s.t.Fatal("it does not reign")
	}
	d.Wrote(next, s.now, s.now)
	return d
}

// ask has a holder ask a master and take the answer, and returns what it may begin.
func (s *script) ask(h *Holder, d *Divider) int {
	s.deliver(h, d, h.Send(s.now))
	return h.Counts(s.now).Share
}

func (s *script) deliver(h *Holder, d *Divider, q Request) {
	if a, v := d.Ask("peer-of-"+h.id, q, s.now); v == Granted {
		h.Answered(a, s.now)
	}
	h.Failed(s.now)
}

// want changes a demand, and has the one before be forgotten.
func (s *script) want(h *Holder, n int) {
	h.Wait(s.now, n)
	s.now = s.now.Add(3 * demandWindow)
	h.Wait(s.now, n)
}

// What the random histories bring about too rarely. Each rule is needed for one of them.
func TestWrittenHistories(t *testing.T) {
	for _, test := range []struct {
		name    string
		wreck   func(*rules)
		history func(*script) (shares int)
	}{
		{"a late request to the next master does not count as what is held", func(r *rules) { r.adopt = false }, func(s *script) int {
			a, b, c := s.holder("a"), s.holder("b"), s.holder("c")
			first := s.master(1, nil)
			s.want(a, 20)
			s.ask(a, first)
			second := s.master(2, first) // of which the first one does not know
			late := a.Send(s.now)
			a.Failed(s.now)
			s.want(a, 0)
			s.want(b, 20)
			s.ask(b, first)
			s.ask(a, first)
			s.ask(a, first) // gives all back
			s.ask(b, first)
			second.Ask("peer-of-a", late, s.now)
			s.want(a, 0)
			s.ask(a, second)
			s.want(c, 20)
			for range 3 {
				s.ask(c, second)
			}
			return a.bands.top() + b.bands.top() + c.bands.top()
		}},
		{"a holder that has gone over gives nothing back to the master before", func(r *rules) { r.serial = false }, func(s *script) int {
			a, b, c := s.holder("a"), s.holder("b"), s.holder("c")
			first := s.master(1, nil)
			s.want(a, 20)
			s.ask(a, first)
			second := s.master(2, first)
			s.ask(a, second)
			s.ask(a, second)
			s.want(a, 0)
			s.want(c, 20)
			s.ask(c, second)
			s.ask(a, second)
			s.ask(a, second) // gives all back
			s.ask(c, second)
			s.want(b, 20)
			s.ask(b, first)
			s.ask(a, first)
			s.ask(b, first)
			return a.bands.top() + b.bands.top() + c.bands.top()
		}},
		{"a late request says nothing of what is held later", func(r *rules) { r.says = false }, func(s *script) int {
			a, b := s.holder("a"), s.holder("b")
			first := s.master(1, nil)
			first.rules = soundRules()
			read := func(total int) {
				first.Read(Record{Total: total, Reign: &first.self}, true, s.now, s.now)
			}
			read(1)
			s.want(a, 20)
			s.ask(a, first)
			late := a.Send(s.now) // it has one of one
			a.Failed(s.now)
			read(scriptTotal)
			s.want(b, 5)
			s.ask(b, first)
			s.ask(a, first)
			s.ask(a, first)
			s.ask(b, first)
			second := s.master(2, first)
			second.Ask("peer-of-a", late, s.now)
			b.Wait(s.now, 0)
			s.ask(a, second)
			return a.bands.top() + b.bands.top()
		}},
		{"what has expired may have gone over to the next master", func(r *rules) { r.expiry = false }, func(s *script) int {
			a, b := s.holder("a"), s.holder("b")
			first := s.master(1, nil)
			s.want(a, 20)
			s.ask(a, first)
			s.now = s.now.Add(6 * time.Second)
			first.Read(Record{Total: scriptTotal, Reign: &first.self}, true, s.now, s.now)
			s.now = s.now.Add(time.Second)
			second := s.master(2, first)
			s.ask(a, second)
			s.now = s.now.Add(2500 * time.Millisecond)
			s.want(b, 20)
			s.ask(b, first) // which has read within five seconds, and no later than it was master
			return a.bands.top() + b.bands.top()
		}},
		{"the holder's clock is slow, and the master's fast", func(r *rules) { r.drift = false }, func(s *script) int {
			a, b := s.holder("a"), s.holder("b")
			first := s.master(1, nil)
			s.want(a, 20)
			sent := s.now
			s.ask(a, first)
			s.want(b, 20)
			for range 20_000 {
				s.now = s.now.Add(time.Millisecond)
				first.Read(Record{Total: scriptTotal, Reign: &first.self}, true, s.now, s.now)
				if s.ask(b, first) > 0 {
					break
				}
			}
			// What a has, and b, while a's clock has not counted the lease to its end.
			elapsed := time.Duration(float64(s.now.Sub(sent)) / 1.01 * 0.99)
			if elapsed < first.self.Lease {
				return b.bands.top() + scriptTotal
			}
			return b.bands.top()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &script{t: t, rules: soundRules(), now: 1e9}
			if got := test.history(s); got > scriptTotal {
				t.Errorf("%d in shares, of %d", got, scriptTotal)
			}
			s = &script{t: t, rules: soundRules(), now: 1e9}
			test.wreck(&s.rules)
			if got := test.history(s); got <= scriptTotal {
				t.Errorf("without the rule there are %d in shares too: the history shows nothing", got)
			}
		})
	}
}

// A raised total can be used at once, by others too than those that have had the old one.
func TestRaisedAtOnce(t *testing.T) {
	s := &script{t: t, rules: soundRules(), now: 1e9}
	a, b := s.holder("a"), s.holder("b")
	d := s.master(1, nil)
	d.Read(Record{Total: 1, Reign: &d.self}, true, s.now, s.now)
	s.want(a, 20)
	s.ask(a, d)
	d.Read(Record{Total: scriptTotal, Reign: &d.self}, true, s.now, s.now)
	s.want(b, 20)
	for range 2 {
		s.ask(b, d)
		s.ask(a, d)
	}
	if x, y := a.Counts(s.now).Share, s.ask(b, d); x != 5 || y != 5 {
		t.Errorf("%d and %d of %d", x, y, scriptTotal)
	}
}
