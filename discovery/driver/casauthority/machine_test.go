package casauthority

import (
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// What an answer does to the count of what was seen, case by case: in the random histories
// some of it is rare, or covered by another rule.
func TestSee(t *testing.T) {
	const ttl, longest = time.Second, 10 * time.Second
	holder := &driver.Holder{InstanceID: "a"}
	stands := record{Version: layout, Term: 5, Holder: holder, Nonce: "n", TTL: ttl, Renewals: 3, Incarnation: "i1"}
	vacant := record{Version: layout, Term: 5, Nonce: "v", Incarnation: "i1"}
	with := func(r record, change func(*record)) record { change(&r); return r }
	at := func(ms int) clock.Instant { return clock.Instant(time.Hour + time.Duration(ms)*time.Millisecond) }
	type sight struct {
		sent, at    int // in ms
		revision    driver.Revision
		incarnation string
		record      record
	}
	rules := soundRules()
	for name, test := range map[string]struct {
		sights []sight
		free   clock.Instant
	}{
		"a holder": {[]sight{{0, 1, 7, "i1", stands}}, at(1).Add(rules.wait(ttl))},
		"seen again, annotated": {[]sight{{0, 1, 7, "i1", stands}, {500, 501, 8, "i1", stands}},
			at(1).Add(rules.wait(ttl))},
		"renewed": {[]sight{{0, 1, 7, "i1", stands}, {500, 501, 8, "i1", with(stands, func(r *record) { r.Renewals++ })}},
			at(501).Add(rules.wait(ttl))},
		"seen again after a gap": {[]sight{{0, 1, 7, "", stands}, {5000, 5001, 7, "", stands}}, at(5001).Add(rules.wait(ttl))},
		"a vacancy":              {[]sight{{0, 1, 7, "i1", vacant}}, 0},
		"overtaken by a later answer": {[]sight{{0, 10, 8, "i1", vacant}, {5, 20, 7, "i1", stands}},
			0},
		"an older revision":      {[]sight{{0, 1, 8, "", vacant}, {5, 6, 7, "", vacant}}, at(6).Add(rules.wait(longest))},
		"gone and there again":   {[]sight{{0, 1, 8, "", vacant}, {5, 6, 0, "", record{}}, {7, 8, 9, "", vacant}}, at(6).Add(rules.wait(longest))},
		"fewer renewals":         {[]sight{{0, 1, 7, "", stands}, {5, 6, 8, "", with(stands, func(r *record) { r.Renewals-- })}}, at(6).Add(rules.wait(longest))},
		"a lower term":           {[]sight{{0, 1, 7, "", stands}, {5, 6, 8, "", with(vacant, func(r *record) { r.Term = 4 })}}, at(6).Add(rules.wait(longest))},
		"two grants of a term":   {[]sight{{0, 1, 7, "", stands}, {5, 6, 8, "", with(stands, func(r *record) { r.Nonce = "m" })}}, at(6).Add(rules.wait(longest))},
		"another incarnation":    {[]sight{{0, 1, 7, "i1", vacant}, {5, 6, 7, "i2", vacant}}, at(6).Add(rules.wait(longest))},
		"granted in another":     {[]sight{{0, 1, 7, "i2", vacant}}, at(1).Add(rules.wait(longest))},
		"written from another":   {[]sight{{0, 1, 7, "i1", vacant}, {5, 6, 8, "i1", with(vacant, func(r *record) { r.Incarnation, r.Nonce = "i0", "w" })}}, at(6).Add(rules.wait(longest))},
		"a grant in the new one": {[]sight{{0, 1, 7, "i1", vacant}, {5, 6, 8, "i2", with(vacant, func(r *record) { r.Incarnation, r.Term = "i2", 1006 })}}, 0},
		"what cannot be read":    {[]sight{{0, 1, 7, "i1", with(stands, func(r *record) { r.TTL = -1 })}}, never},
		"nothing":                {[]sight{{0, 1, 0, "i1", record{}}}, never},
	} {
		m := newMachine(params{name: "test", key: "key", bounds: bounds{ttl, longest}}, rules, ttl)
		for _, s := range test.sights {
			v := Value{Revision: s.revision, Incarnation: s.incarnation}
			if s.revision != 0 {
				v.Data = s.record.encode()
			}
			m.see(at(s.sent), at(s.at), v)
		}
		if got := m.freeAt(); got != test.free {
			t.Errorf("%s: free at %v, want %v", name, got, test.free)
		}
	}
}

// A holder whose proof was learned is silent since then, whenever the record is read. A proof
// that no record shows changes nothing.
func TestLearn(t *testing.T) {
	const ttl, wait = time.Second, time.Second + 20*time.Millisecond + margin
	for _, tt := range []struct {
		what        string
		incarnation string
		learned     []string // one every 100 ms
		read        time.Duration
		free        time.Duration
	}{
		{what: "its proof", learned: []string{"proof"}, read: 500 * time.Millisecond, free: wait},
		{what: "its proof twice", learned: []string{"proof", "proof"}, read: 500 * time.Millisecond, free: wait},
		{what: "its proof late", learned: []string{"", "", "proof"}, read: 500 * time.Millisecond, free: 200*time.Millisecond + wait},
		{what: "its proof, a while ago", learned: []string{"proof"}, read: provenGaps * wait, free: wait},
		{what: "its proof, too long ago", learned: []string{"proof"}, read: provenGaps*wait + 1, free: provenGaps*wait + 1 + wait},
		{what: "its proof, long ago, and the store tells its incarnation", incarnation: "i1", learned: []string{"proof"}, read: time.Hour, free: wait},
		{what: "nothing", read: 500 * time.Millisecond, free: 500*time.Millisecond + wait},
		{what: "another", learned: []string{"another"}, read: 500 * time.Millisecond, free: 500*time.Millisecond + wait},
		{what: "a later one, which the store may have forgotten", learned: []string{"proof", "later"}, read: 500 * time.Millisecond, free: 500*time.Millisecond + wait},
		{what: "a later one, where the record was put back by hand", incarnation: "i1", learned: []string{"proof", "later"}, read: 500 * time.Millisecond, free: 500*time.Millisecond + wait},
		{what: "its proof after another", incarnation: "i1", learned: []string{"another", "proof"}, read: 500 * time.Millisecond, free: 100*time.Millisecond + wait},
		{what: "its proof after another, and again", incarnation: "i1", learned: []string{"another", "proof", "another"}, read: 500 * time.Millisecond, free: 100*time.Millisecond + wait},
		{what: "much junk", incarnation: "i1", learned: []string{"proof", "1", "2", "3", "4", "5", "6", "7", "8"}, read: time.Second, free: time.Second + wait},
		{what: "one that is too long", learned: []string{strings.Repeat("x", maxProof+1)}, read: 500 * time.Millisecond, free: 500*time.Millisecond + wait},
	} {
		m := newMachine(params{bounds: bounds{simMin, simMax}}, soundRules(), ttl)
		const began = clock.Instant(1e9)
		for i, proof := range tt.learned {
			m.learn(began.Add(time.Duration(i)*100*time.Millisecond), proof)
		}
		at := began.Add(tt.read)
		r := record{
			Version: layout, Term: 1, Holder: &driver.Holder{NodeID: "a", InstanceID: "a-1"}, Nonce: "n", TTL: ttl, Proof: "proof",
			Incarnation: tt.incarnation,
		}
		m.see(at, at, Value{Data: r.encode(), Revision: 1, Incarnation: tt.incarnation})
		if got := m.freeAt().Sub(began); got != tt.free {
			t.Errorf("%s: free after %v, want %v", tt.what, got, tt.free)
		}
		if len(m.learned) > maxLearned {
			t.Errorf("%s: %d proofs are kept", tt.what, len(m.learned))
		}
	}
}
