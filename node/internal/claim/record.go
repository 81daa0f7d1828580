package claim

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// State is what has become of the work that a record names.
type State string

// The states. A record is Free where nothing was claimed yet, or an operator asked for another
// run.
const (
	Free        State = "free"
	Running     State = "running"
	Done        State = "done"
	Failed      State = "failed"
	Interrupted State = "interrupted"
)

// Owner is the node that claims, and the term in which it does. Terms are compared within one
// cluster only.
type Owner struct {
	ClusterID  string      `json:"cluster_id,omitempty"`
	Term       driver.Term `json:"term"`
	NodeID     string      `json:"node_id,omitempty"`
	InstanceID string      `json:"instance_id,omitempty"`
}

// maxLead is how many terms one master can be ahead of another one that still counts on its own:
// terms are counted one by one, and no authority grants as many in the life of a node. A record
// that is further ahead is of no master.
const maxLead = 1 << 32

// outranks reports whether a claim of o must not be replaced by one of other: other belongs to
// an earlier term of the same cluster.
func (o Owner) outranks(other Owner) bool {
	return o.ClusterID == other.ClusterID && o.Term > other.Term && o.Term-other.Term <= maxLead
}

// Record is the value of a claim in a Ledger, as JSON. It only ever gains fields.
type Record struct {
	// What names the work: a version, or the time for which a fire was scheduled.
	What  string `json:"what"`
	State State  `json:"state"`
	// Owner is who claimed it last, and Token is new with each claim.
	Owner
	Token string `json:"token,omitempty"`
	// Claimed and Ended are wall times, for people. Nothing is decided by them.
	Claimed time.Time `json:"claimed,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// Runs counts the claims of What.
	Runs int `json:"runs,omitempty"`
	// Error says why the state is Failed or Interrupted.
	Error string `json:"error,omitempty"`
	// Data is the caller's own.
	Data json.RawMessage `json:"data,omitempty"`
}

// Interrupt returns r as that of a run that has no end, and will get none.
func (r Record) Interrupt(now time.Time) Record {
	r.State, r.Ended = Interrupted, now
	r.Error = "the node that ran it ceased to be master, or to be, before it had ended"
	return r
}

// maxError bounds the text of an error in a record.
const maxError = 4 << 10

// Parse reads a record. What is no record is an error that wraps driver.ErrInvalid: it must not
// be treated as if there were none.
func Parse(key string, value []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(value, &r); err != nil {
		return Record{}, fmt.Errorf("claim: record %s cannot be read: %w: %w", key, driver.ErrInvalid, err)
	}
	switch r.State {
	case Free, Running, Done, Failed, Interrupted:
		return r, nil
	}
	return Record{}, fmt.Errorf("claim: record %s: state %q: %w: not known to this version", key, r.State, driver.ErrInvalid)
}

// encode is the JSON of r. It cannot fail but for Data that is no JSON, which is the caller's
// mistake.
func (r Record) encode() ([]byte, error) {
	r.Error = Cut(r.Error, maxError)
	return json.Marshal(r)
}

// Cut returns the first bytes of text, size at most, and no part of a character.
func Cut(text string, size int) string {
	if len(text) <= size {
		return text
	}
	return strings.ToValidUTF8(text[:size], "")
}
