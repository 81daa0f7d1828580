package casauthority

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

const attemptTTL = time.Second

// machineFor returns a machine of a store with records of these bounds. Its nonces are n1,
// n2 and on.
func machineFor() *machine {
	n := 0
	return newMachine(params{
		name: "test", key: "key", ceiling: "ceiling", bounds: bounds{100 * time.Millisecond, 10 * time.Second},
		nonce: func() string { n++; return fmt.Sprint("n", n) },
	}, soundRules(), attemptTTL)
}

var own = record{
	Version: layout, ClusterID: "id", Term: 5, Holder: &driver.Holder{NodeID: "a", InstanceID: "a"}, Nonce: "mine", TTL: attemptTTL, Renewals: 3,
}

func edited(r record, change func(*record)) record { change(&r); return r }

// shown is the answer of a read, or of a write that was confirmed, n calls after the begin.
func shown(n int, revision driver.Revision, incarnation string, r record) answer {
	sent := clock.Instant(time.Hour + time.Duration(n)*10*time.Millisecond)
	v := Value{Revision: revision, Incarnation: incarnation}
	if revision != 0 {
		v.Data = r.encode()
	}
	return answer{sent: sent, at: sent.Add(time.Millisecond), value: v}
}

func refused(n int, err error) answer {
	a := shown(n, 0, "", record{})
	a.err = err
	return a
}

// play has an attempt take the answers in turn, and returns what it asked for before each
// and what it came to.
func play(t *testing.T, a attempt, answers ...answer) (asked []op, end command) {
	t.Helper()
	c := a.start(clock.Instant(time.Hour))
	for _, answer := range answers {
		if c.op == done {
			t.Fatalf("it is done after %v, with answers to come", asked)
		}
		asked = append(asked, c.op)
		c = a.step(answer)
	}
	return asked, c
}

var (
	errConflict = fmt.Errorf("%w: at another revision", driver.ErrConflict)
	errDenied   = fmt.Errorf("%w: not with this token", driver.ErrDenied)
	errAway     = fmt.Errorf("%w: connection refused", driver.ErrUnavailable)
)

// What each call of an attempt may come to, where the machine has just seen the grant: an
// error that is no conflict ends it as it is, a conflict is read again so many times, and
// what is read decides.
func TestAttemptsByTheirAnswers(t *testing.T) {
	other := edited(own, func(r *record) { r.Nonce, r.Holder = "theirs", &driver.Holder{NodeID: "b", InstanceID: "b"} })
	vacant := edited(own, func(r *record) { r.Nonce, r.Holder = "vacant", nil })
	unreadable := edited(own, func(r *record) { r.TTL = time.Hour })
	renewed := edited(own, func(r *record) { r.Renewals++ })
	conflicts := []answer{
		refused(1, errConflict), shown(2, 8, "", own), refused(3, errConflict), shown(4, 9, "", own), refused(5, errConflict), shown(6, 10, "", own),
	}
	for name, v := range map[string]struct {
		answers []answer
		asked   []op
		renew   error // nil: it is renewed
		release error
	}{
		"confirmed":                     {[]answer{shown(1, 8, "", renewed)}, []op{write}, nil, nil},
		"denied":                        {[]answer{refused(1, errDenied)}, []op{write}, driver.ErrDenied, driver.ErrDenied},
		"no answer":                     {[]answer{refused(1, errAway)}, []op{write}, driver.ErrUnavailable, driver.ErrUnavailable},
		"annotated":                     {[]answer{refused(1, errConflict), shown(2, 8, "", own), shown(3, 9, "", renewed)}, []op{write, read, write}, nil, nil},
		"a conflict, and denied":        {[]answer{refused(1, errConflict), refused(2, errDenied)}, []op{write, read}, driver.ErrDenied, driver.ErrDenied},
		"a conflict, and denied then":   {[]answer{refused(1, errConflict), shown(2, 8, "", own), refused(3, errDenied)}, []op{write, read, write}, driver.ErrDenied, driver.ErrDenied},
		"another's":                     {[]answer{refused(1, errConflict), shown(2, 8, "", other)}, []op{write, read}, driver.ErrSessionLost, nil},
		"released":                      {[]answer{refused(1, errConflict), shown(2, 8, "", vacant)}, []op{write, read}, driver.ErrSessionLost, nil},
		"gone":                          {[]answer{refused(1, errConflict), shown(2, 0, "", record{})}, []op{write, read}, driver.ErrSessionLost, nil},
		"three conflicts, and then not": {append(slices.Clone(conflicts), shown(7, 11, "", renewed)), []op{write, read, write, read, write, read, write}, nil, nil},
		"four conflicts":                {append(slices.Clone(conflicts), refused(7, errConflict)), []op{write, read, write, read, write, read, write}, driver.ErrUnavailable, driver.ErrUnavailable},
	} {
		for what, want := range map[string]error{"renew": v.renew, "release": v.release} {
			m := machineFor()
			seen := shown(0, 7, "", own)
			m.see(seen.sent, seen.at, seen.value)
			g := driver.Grant{Term: own.Term, Token: token{own.Nonce}}
			var a attempt = &renewing{m: m, g: g}
			if what == "release" {
				a = &releasing{m: m, g: g}
			}
			asked, end := play(t, a, v.answers...)
			if !slices.Equal(asked, v.asked) || end.op != done {
				t.Errorf("%s, %s: it asked for %v, and then %v; want %v and the end", what, name, asked, end.op, v.asked)
			}
			if (end.err == nil) != (want == nil) || want != nil && !errors.Is(end.err, want) || errors.Is(end.err, driver.ErrConflict) {
				t.Errorf("%s, %s: %v, want %v", what, name, end.err, want)
			}
			if what == "renew" && want == nil && (end.grant.Term != own.Term || end.grant.ClusterID != "id" || end.grant.ValidFor != attemptTTL) {
				t.Errorf("%s, %s: the grant is %+v", what, name, end.grant)
			}
		}
	}
	// Nobody goes by what cannot be read.
	m := machineFor()
	_, end := play(t, &renewing{m: m, g: driver.Grant{Token: token{own.Nonce}}}, shown(1, 7, "", unreadable))
	if end.err == nil || errors.Is(end.err, driver.ErrSessionLost) {
		t.Errorf("a record that cannot be read: %v", end.err)
	}
	// A grant of another provider.
	for _, a := range []attempt{&renewing{m: m}, &releasing{m: m}} {
		if end := a.start(clock.Instant(time.Hour)); end.op != done || !errors.Is(end.err, driver.ErrInvalid) {
			t.Errorf("%T of a grant that was not given here: %+v", a, end)
		}
	}
}

// Each write is on top of what was read last, and counts one renewal more.
func TestRenewalsCount(t *testing.T) {
	m := machineFor()
	seen := shown(0, 7, "", own)
	m.see(seen.sent, seen.at, seen.value)
	a := &renewing{m: m, g: driver.Grant{Term: 5, Token: token{own.Nonce}}}
	wants := func(c command, renewals uint64, prev driver.Revision) {
		t.Helper()
		r, err := m.p.bounds.parse(c.data)
		if c.op != write || err != nil || r.Renewals != renewals || r.Nonce != own.Nonce || r.Term != own.Term || c.prev != prev {
			t.Errorf("it writes %s on top of %d (%v), want %d renewals on top of %d", c.data, c.prev, err, renewals, prev)
		}
	}
	wants(a.start(clock.Instant(time.Hour)), 4, 7)
	if c := a.step(refused(1, errConflict)); c.op != read {
		t.Fatalf("after a conflict: %+v", c)
	}
	wants(a.step(shown(2, 12, "", edited(own, func(r *record) { r.Renewals = 9 }))), 10, 12)
}

// Where the store became another incarnation, a renewal counts if it came before the end of
// the grant that is held here; and one that nothing is known of does not count. From then
// on the record is stamped with the incarnation in which it goes on.
func TestRenewalInAnotherIncarnation(t *testing.T) {
	stamped := edited(own, func(r *record) { r.Incarnation = "i1" })
	for name, v := range map[string]struct {
		held bool
		late bool // the renewal is confirmed after the end of the grant
		to   string
		lost bool
		says string // the incarnation that the next renewal writes
	}{
		"the same":                       {true, false, "i1", false, "i1"},
		"the same, late":                 {true, true, "i1", false, "i1"}, // it was ours all the time
		"another":                        {true, false, "i2", false, "i2"},
		"another, late":                  {true, true, "i2", true, ""},
		"another, nothing known of ours": {false, false, "i2", true, ""},
		"the same, nothing known":        {false, false, "i1", false, "i1"},
	} {
		m := machineFor()
		first := shown(0, 7, "i1", stamped)
		m.see(first.sent, first.at, first.value)
		if v.held {
			m.setActive(stamped, first.sent)
		}
		at := 1
		if v.late {
			at = 150 // 1.5 s
		}
		a := &renewing{m: m, g: driver.Grant{Term: 5, Token: token{own.Nonce}}}
		c := a.start(shown(at, 0, "", record{}).sent)
		r, err := m.p.bounds.parse(c.data)
		if err != nil {
			t.Fatal(err)
		}
		end := a.step(shown(at, 8, v.to, r))
		if lost := errors.Is(end.err, driver.ErrSessionLost); lost != v.lost || (end.err != nil) != v.lost {
			t.Errorf("%s: %v, want it to be lost: %v", name, end.err, v.lost)
		}
		if v.lost {
			continue
		}
		again := (&renewing{m: m, g: driver.Grant{Term: 5, Token: token{own.Nonce}}}).start(shown(at+1, 0, "", record{}).sent)
		if r, err := m.p.bounds.parse(again.data); err != nil || r.Incarnation != v.says {
			t.Errorf("%s: the next renewal writes incarnation %q, %v; want %q", name, r.Incarnation, err, v.says)
		}
	}
	// The stamp is changed for the grant that is held here alone, and only where that was
	// found to go on.
	for name, h := range map[string]activeGrant{
		"another":                           {nonce: "theirs"},
		"ours, of before the store changed": {nonce: own.Nonce},
	} {
		m := machineFor()
		first := shown(0, 7, "i2", stamped)
		m.see(first.sent, first.at, first.value)
		if h.nonce != own.Nonce {
			h.epoch = m.epoch
		}
		m.active = h
		c := (&renewing{m: m, g: driver.Grant{Term: 5, Token: token{own.Nonce}}}).start(first.at)
		if r, err := m.p.bounds.parse(c.data); err != nil || r.Incarnation != "i1" {
			t.Errorf("what is held is %s: the renewal writes incarnation %q, %v", name, r.Incarnation, err)
		}
	}
	m := machineFor()
	first := shown(0, 7, "i2", stamped)
	m.see(first.sent, first.at, first.value)
	c := (&renewing{m: m, g: driver.Grant{Term: 5, Token: token{own.Nonce}}}).start(first.at)
	if r, err := m.p.bounds.parse(c.data); err != nil || r.Incarnation != "i1" {
		t.Errorf("the renewal of what is not held writes incarnation %q, %v", r.Incarnation, err)
	}
}

// An Acquire ends as its calls do.
func TestAcquireByItsAnswers(t *testing.T) {
	vacant := edited(own, func(r *record) { r.Nonce, r.Holder = "vacant", nil })
	taken := edited(own, func(r *record) {
		r.Nonce, r.Term, r.Holder, r.Renewals = "n1", 6, &driver.Holder{InstanceID: "b"}, 0
	})
	noted := answer{sent: shown(2, 0, "", record{}).sent, at: shown(2, 0, "", record{}).at, value: Value{Revision: 2, Data: ceiling{layout, attemptTTL}.encode()}}
	none := shown(2, 0, "", record{})
	for name, v := range map[string]struct {
		answers []answer
		asked   []op
		err     error
	}{
		"granted":                     {[]answer{shown(1, 7, "", vacant), noted, shown(3, 8, "", taken)}, []op{read, read, write}, nil},
		"the ceiling is raised first": {[]answer{shown(1, 7, "", vacant), none, shown(3, 3, "", record{}), shown(4, 8, "", taken)}, []op{read, read, write, write}, nil},
		"denied":                      {[]answer{refused(1, errDenied)}, []op{read}, driver.ErrDenied},
		"the ceiling is denied":       {[]answer{shown(1, 7, "", vacant), refused(2, errDenied)}, []op{read, read}, driver.ErrDenied},
		"to raise it is denied":       {[]answer{shown(1, 7, "", vacant), none, refused(3, errDenied)}, []op{read, read, write}, driver.ErrDenied},
		"raised by another":           {[]answer{shown(1, 7, "", vacant), none, refused(3, errConflict)}, []op{read, read, write}, driver.ErrConflict},
		"another was faster":          {[]answer{shown(1, 7, "", vacant), noted, refused(3, errConflict)}, []op{read, read, write}, driver.ErrConflict},
		"to write is denied":          {[]answer{shown(1, 7, "", vacant), noted, refused(3, errDenied)}, []op{read, read, write}, driver.ErrDenied},
		"another holds it":            {[]answer{shown(1, 7, "", own)}, []op{read}, driver.ErrConflict},
		"another's cluster":           {[]answer{shown(1, 7, "", edited(vacant, func(r *record) { r.ClusterID = "other" }))}, []op{read}, driver.ErrClusterMismatch},
		"it forgot meanwhile":         {[]answer{shown(1, 7, "", vacant), noted, shown(3, 8, "i2", taken)}, []op{read, read, write}, driver.ErrUnavailable},
	} {
		m := machineFor()
		asked, end := play(t, &acquiring{m: m, claim: driver.Claim{
			Holder: driver.Holder{NodeID: "b", InstanceID: "b"}, ClusterID: "id", Known: true, MinTerm: 2,
		}}, v.answers...)
		if !slices.Equal(asked, v.asked) || end.op != done {
			t.Errorf("%s: it asked for %v, and then %v; want %v and the end", name, asked, end.op, v.asked)
		}
		if (end.err == nil) != (v.err == nil) || !errors.Is(end.err, v.err) {
			t.Errorf("%s: %v, want %v", name, end.err, v.err)
		}
		if v.err == nil && (end.grant.Term != 6 || end.grant.ClusterID != "id" || end.grant.ValidFor != attemptTTL) {
			t.Errorf("%s: the grant is %+v", name, end.grant)
		}
	}
}

// What an operator resets to, and what keeps a Reset from that.
func TestResetByItsAnswers(t *testing.T) {
	vacant := edited(own, func(r *record) { r.Nonce, r.Holder = "vacant", nil })
	garbled := edited(own, func(r *record) { r.TTL = time.Hour })
	options := driver.ResetOptions{ClusterID: "new", Term: 3}
	with := func(change func(*driver.ResetOptions)) driver.ResetOptions { o := options; change(&o); return o }
	for name, v := range map[string]struct {
		o       driver.ResetOptions
		answers []answer
		asked   []op
		err     error
		problem bool
	}{
		"of a vacancy":              {options, []answer{shown(1, 7, "", vacant), shown(2, 8, "", vacant)}, []op{read, write}, nil, false},
		"of nothing":                {options, []answer{shown(1, 0, "", record{}), shown(2, 8, "", vacant)}, []op{read, write}, nil, false},
		"to no cluster":             {with(func(o *driver.ResetOptions) { o.ClusterID = "" }), nil, nil, driver.ErrInvalid, false},
		"to the same cluster":       {with(func(o *driver.ResetOptions) { o.ClusterID = "id" }), []answer{shown(1, 7, "", vacant)}, []op{read}, driver.ErrInvalid, false},
		"to the highest term":       {with(func(o *driver.ResetOptions) { o.Term = driver.MaxTerm }), []answer{shown(1, 7, "", vacant), shown(2, 8, "", vacant)}, []op{read, write}, nil, false},
		"to a term beyond that":     {with(func(o *driver.ResetOptions) { o.Term = driver.MaxTerm + 1 }), nil, nil, driver.ErrInvalid, false},
		"of a master":               {options, []answer{shown(1, 7, "", own)}, []op{read}, driver.ErrConflict, false},
		"of a master, by force":     {with(func(o *driver.ResetOptions) { o.Force = true }), []answer{shown(1, 7, "", own), shown(2, 8, "", vacant)}, []op{read, write}, nil, false},
		"of a master, by a dry run": {with(func(o *driver.ResetOptions) { o.DryRun = true }), []answer{shown(1, 7, "", own)}, []op{read}, driver.ErrConflict, false},
		"by force, by a dry run":    {with(func(o *driver.ResetOptions) { o.DryRun, o.Force = true, true }), []answer{shown(1, 7, "", own)}, []op{read}, nil, false},
		"by a dry run":              {with(func(o *driver.ResetOptions) { o.DryRun = true }), []answer{shown(1, 7, "", vacant)}, []op{read}, nil, false},
		"of what is unreadable":     {options, []answer{shown(1, 7, "", garbled)}, []op{read}, driver.ErrConflict, true},
		"of that, by force":         {with(func(o *driver.ResetOptions) { o.Force = true }), []answer{shown(1, 7, "", garbled), shown(2, 8, "", vacant)}, []op{read, write}, nil, true},
		"denied":                    {options, []answer{refused(1, errDenied)}, []op{read}, driver.ErrDenied, false},
		"denied to write":           {options, []answer{shown(1, 7, "", vacant), refused(2, errDenied)}, []op{read, write}, driver.ErrDenied, false},
		"changed meanwhile":         {options, []answer{shown(1, 7, "", vacant), refused(2, errConflict)}, []op{read, write}, driver.ErrConflict, false},
	} {
		m := machineFor()
		a := &resetting{m: m, o: v.o}
		var written command
		c := a.start(clock.Instant(time.Hour))
		var asked []op
		for _, answer := range v.answers {
			if asked = append(asked, c.op); c.op == write {
				written = c
			}
			c = a.step(answer)
		}
		if !slices.Equal(asked, v.asked) || c.op != done || (c.err == nil) != (v.err == nil) || !errors.Is(c.err, v.err) {
			t.Errorf("%s: it asked for %v, and ended with %v, %v; want %v and %v", name, asked, c.op, c.err, v.asked, v.err)
		}
		if written.data != nil {
			r, err := m.p.bounds.parse(written.data)
			if err != nil || r.ClusterID != "new" || r.Term != v.o.Term || r.Holder != nil || r.Unknown || written.prev != v.answers[0].value.Revision {
				t.Errorf("%s: it writes %s (%v) on top of %d", name, written.data, err, written.prev)
			}
		}
		if (len(a.recorded.Problems) > 0) != v.problem {
			t.Errorf("%s: the problems are %q", name, a.recorded.Problems)
		}
		if len(v.answers) > 0 && v.answers[0].err == nil && v.answers[0].value.Revision != 0 && !v.problem &&
			(a.recorded.ClusterID != "id" || a.recorded.Term != 5) {
			t.Errorf("%s: recorded is %+v", name, a.recorded)
		}
	}
	// Once the master has expired nothing is to be forced.
	m := machineFor()
	for _, n := range []int{0, 60} {
		again := shown(n, 7, "", own)
		m.see(again.sent, again.at, again.value)
	}
	if _, end := play(t, &resetting{m: m, o: options}, shown(110, 7, "", own), shown(111, 8, "", vacant)); end.err != nil {
		t.Errorf("of a master that has expired: %v", end.err)
	}
}

// What is known of the mastership, and until when it stays so by itself.
func TestMastership(t *testing.T) {
	vacant := edited(own, func(r *record) { r.Nonce, r.Holder = "vacant", nil })
	garbled := edited(vacant, func(r *record) { r.Version = 2 })
	unknown := edited(vacant, func(r *record) { r.Unknown = true })
	rules := soundRules()
	longest := rules.wait(10 * time.Second)
	at := func(n int) clock.Instant { return shown(n, 0, "", record{}).at }
	for name, v := range map[string]struct {
		answers []answer
		now     int
		holder  string
		term    driver.Term
		warns   string
		until   clock.Instant
	}{
		"nothing seen":                   {nil, 1, "", 0, "", never},
		"none yet":                       {[]answer{shown(0, 0, "", record{})}, 1, "", 0, "", never},
		"a vacancy":                      {[]answer{shown(0, 7, "", vacant)}, 1, "", 5, "", never},
		"a holder":                       {[]answer{shown(0, 7, "", own)}, 1, "a", 5, "", at(0).Add(rules.wait(attemptTTL))},
		"one that has expired":           {[]answer{shown(0, 7, "", own)}, 120, "", 5, "", never},
		"unreadable from the start":      {[]answer{shown(0, 7, "", garbled)}, 1, "", 0, "version 2", never},
		"unreadable after a term":        {[]answer{shown(0, 7, "", vacant), shown(1, 8, "", garbled)}, 2, "", 5, "version 2", never},
		"gone":                           {[]answer{shown(0, 7, "", vacant), shown(1, 0, "", record{})}, 2, "", 0, "is gone", never},
		"a stand-in":                     {[]answer{shown(0, 7, "", unknown)}, 1, "", 5, "was lost or went back", at(0).Add(longest)},
		"it went back":                   {[]answer{shown(0, 7, "", vacant), shown(1, 6, "", vacant)}, 2, "", 5, "was lost or went back", at(1).Add(longest)},
		"it went back long ago":          {[]answer{shown(0, 7, "", vacant), shown(1, 6, "", vacant)}, 1200, "", 5, "", never},
		"it went back, and has a holder": {[]answer{shown(0, 7, "", vacant), shown(1, 6, "", own)}, 2, "a", 5, "was lost or went back", at(1).Add(longest)},
	} {
		m := machineFor()
		m.founding = false
		for _, a := range v.answers {
			m.see(a.sent, a.at, a.value)
		}
		got, until := m.mastership(at(v.now))
		holder := ""
		if got.Holder != nil {
			holder = got.Holder.NodeID
		}
		if holder != v.holder || got.Term != v.term || (got.Warning == "") != (v.warns == "") || !strings.Contains(got.Warning, v.warns) || until != v.until {
			t.Errorf("%s: %+v until %v; want holder %q, term %d, a warning of %q, until %v", name, got, until, v.holder, v.term, v.warns, v.until)
		}
		if lost := strings.Contains(v.warns, "gone") || strings.Contains(v.warns, "lost"); (got.Withheld != "") != (lost && v.holder == "") {
			t.Errorf("%s: withheld: %q", name, got.Withheld)
		}
		if later, _ := m.mastership(at(v.now + 10)); later.Warning != "" && later.Warning != got.Warning {
			t.Errorf("%s: the warning %q is %q a moment later", name, got.Warning, later.Warning)
		}
	}
}
