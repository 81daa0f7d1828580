package quorum

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// The small talk between voters, and from those that are none: JSON over HTTP on
// the protocol "voters" of the one port.

const (
	talkProtocol = "voters"

	pathStatus = "/v1/status"
	pathLead   = "/v1/lead"
	pathStore  = "/v1/store"

	clusterHeader = "Muster-Cluster"

	// A record in base64, its key, and all else.
	maxBody = 2*driver.MaxRecordSize + 64<<10
	// A list of records has no bound of its own.
	maxReply = 256 << 20
)

// phase says how far a voter has come.
type phase string

const (
	// phaseObserver: not in its own list, and no part of Raft.
	phaseObserver phase = "observer"
	// phaseEmpty: nothing on disk.
	phaseEmpty phase = "empty"
	// phaseFresh: bootstrapped, and not yet part of any election.
	phaseFresh phase = "fresh"
	// phaseEstablished: has state that must not be lost.
	phaseEstablished phase = "established"
)

// status is what a node says of itself to anyone who asks.
type status struct {
	// Addr is its entry in the list, or its own address.
	Addr  string `json:"addr"`
	Phase phase  `json:"phase"`
	// ID is the id under which it takes Raft's requests, once it does.
	ID string `json:"id,omitempty"`
	// Voters is the list that it was given, sorted.
	Voters []string `json:"voters"`

	// RaftTerm, Leader and Servers are its view of Raft.
	RaftTerm uint64   `json:"raft_term,omitempty"`
	Leader   string   `json:"leader,omitempty"`
	Servers  []string `json:"servers,omitempty"`

	// Term, ClusterID and Holder are its view of mastership.
	Term      driver.Term    `json:"term,omitempty"`
	ClusterID string         `json:"cluster_id,omitempty"`
	Holder    *driver.Holder `json:"holder,omitempty"`
}

// promiseRequest asks a voter not to vote for a higher Raft term for a while.
type promiseRequest struct {
	// To is the server that is asked: what the voter that was lost would have
	// promised, the one in its place does not.
	To       string `json:"to"`
	Leader   string `json:"leader"`
	Start    string `json:"start"`
	RaftTerm uint64 `json:"raft_term"`
	Round    uint64 `json:"round"`
	// For is how long. 0 only asks whether RaftTerm is still the voter's.
	For time.Duration `json:"for_ns"`
	// Withdraw ends the promise instead, since Released was given back.
	Withdraw bool        `json:"withdraw,omitempty"`
	Released driver.Term `json:"released,omitempty"`
}

type promiseReply struct {
	// Round is that of the request.
	Round uint64 `json:"round"`
	Given bool   `json:"given"`
	// For is how long, counted from some moment after the request was sent.
	For time.Duration `json:"for_ns,omitempty"`
}

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

// wireError carries the kind of an error across.
type wireError struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

var errNotLeader = fmt.Errorf("%w: not the leader of the voters", driver.ErrUnavailable)

// kinds are the errors that keep their identity on the wire, the special before
// the general.
func kinds() []struct {
	name string
	err  error
} {
	return []struct {
		name string
		err  error
	}{
		{"cluster_mismatch", driver.ErrClusterMismatch},
		{"conflict", driver.ErrConflict},
		{"not_found", driver.ErrNotFound},
		{"denied", driver.ErrDenied},
		{"invalid", driver.ErrInvalid},
		{"not_leader", errNotLeader},
		{"unavailable", driver.ErrUnavailable},
	}
}

// remoteError is an error that another voter returned.
type remoteError struct {
	kind    error
	message string
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.kind }

func toWire(err error) wireError {
	for _, k := range kinds() {
		if errors.Is(err, k.err) {
			return wireError{k.name, err.Error()}
		}
	}
	return wireError{"unavailable", err.Error()}
}

func fromWire(w wireError) error {
	for _, k := range kinds() {
		if k.name == w.Kind {
			return &remoteError{k.err, w.Message}
		}
	}
	return &remoteError{driver.ErrUnavailable, w.Message}
}

// caller is the asking end.
type caller struct {
	cluster string
	http    *http.Client
}

func newCaller(cluster string, network driver.Network) *caller {
	return &caller{cluster: cluster, http: &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				return network.Dial(ctx, talkProtocol, addr)
			},
			MaxIdleConnsPerHost: 4,
			MaxConnsPerHost:     16,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		},
	}}
}

// call makes one request. The error says ErrUnavailable if it may or may not have
// been carried out.
func (c *caller) call(ctx context.Context, addr, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: voter %s: %v", driver.ErrInvalid, addr, err)
	}
	req.Header.Set(clusterHeader, c.cluster)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: voter %s: %w", driver.ErrUnavailable, addr, err)
	}
	defer resp.Body.Close()
	// Read to the end, so that the connection can be used again.
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return fmt.Errorf("%w: voter %s: %w", driver.ErrUnavailable, addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		var w wireError
		if json.Unmarshal(reply, &w) != nil {
			w.Message = resp.Status
		}
		w.Message = "voter " + addr + ": " + w.Message
		return fromWire(w)
	}
	if err := json.Unmarshal(reply, out); err != nil {
		return fmt.Errorf("%w: voter %s: %w", driver.ErrUnavailable, addr, err)
	}
	return nil
}

func (c *caller) close() { c.http.CloseIdleConnections() }

// newServer returns the answering end.
func newServer(ctx context.Context, a *Authority) *http.Server {
	mux := http.NewServeMux()
	handle(mux, a.cfg.Cluster, pathStatus, func(context.Context, struct{}) (status, error) { return a.status(), nil })
	handle(mux, a.cfg.Cluster, pathLead, a.answerLead)
	handle(mux, a.cfg.Cluster, pathStore, a.answerStore)
	return &http.Server{
		Handler:           mux,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute, // longer than any caller waits
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          log.New(slogWriter{a.cfg.Logger}, "", 0),
	}
}

func handle[In, Out any](mux *http.ServeMux, cluster, path string, f func(context.Context, In) (Out, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		out, err := func() (out Out, err error) {
			if other := r.Header.Get(clusterHeader); other != cluster {
				return out, fmt.Errorf("%w: this is a voter of cluster %q and not of %q", driver.ErrInvalid, cluster, other)
			}
			var in In
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil {
				return out, fmt.Errorf("%w: request: %v", driver.ErrInvalid, err)
			}
			return f(r.Context(), in)
		}()
		w.Header().Set("Content-Type", "application/json")
		var reply any = out
		if err != nil {
			w.WriteHeader(http.StatusConflict)
			reply = toWire(err)
		}
		_ = json.NewEncoder(w).Encode(reply)
	})
}

// slogWriter takes the lines of net/http's own logger.
type slogWriter struct{ to *slog.Logger }

func (w slogWriter) Write(p []byte) (int, error) {
	w.to.Debug("voters: http", "message", string(bytes.TrimSpace(p)))
	return len(p), nil
}
