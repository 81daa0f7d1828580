package casauthority

import (
	"slices"

	"github.com/musterhq/muster/internal/clock"
)

// learned is a proof, and when it was known here at first.
type learned struct {
	proof string
	at    clock.Instant
}

// maxLearned bounds the proofs that are kept. Only the latest is of use: junk that takes its place
// makes candidates count from what they read. The others are kept so that none of them, repeated,
// becomes the latest.
const maxLearned = 8

// learn takes in a proof that is known here now. It decides nothing before an answer shows
// the record that it belongs to.
func (m *machine) learn(now clock.Instant, proof string) {
	known := func(l learned) bool { return l.proof == proof }
	if proof == "" || len(proof) > maxProof || slices.ContainsFunc(m.learned, known) {
		return
	}
	if len(m.learned) == maxLearned {
		m.learned = slices.Delete(m.learned, 0, 1)
	}
	m.learned = append(m.learned, learned{proof, now})
}

// maxProof bounds the length of what is kept of others.
const maxProof = 64

// provenSince returns when the proof of a record was learned that an answer shows now. Its
// holder has renewed nothing since: the record would show that, unless the store has forgotten
// it, which unsettles (see), or somebody has put an earlier record back, which no incarnation
// tells. So only the latest proof counts. A store that cannot tell its incarnation may forget
// unnoticed: there it counts for a few gaps.
func (m *machine) provenSince(now clock.Instant, v Value, rec record) (clock.Instant, bool) {
	if rec.Holder == nil {
		return 0, false
	}
	last := len(m.learned) - 1
	if last < 0 || m.learned[last].proof != rec.Proof {
		return 0, false
	}
	at := m.learned[last].at
	if v.Incarnation == "" && now.Sub(at) > provenGaps*m.gap(rec) {
		return 0, false
	}
	return at, true
}

// silent reports that the holder renews nothing, whatever others say: two answers that are further
// apart than its TTL showed the same record, or what proves its renewals was announced and no
// longer is. It is a reason to look closely, and to nothing else.
func (m *machine) silent(now clock.Instant) bool {
	if !m.seen || m.bad != nil || m.record.Holder == nil {
		return false
	}
	wait := m.r.wait(m.record.TTL)
	n := len(m.learned)
	return m.at.Sub(m.first) > wait || n > 0 && now.Sub(m.learned[n-1].at) > wait
}

// provenGaps is how many gaps of a series of reads may lie between a proof and the read that
// shows it: as long as the servers of a store take to elect a leader, when there is none to be
// read.
const provenGaps = 3
