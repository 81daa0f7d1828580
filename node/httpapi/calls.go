package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/routes"
)

// Call is a call that a client has the agent make: PathCall with the parameters method, to and
// timeout, and the request as its body. The answer is an array of CallReply, also where the call
// has failed.
type Call struct {
	// Method is the name of a handler that is called with JSON, as orders.Count.
	Method string
	// Request is what the handler is given. Empty: null.
	Request json.RawMessage
	// To is CallMaster, CallAll, or the id of a node. Empty: CallMaster.
	To string
	// Timeout bounds all of it. 0: 5 s.
	Timeout time.Duration
}

// The values of Call.To that are no node.
const (
	CallMaster = "master"
	CallAll    = "all"
)

// CallReply is what became of a call to one member. It only gains fields.
type CallReply struct {
	// NodeID and InstanceID are the member that was called; missing if that is not known, as where
	// no master is.
	NodeID     string `json:"node_id,omitempty"`
	InstanceID string `json:"instance_id,omitempty"`
	// State is one of the constants below.
	State string `json:"state"`
	// Answer is that of the handler, and Error why there is none, with the code of gRPC.
	Answer json.RawMessage `json:"answer,omitempty"`
	Error  string          `json:"error,omitempty"`
	Code   string          `json:"code,omitempty"`
}

// The values of CallReply.State.
const (
	CallAnswered = "answered" // the handler has returned Answer
	CallFailed   = "failed"   // the handler has returned Error
	CallNotRun   = "not_run"  // no handler has seen the call, nor will
	CallUnknown  = "unknown"  // it may have run, or may run still
)

// The bounds of a call.
const (
	maxCallRequest     = 4 << 20
	maxCallTimeout     = time.Hour
	defaultCallTimeout = 5 * time.Second
)

// call makes a call. It ends when the client is gone: a call that is not waited for is cancelled.
func (s *server) call(w http.ResponseWriter, r *http.Request) {
	status, err := s.options.operable(r)
	if err == nil && s.options.Operator.Call == nil {
		status, err = http.StatusForbidden, errors.New("this program makes no calls; ask an agent")
	}
	if err != nil {
		routes.WriteError(w, status, err)
		return
	}
	q, err := callOf(w, r)
	if err != nil {
		routes.WriteError(w, http.StatusBadRequest, err)
		return
	}
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Time{}) // its end would end the context
	_ = conn.SetWriteDeadline(time.Now().Add(q.Timeout + writeTimeout))
	ctx, cancel := context.WithTimeout(r.Context(), q.Timeout)
	defer cancel()
	replies, err := s.options.Operator.Call(ctx, q)
	switch {
	case errors.Is(err, driver.ErrInvalid):
		routes.WriteError(w, http.StatusBadRequest, err)
	case err != nil:
		routes.WriteError(w, http.StatusServiceUnavailable, err)
	default:
		routes.WriteJSON(w, http.StatusOK, append([]CallReply{}, replies...))
	}
}

// callOf reads the call that a request wants.
func callOf(w http.ResponseWriter, r *http.Request) (Call, error) {
	query := r.URL.Query()
	q := Call{Method: query.Get("method"), To: query.Get("to"), Timeout: defaultCallTimeout}
	if q.To == "" {
		q.To = CallMaster
	}
	if text := query.Get("timeout"); text != "" {
		var err error
		if q.Timeout, err = time.ParseDuration(text); err != nil || q.Timeout <= 0 || q.Timeout > maxCallTimeout {
			return q, fmt.Errorf("timeout: %q: not how long a call may take; write a duration up to %v, as 10s", text, maxCallTimeout)
		}
	}
	if q.Method == "" {
		return q, errors.New(`method: "": missing; write the name of a handler, as orders.Count`)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallRequest))
	switch {
	case err != nil:
		return q, fmt.Errorf("the request of the call cannot be read: %w; it may have %d bytes", err, maxCallRequest)
	case len(body) == 0:
		body = []byte("null")
	case !json.Valid(body):
		return q, fmt.Errorf("the request of the call is not JSON; write it as {\"open\": true}, or leave it out for null")
	}
	q.Request = body
	return q, nil
}
