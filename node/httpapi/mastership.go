package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/routes"
	"github.com/musterhq/muster/node/mastership"
)

// Mastership is the grant that the node of an agent uses: one answer of PathMastership, and the
// data of each event of PathMastership and PathHold, whose name is EventMastership.
//
// Who acts on the grant in another process counts its validity from a moment that is not after
// the answer was made: from BootNS, if its own boot clock has the id ClockID, and otherwise from
// before it sent the request whose answer this is; not from when an event arrived. A clock may run
// 1 % off the true rate in either direction: between two clocks, leave out 2 % of the validity.
type Mastership struct {
	NodeID     string `json:"node_id"`
	InstanceID string `json:"instance_id"`
	// State is follower, candidate, acquired, active or releasing. The node is master while it
	// is active, and ValidNS has not passed. While it is releasing, mastership is asked back:
	// the work is to end within DrainNS, and the grant is renewed until then.
	State string `json:"state"`
	// Term and ClusterID are those of the grant; missing if there is none.
	Term      uint64 `json:"term,omitempty"`
	ClusterID string `json:"cluster_id,omitempty"`
	// ValidNS is for how many nanoseconds more the grant is valid, if it is not renewed. It is
	// counted from before the last renewal was sent.
	ValidNS int64 `json:"valid_ns,omitempty"`
	// DrainNS is how many nanoseconds are left for the work to end, while releasing.
	DrainNS int64 `json:"drain_ns,omitempty"`
	// BootNS is when the answer was made, in nanoseconds on the boot clock of the agent, and
	// ClockID names that clock. It is missing on systems that do not name it.
	BootNS  int64  `json:"boot_ns"`
	ClockID string `json:"clock_id,omitempty"`
	// Hold names the stream of PathHold, for PathAlive and PathDone.
	Hold string `json:"hold,omitempty"`
}

// EventMastership is the name of the events of PathMastership and PathHold.
const EventMastership = "mastership"

// isMaster answers 200 if the node is master at this moment, and otherwise 503.
func (s *server) isMaster(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if _, err := s.node.Check(); err != nil {
		routes.WriteError(w, http.StatusServiceUnavailable, err)
		return
	}
	fmt.Fprintln(w, "ok")
}

// mastership streams the grant that the node uses, as server-sent events, or answers once where
// JSON is asked for.
func (s *server) mastership(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Header.Get("Accept"), "application/json") {
		for g := range s.node.Grants(r.Context()) {
			routes.WriteJSON(w, http.StatusOK, s.mastershipOf(g))
			return
		}
		routes.WriteError(w, http.StatusServiceUnavailable, errEnded)
		return
	}
	end, ok := s.startStream(w)
	if !ok {
		return
	}
	defer end()
	s.stream(w, r, messagesOf(r.Context(), s.node.Grants(r.Context()), func(g mastership.ActiveGrant) message {
		return message{EventMastership, func() any { return s.mastershipOf(g) }}
	}))
}

// mastershipOf is the answer at this moment. The clock is read first: what happens before it is
// written makes the validity seem shorter, not longer, to who counts from BootNS.
func (s *server) mastershipOf(g mastership.ActiveGrant) Mastership {
	now := time.Duration(clock.Now())
	m := Mastership{
		NodeID: s.node.ID(), InstanceID: s.node.InstanceID(), State: g.State.String(),
		Term: uint64(g.Term), ClusterID: g.ClusterID, BootNS: int64(now), ClockID: clock.ID(),
	}
	if g.Term > 0 {
		m.ValidNS = int64(max(g.Deadline-now, 0))
	}
	if g.DrainBy > 0 {
		m.DrainNS = int64(max(g.DrainBy-now, 0))
	}
	return m
}
