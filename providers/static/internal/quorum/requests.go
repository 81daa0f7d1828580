package quorum

import (
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// The paths of requests to the leader.
const (
	pathLead  = "/v1/lead"
	pathStore = "/v1/store"
)

// leadRequest asks the leader to let From lead, who wants to be master.
type leadRequest struct {
	From string `json:"from"`
}

type leadReply struct {
	// Yielded says that From leads now, or soon will.
	Yielded bool `json:"yielded"`
	// RetryAfter is when it makes sense to ask again, if that is known.
	RetryAfter time.Duration `json:"retry_after_ns,omitempty"`
	// Reason says why not.
	Reason string `json:"reason,omitempty"`
}

// storeRequest is one operation of driver.Store.
type storeRequest struct {
	Op    string          `json:"op"`
	Key   string          `json:"key"`
	Value []byte          `json:"value,omitempty"`
	Prev  driver.Revision `json:"prev,omitempty"`
}

type storeReply struct {
	Records  []storeRecord   `json:"records,omitempty"`
	Revision driver.Revision `json:"revision,omitempty"`
}

type storeRecord struct {
	Key      string          `json:"key"`
	Value    []byte          `json:"value"`
	Revision driver.Revision `json:"revision"`
}
