package share

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// MaxTotal bounds a total.
const MaxTotal = 1_000_000_000

// The bounds of Params.Lease.
const (
	MinLease = 200 * time.Millisecond
	MaxLease = 10 * time.Minute
)

// Params are the durations of a reign. All of it ends after their sum.
type Params struct {
	// Lease is how long a share is good for, as its holder counts.
	Lease time.Duration `json:"lease"`
	// Fresh is how old the last read of the record may be when a master grants a share.
	Fresh time.Duration `json:"fresh"`
}

// Divide returns the Params with which all that one master has granted ends after d.
func Divide(d time.Duration) Params { return Params{Lease: d - d/3, Fresh: d / 3} }

// longer is d on the clock of one who waits for it to be over on another clock: each may be
// wrong by 1 %.
func longer(d time.Duration) time.Duration { return d + d/40 + margin }

// margin covers what is not a matter of rate, such as the steps of a coarse clock.
const margin = 50 * time.Millisecond

// bounded is p as it is waited for, whatever a record says.
func (p Params) bounded() Params {
	if p.Lease <= 0 || p.Lease > MaxLease {
		p.Lease = MaxLease
	}
	if p.Fresh <= 0 || p.Fresh > MaxLease {
		p.Fresh = MaxLease
	}
	return p
}

// Reign is the time in which one master divides a cap. Each is recorded, on top of the one before.
type Reign struct {
	// Serial is one more than that of the reign before.
	Serial uint64 `json:"serial"`
	// Token is a random text, which no other reign has.
	Token string `json:"token"`
	// ClusterID, Term and InstanceID are those of the mastership.
	ClusterID  string      `json:"cluster_id,omitempty"`
	Term       driver.Term `json:"term"`
	InstanceID string      `json:"instance_id"`
	Params
}

// Record is what the Store keeps of one cap.
type Record struct {
	Total int    `json:"total"`
	Reign *Reign `json:"reign,omitempty"` // nil: there was none yet
}

// Parse reads a Record, and refuses one that cannot be one.
func Parse(value []byte) (r Record, _ error) {
	if err := json.Unmarshal(value, &r); err != nil {
		return Record{}, fmt.Errorf("the record is not one of a cap: %w", err)
	}
	if r.Total < 0 || r.Total > MaxTotal {
		return Record{}, fmt.Errorf("the record has a total of %d: want 0 to %d", r.Total, MaxTotal)
	}
	return r, nil
}

// Bytes returns the record as it is kept.
func (r Record) Bytes() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // it has numbers and texts
	}
	return b
}

// Request is what a holder says, and asks of the master. It only ever gains fields.
type Request struct {
	// Holder is a random text, new with each start of the holder, and Seq rises with each Request.
	Holder string `json:"holder"`
	Seq    uint64 `json:"seq"`
	// Serial and Token are those of the reign whose answer the holder has taken last. Empty: it
	// holds nothing.
	Serial uint64 `json:"serial,omitempty"`
	Token  string `json:"token,omitempty"`
	// Held is how many there may be in use at the holder, from now until it takes an answer to
	// this Request or a later one, and Part of Whole the share of which they are.
	Held  int `json:"held,omitempty"`
	Part  int `json:"part,omitempty"`
	Whole int `json:"whole,omitempty"`
	// Using is how many are in use now, Waiting how many wait, and Demand the largest sum of both
	// in the last moments.
	Using   int `json:"using,omitempty"`
	Waiting int `json:"waiting,omitempty"`
	Demand  int `json:"demand,omitempty"`
	// Leaving says that the holder will not ask again soon.
	Leaving bool `json:"leaving,omitempty"`
}

// sane is q with all numbers within their bounds, whatever the peer has sent.
func (q Request) sane() Request {
	bound := func(n int) int { return min(max(n, 0), MaxTotal) }
	q.Held, q.Whole = bound(q.Held), bound(q.Whole)
	q.Part = min(bound(q.Part), q.Whole) // nobody has more than the whole
	q.Using = min(bound(q.Using), q.Held)
	q.Waiting, q.Demand = bound(q.Waiting), bound(q.Demand)
	return q
}

// part is the share that the holder says it has.
func (q Request) part() band { return band{limit: min(q.Held, q.Part), of: q.Whole} }

// Answer is what the master grants. It only ever gains fields.
type Answer struct {
	Seq    uint64 `json:"seq"`
	Serial uint64 `json:"serial"`
	Token  string `json:"token"`
	// Admit is up to how many the holder may begin, and Keep how many it may have in use, those
	// included that it has begun before. Both are parts of Total.
	Admit int `json:"admit"`
	Keep  int `json:"keep"`
	Total int `json:"total"`
	// Lease is for how long, from when the Request was sent.
	Lease time.Duration `json:"lease"`
}

// sane reports whether a sound master can have sent it.
func (a Answer) sane() bool {
	return 0 <= a.Admit && a.Admit <= a.Keep && a.Keep <= a.Total && a.Total <= MaxTotal &&
		0 < a.Lease && a.Lease <= MaxLease && a.Token != "" && a.Serial > 0
}
