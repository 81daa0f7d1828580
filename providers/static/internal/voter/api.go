package voter

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

const (
	// voterProtocol is the protocol of requests between nodes, whether they vote or not: JSON over
	// HTTP.
	voterProtocol = "voters"

	// PathStatus is the path at which a node reports its Status.
	PathStatus = "/v1/status"

	clusterHeader = "Muster-Cluster"

	// A record in base64, its key, and all else.
	maxBody = 2*driver.MaxRecordSize + 64<<10
	// A list of records has no bound of its own.
	maxReply = 256 << 20
)

// Phase says how far a voter has come.
type Phase string

const (
	// phaseObserver: not in its own list, and no part of Raft.
	phaseObserver Phase = "observer"
	// PhaseEmpty: nothing on disk.
	PhaseEmpty Phase = "empty"
	// phaseFresh: bootstrapped, and not yet part of any election.
	phaseFresh Phase = "fresh"
	// phaseEstablished: has state that must not be lost.
	phaseEstablished Phase = "established"
)

// Status is what a node says of itself to anyone who asks.
type Status struct {
	// Addr is its entry in the list, or its own address.
	Addr  string `json:"addr"`
	Phase Phase  `json:"phase"`
	// ID is the id under which it takes Raft's requests, once it does.
	ID string `json:"id,omitempty"`
	// Founding is that of its log, or of the cluster that it waits to be taken in by.
	Founding string `json:"founding,omitempty"`
	// Voters is the list that it was given, sorted.
	Voters []string `json:"voters"`

	// RaftTerm, Leader and Servers are its view of Raft.
	RaftTerm uint64   `json:"raft_term,omitempty"`
	Leader   string   `json:"leader,omitempty"`
	Servers  []string `json:"servers,omitempty"`

	// LastIndex is the last entry of its log.
	LastIndex uint64 `json:"last_index,omitempty"`

	// Term, ClusterID and Holder are its view of mastership, of which the first two are
	// what its directory proves while it knows of no leader.
	Term      driver.Term    `json:"term,omitempty"`
	ClusterID string         `json:"cluster_id,omitempty"`
	Holder    *driver.Holder `json:"holder,omitempty"`
}

// wireError carries the kind of an error across.
type wireError struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

var ErrNotLeader = fmt.Errorf("%w: not the leader of the voters", driver.ErrUnavailable)

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
		{"not_leader", ErrNotLeader},
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

// peerClient is the asking end.
type peerClient struct {
	cluster string
	http    *http.Client
}

func newPeerClient(cluster string, network driver.Network) *peerClient {
	return &peerClient{cluster: cluster, http: &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				return network.Dial(ctx, voterProtocol, addr)
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
func (c *peerClient) call(ctx context.Context, addr, path string, in, out any) error {
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

func (c *peerClient) close() { c.http.CloseIdleConnections() }

// newServer returns the answering end.
func (v *Voter) newServer(h Hooks) *http.Server {
	mux := http.NewServeMux()
	Handle(mux, v.cfg.Cluster, PathStatus, func(context.Context, struct{}) (Status, error) { return v.Status(), nil })
	h.Handle(mux)
	return &http.Server{
		Handler:           mux,
		BaseContext:       func(net.Listener) context.Context { return v.tasks.ctx },
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute, // longer than any caller waits
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          log.New(slogWriter{v.cfg.Logger}, "", 0),
	}
}

func Handle[In, Out any](mux *http.ServeMux, cluster, path string, f func(context.Context, In) (Out, error)) {
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
