package casauthority

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// layout is the version of the record. A program that finds another one leaves it alone.
const layout = 1

// record is the JSON at the key of an election. It only gains fields.
type record struct {
	Version   int         `json:"version"`
	ClusterID string      `json:"cluster_id,omitempty"`
	Term      driver.Term `json:"term"`
	// Holder is who was granted Term, nil if that was released.
	Holder *driver.Holder `json:"holder,omitempty"`
	// Nonce is of one attempt alone: a grant, a release, or a placeholder of a record
	// that was gone.
	Nonce string `json:"nonce"`
	// TTL is fixed for the term, whatever its holder is configured to since.
	TTL      time.Duration `json:"ttl_ns,omitempty"`
	Renewals uint64        `json:"renewals,omitempty"`
	// Proof is random, and of one write of the holder alone: it did not exist before that
	// write was begun.
	Proof string `json:"proof,omitempty"`
	// Unknown says that what stood here before is not known: it may have had a holder.
	Unknown bool `json:"unknown,omitempty"`
	// Incarnation is the one in which the term was granted, if the store has one.
	Incarnation string `json:"incarnation,omitempty"`
}

func (r record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers alone
	}
	return b
}

// same reports whether nothing has happened between r and o: no grant, renewal or
// release.
func (r record) same(o record) bool {
	return r.Term == o.Term && r.Nonce == o.Nonce && r.Renewals == o.Renewals && r.Proof == o.Proof
}

// before reports whether o can only have been written after r was, so that r after o is
// a store that went back.
func (r record) before(o record) bool {
	return r.Term < o.Term || r.Term == o.Term && r.Nonce == o.Nonce && r.Renewals < o.Renewals
}

// bounds are those of a record that can be trusted.
type bounds struct{ min, max time.Duration }

// parse reads a record, or says why it cannot be used.
func (b bounds) parse(data []byte) (record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, err
	}
	switch {
	case r.Version != layout:
		return record{}, fmt.Errorf("version %d is not %d", r.Version, layout)
	case r.Nonce == "":
		return record{}, errors.New("no nonce")
	case r.Term > driver.MaxTerm:
		return record{}, fmt.Errorf("term %d is out of bounds", r.Term)
	case r.Renewals > maxRenewals:
		return record{}, fmt.Errorf("%d renewals are out of bounds", r.Renewals)
	case r.Holder == nil:
		return r, nil
	case r.Term == 0:
		return record{}, errors.New("a holder without a term")
	case r.Holder.InstanceID == "":
		return record{}, errors.New("a holder without an instance_id")
	case r.TTL < b.min || r.TTL > b.max:
		return record{}, fmt.Errorf("the ttl %v is out of bounds: %v to %v", r.TTL, b.min, b.max)
	}
	return r, nil
}

// maxRenewals is a renewal each nanosecond for 146 years.
const maxRenewals = 1 << 62
