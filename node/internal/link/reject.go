package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/pki"
)

// Reason is why a connection was rejected. Its values are fit for the labels
// of a metric.
type Reason string

// The reasons.
const (
	// ReasonNoHello: it was closed before it said anything, as by a port scan or a
	// health check.
	ReasonNoHello Reason = "no_hello"
	// ReasonAborted: it was closed in the middle of the handshake.
	ReasonAborted Reason = "aborted"
	// ReasonTimeout: it did not finish the handshake in time.
	ReasonTimeout Reason = "handshake_timeout"
	// ReasonBusy: there were too many unfinished handshakes, or too many
	// connections that were not accepted yet.
	ReasonBusy Reason = "busy"
	// ReasonGarbage: it does not speak the protocol of Muster.
	ReasonGarbage Reason = "not_muster"
	// ReasonVersion: it speaks another version of it.
	ReasonVersion Reason = "wrong_version"
	// ReasonCluster: it belongs to another cluster.
	ReasonCluster Reason = "wrong_cluster"
	// ReasonClusterOrVersion: the same, as the dialling end of TLS sees it, which
	// is not told more.
	ReasonClusterOrVersion Reason = "wrong_cluster_or_version"
	// ReasonProtocol: there is no listener for what it asked for.
	ReasonProtocol Reason = "unknown_protocol"
	// ReasonPlain: it came without TLS to a link that demands it.
	ReasonPlain Reason = "tls_missing"
	// ReasonTLS: it came with TLS to a link that has none.
	ReasonTLS Reason = "tls_unexpected"
	// ReasonNoCertificate: it has no certificate.
	ReasonNoCertificate Reason = "no_certificate"
	// ReasonCertificate: its certificate is not valid or not of our authorities.
	ReasonCertificate Reason = "bad_certificate"
	// ReasonDistrust: it hung up because of our own certificate.
	ReasonDistrust Reason = "our_certificate_refused"
	// ReasonTLSFailed: the TLS handshake failed in another way, as with a client
	// that does not know TLS 1.3.
	ReasonTLSFailed Reason = "tls_failed"
	// ReasonInstance: it wants another instance than the one that answers.
	ReasonInstance Reason = "other_instance"
	// ReasonNodeID: its certificate does not name its node id.
	ReasonNodeID Reason = "node_id_not_certified"
	// ReasonFrame: it broke the format of gossip after the handshake.
	ReasonFrame Reason = "bad_frame"
)

// meaning is what a refused dial says to an operator, and how to fix it where that is
// known.
func (r Reason) meaning() (problem, hint string) {
	switch r {
	case ReasonBusy:
		return "it is busy", ""
	case ReasonGarbage:
		return "it answered, but not as a Muster node does", ""
	case ReasonVersion:
		return "it speaks another version of the link protocol", ""
	case ReasonCluster:
		return "it belongs to another cluster", ""
	case ReasonClusterOrVersion:
		return "it belongs to another cluster or speaks another version of the link protocol", ""
	case ReasonProtocol:
		return "it does not serve this protocol, or not yet", ""
	case ReasonPlain:
		return "it demands TLS", "configure tls on this node too"
	case ReasonTLS:
		return "it speaks no TLS", "configure tls on both nodes or on neither"
	case ReasonCertificate:
		return "its certificate is not accepted here", "have the certificates of both signed by tls.ca_file"
	case ReasonDistrust, ReasonNoCertificate:
		return "it does not accept our certificate", "have the certificates of both signed by the same authority"
	case ReasonInstance:
		return "the instance that is dialed has left", "take the member and its address from the view again"
	case ReasonNodeID:
		return "our certificate does not name our node id", "have it name node.id, as muster tls cert does, or turn tls.verify_node_id off there"
	case ReasonAborted, ReasonNoHello:
		return "it hung up without an answer, and may be busy, no Muster node, or set up differently for TLS", ""
	case ReasonTimeout:
		return "it took the connection and did not answer in time", ""
	}
	return "the handshake failed", ""
}

// level is Warn for what an operator has to fix. Nodes that start and stop cause the
// least of them: who is there first asks others for what they do not serve yet, and gives
// up in the middle what it does not need any more.
func (r Reason) level() slog.Level {
	switch r {
	case ReasonNoHello, ReasonProtocol, ReasonAborted, ReasonInstance:
		return slog.LevelDebug
	case ReasonTimeout:
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// lasting reports whether a dial that is refused for this reason goes on to be until an
// operator fixes it.
func (r Reason) lasting() bool { return r.level() == slog.LevelWarn && r != ReasonBusy }

// ErrLeft says that another process answers where an instance was dialed: the instance has left
// that address.
var ErrLeft = errors.New("the instance has left")

// errOtherNode is why this end rejects a node that it has dialed.
var errOtherNode = errors.New("the certificate of the other end does not name its node id")

// RefusedError is returned by Dial when someone answered at the address and the
// two ends did not come to terms.
type RefusedError struct {
	// Addr and Protocol are those of the dial.
	Addr, Protocol string
	// InstanceID is the one that was dialed, or its head. Empty: none was named.
	InstanceID string
	// Reason says why.
	Reason Reason
	// Peer is who answered. It is zero if that is not known.
	Peer Peer
	// Err is the cause, if there is more to know.
	Err error
}

func (e *RefusedError) Error() string {
	problem, hint := e.Meaning()
	text := fmt.Sprintf("link: dial %s for %q: %s", e.Addr, e.Protocol, problem)
	if hint != "" {
		text += "; " + hint
	}
	return text
}

// Hint says how to fix it. It is empty if that is not known.
func (e *RefusedError) Hint() string {
	_, hint := e.Meaning()
	return hint
}

// Meaning is what the refusal says to an operator, without the dial that it answers.
func (e *RefusedError) Meaning() (problem, hint string) {
	problem, hint = e.Reason.meaning()
	var name x509.HostnameError
	switch {
	case errors.As(e.Err, &name):
		problem, hint = e.wrongName(name)
	case e.Err == errOtherNode:
		problem = fmt.Sprintf("its certificate does not name its node id, %s", e.Peer.NodeID)
		hint = "have it name node.id, as muster tls cert does, or turn tls.verify_node_id off"
	case e.Reason == ReasonInstance:
		problem = fmt.Sprintf("instance %.12s has left: node %s answers there, instance %.12s", e.InstanceID, e.Peer.NodeID, e.Peer.InstanceID)
	case e.Err != nil:
		problem += ": " + e.Err.Error()
	}
	return problem, hint
}

// wrongName says which hosts a certificate is for, and which one was looked for in it.
func (e *RefusedError) wrongName(err x509.HostnameError) (problem, hint string) {
	asked := "tls.server_name"
	if dialledHost(e.Addr) == err.Host {
		asked = "the host that was dialled"
	}
	return fmt.Sprintf("its certificate is for %s, and not for %s, %s", pki.Hosts(err.Certificate), err.Host, asked),
		"have it issued for that as well, or set tls.server_name on all nodes to a name that all certificates carry"
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// Is reports whether target is ErrLeft and this is such an error.
func (e *RefusedError) Is(target error) bool { return target == ErrLeft && e.Reason == ReasonInstance }

// What an operator must know of. A peer that is no longer dialed is no longer refused.
var (
	dialRefused = alarm.Kind{Name: "dial_refused", Raised: "dial refused", Cleared: "dial no longer refused",
		Quiet: 2 * time.Minute, Repeat: time.Second}
	strangers = alarm.Kind{Name: "connection_rejected", Raised: "connection rejected", Cleared: "connections no longer rejected",
		Quiet: 2 * time.Minute}
	acceptFails = alarm.Kind{Name: "accept_fails", Raised: "connections not accepted", Cleared: "connections accepted again",
		Level: slog.LevelError}
)

// reportRefused reports a dial that came to nothing for good.
func (l *Link) reportRefused(e *RefusedError) {
	if e.Reason.lasting() {
		problem, hint := e.Meaning()
		attrs := []any{"reason", string(e.Reason), "error", problem}
		if hint != "" {
			attrs = append(attrs, "hint", hint)
		}
		l.alarms.Raise(dialRefused, e.Addr, attrs...)
	}
}

// logEvery is how often those of one reason are logged that need no attention.
const logEvery = time.Minute

// rejections counts the connections that were rejected, and logs them seldom.
type rejections struct {
	log    *slog.Logger
	alarms *alarm.Set

	mu     sync.Mutex
	counts map[Reason]uint64
	logged map[Reason]logMark
}

type logMark struct {
	at    time.Time
	count uint64
}

func (r *rejections) add(reason Reason, remote net.Addr, err error) {
	now := time.Now()
	r.mu.Lock()
	if r.counts == nil {
		r.counts = make(map[Reason]uint64)
		r.logged = make(map[Reason]logMark)
	}
	r.counts[reason]++
	count, last := r.counts[reason], r.logged[reason]
	quiet := !last.at.IsZero() && now.Sub(last.at) < logEvery
	if !quiet {
		r.logged[reason] = logMark{now, count}
	}
	r.mu.Unlock()
	attrs := []any{"remote", remote, "since_last_record", count - last.count}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	switch {
	case reason.level() == slog.LevelWarn:
		r.alarms.Raise(strangers, string(reason), attrs...)
	case !quiet:
		r.log.Log(context.Background(), reason.level(), "connection rejected", append([]any{"reason", string(reason)}, attrs...)...)
	}
}

func (r *rejections) snapshot() map[Reason]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[Reason]uint64, len(r.counts))
	maps.Copy(out, r.counts)
	return out
}
