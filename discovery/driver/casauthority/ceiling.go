package casauthority

import (
	"encoding/json"
	"time"
)

// ceiling is the JSON at a key beside the record: no grant was ever given a longer TTL. It
// is written before such a grant, and stays where the record is deleted.
type ceiling struct {
	Version int           `json:"version"`
	TTL     time.Duration `json:"longest_ttl_ns"`
}

func (c ceiling) encode() []byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // numbers alone
	}
	return b
}

// ceiling reads one: 0 if there is none, and the longest TTL that is permitted where
// the value says nothing.
func (b bounds) ceiling(v Value) time.Duration {
	var c ceiling
	switch {
	case v.Revision == 0:
		return 0
	case json.Unmarshal(v.Data, &c) != nil || c.Version != layout || c.TTL < b.min || c.TTL > b.max:
		return b.max
	}
	return c.TTL
}
