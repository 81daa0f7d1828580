package mastership

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Announcement is what nodes tell one another of a mastership, by gossip. It may
// arrive late, twice, out of order and by way of third nodes.
//
// There are three kinds: Active with a Holder says that the holder is master; a
// Holder that is not Active has ended that term for good; without a Holder only
// the term and the cluster id are known.
type Announcement struct {
	Term      Term
	ClusterID string
	Holder    Holder
	Active    bool
	// Seq counts the announcements of a holder within its term. A repetition has
	// the same Seq and is no new sign of life.
	Seq uint64
	// ValidFor is how long after its arrival the announcement counts. A node that
	// passes it on takes off the time that it has had it.
	ValidFor time.Duration
	// Next is how long after its arrival a holder that is still master has announced
	// itself again, unless announcements got lost. 0 if that is not known.
	Next time.Duration
	// Proof is that of the holder's grant (driver.Grant), for the authority. Empty if it has none.
	Proof string
	// Clock names the holder's boot clock, and At is a reading of it before the announcement was
	// sent, for histories. Empty if it was passed on.
	Clock string
	At    time.Duration
	// From is the id of the node that announced it, empty if that is not known, as of one
	// that was passed on. It is for logs, and not part of the wire form.
	From string
}

// announcementVersion is that of the wire form. Fields are only ever added within
// a version, and unknown ones are ignored.
const announcementVersion = 1

type wireAnnouncement struct {
	V          int            `json:"v"`
	Term       driver.Term    `json:"term"`
	ClusterID  string         `json:"cluster_id"`
	Holder     *driver.Holder `json:"holder,omitempty"`
	Active     bool           `json:"active"`
	Seq        uint64         `json:"seq,omitempty"`
	ValidForMS int64          `json:"valid_for_ms,omitempty"`
	NextMS     int64          `json:"next_ms,omitempty"`
	Proof      string         `json:"proof,omitempty"`
	Clock      string         `json:"clock,omitempty"`
	AtNS       int64          `json:"at_ns,omitempty"`
}

// Encode returns the wire form, which is JSON.
func (a Announcement) Encode() []byte {
	w := wireAnnouncement{
		V: announcementVersion, Term: a.Term, ClusterID: a.ClusterID,
		Active: a.Active, Seq: a.Seq, ValidForMS: a.ValidFor.Milliseconds(), NextMS: a.Next.Milliseconds(), Proof: a.Proof,
		Clock: a.Clock, AtNS: int64(a.At),
	}
	if a.Holder.InstanceID != "" {
		w.Holder = &a.Holder
	}
	b, err := json.Marshal(w)
	if err != nil {
		panic("mastership: " + err.Error()) // nothing in it can fail to marshal
	}
	return b
}

// maxAnnouncedValidity bounds ValidFor of what was received, so that a broken
// sender cannot make a name last.
const maxAnnouncedValidity = 5 * time.Minute

// maxProof bounds Proof of what was received: it is kept, and passed on.
const maxProof = 256

// maxClock bounds Clock of what was received: it is recorded.
const maxClock = 64

// DecodeAnnouncement reads the wire form. It refuses what has another version, no
// term or no holder where there must be one; such errors wrap driver.ErrInvalid.
func DecodeAnnouncement(b []byte) (Announcement, error) {
	var w wireAnnouncement
	if err := json.Unmarshal(b, &w); err != nil {
		return Announcement{}, fmt.Errorf("%w: announcement: %v", driver.ErrInvalid, err)
	}
	if w.V != announcementVersion {
		return Announcement{}, fmt.Errorf("%w: announcement of version %d, want %d", driver.ErrInvalid, w.V, announcementVersion)
	}
	if w.Term == 0 || w.Term > 2*driver.MaxTerm { // which no authority grants
		return Announcement{}, fmt.Errorf("%w: announcement of term %d", driver.ErrInvalid, w.Term)
	}
	a := Announcement{Term: w.Term, ClusterID: w.ClusterID, Active: w.Active, Seq: w.Seq}
	if len(w.Proof) <= maxProof { // what is longer is none, and is not passed on
		a.Proof = w.Proof
	}
	if len(w.Clock) <= maxClock {
		a.Clock, a.At = w.Clock, time.Duration(w.AtNS)
	}
	if w.Holder != nil {
		a.Holder = *w.Holder
	}
	if a.Active && a.Holder.InstanceID == "" {
		return Announcement{}, fmt.Errorf("%w: active announcement of term %d without a holder", driver.ErrInvalid, a.Term)
	}
	if ms := min(max(w.ValidForMS, 0), maxAnnouncedValidity.Milliseconds()); ms > 0 {
		a.ValidFor = time.Duration(ms) * time.Millisecond
	}
	a.Next = time.Duration(min(max(w.NextMS, 0), maxAnnouncedValidity.Milliseconds())) * time.Millisecond
	return a, nil
}
