// Package history is the record that a node keeps of itself: what became of its
// mastership, and each view of the cluster, as lines of JSON that are stamped with
// the boot clock. The histories of all nodes of a host can be laid side by side,
// as that clock is one for all its processes: see what was true on one node while
// another took itself for the master. Those of several hosts are tied together by what
// their nodes heard from each other: see package check, which `muster history` runs.
//
// `muster agent --history FILE` writes it; a program that embeds a node sets
// node.Config.History.
//
// # Layout
//
// Each line is one [Record], written by one write. Lines are only ever added, and
// fields are only ever added to a line; readers ignore those that they do not know.
// A line of a later [Version] is one that this package cannot read.
//
//	{"v":1,"n":17,"t_boot_ns":81325001234567,"clock":"c0…","time":"2026-11-30T03:14:07.412Z","kind":"active","node_id":"a","instance_id":"5f…","term":3,"cluster_id":"9c…","deadline_ns":81329751234567}
//
// # What it promises
//
// The beginning of a mastership is on record before any caller learns that this node
// is master, and a renewal before its deadline counts; the end after everybody was
// told. So what is on record spans all that can have been done in a term. A process
// that is killed leaves no end: its mastership was over at its death, or at the last
// deadline on record.
//
// It does not promise to be there: a record that cannot be written is dropped, and
// [Writer.Err] says so. Nor does it outlive the machine, as nothing is synced.
package history

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// Version is that of the layout.
const Version = 1

// Kind says what a Record tells.
type Kind string

// The kinds of records.
const (
	// Start: the node has started. Cluster and Addr are set.
	Start Kind = "start"
	// Active: the node is master from now on, until DeadlineNS at first.
	Active Kind = "active"
	// Renewed: the mastership goes on until DeadlineNS. SentNS is when the call was
	// sent that it is counted from.
	Renewed Kind = "renewed"
	// Ended: the node is master no longer, and was none after UntilNS. Reason says
	// why.
	Ended Kind = "ended"
	// View: the cluster as the node sees it now.
	View Kind = "view"
	// Heard: the master has announced itself, and its announcement brought a reading of its
	// clock, which is another than this node's. Peer is that reading, and was taken before
	// this record. One in ten seconds is recorded.
	Heard Kind = "heard"
	// Leaving: the node was asked to leave, or ends by itself.
	Leaving Kind = "leaving"
	// Stop: the node has ended.
	Stop Kind = "stop"
)

// Record is one line. Times are nanoseconds of the boot clock.
type Record struct {
	Version int `json:"v"`
	// N counts the records of an instance from 1, those that could not be written included: where
	// one is missing, so is its number.
	N uint64 `json:"n,omitempty"`
	// BootNS is when it happened.
	BootNS int64 `json:"t_boot_ns"`
	// Clock names the boot clock. Times of different clocks cannot be compared. Empty if it is not
	// known: then it is this instance's alone.
	Clock string `json:"clock,omitempty"`
	// Time is what the wall clock showed when the record was written. It is for people: nothing
	// follows from it.
	Time       time.Time `json:"time,omitzero"`
	Kind       Kind      `json:"kind"`
	NodeID     string    `json:"node_id"`
	InstanceID string    `json:"instance_id"`

	// Of Start.
	Cluster string `json:"cluster,omitempty"`
	Addr    string `json:"addr,omitempty"`

	// Of Active, Renewed and Ended. Heard has the term, and the id of the cluster.
	Term       uint64 `json:"term,omitempty"`
	ClusterID  string `json:"cluster_id,omitempty"`
	SentNS     int64  `json:"sent_ns,omitempty"`
	DeadlineNS int64  `json:"deadline_ns,omitempty"`
	UntilNS    int64  `json:"until_ns,omitempty"`
	Reason     string `json:"reason,omitempty"`

	// Of View: the cluster, and what has happened since the view before, members first.
	View   *ViewState `json:"view,omitempty"`
	Events []Event    `json:"events,omitempty"`

	// Of Heard.
	Peer *Reading `json:"peer,omitempty"`
}

// Reading is one of the clock of another node.
type Reading struct {
	NodeID     string `json:"node_id"`
	InstanceID string `json:"instance_id"`
	Clock      string `json:"clock"`
	BootNS     int64  `json:"t_boot_ns"`
}

// Event is one difference between two successive views of a node.
type Event struct {
	// Kind is member_joined, member_updated, member_left, member_failed, cluster_formed,
	// quorum_changed, master_changed or master_lost.
	Kind string `json:"kind"`
	// NodeID and InstanceID are those of the member, of the new master, or of the one
	// that was lost, which was master in Term.
	NodeID     string `json:"node_id,omitempty"`
	InstanceID string `json:"instance_id,omitempty"`
	Term       uint64 `json:"term,omitempty"`
	// Changed names what a member that was updated says otherwise.
	Changed []string `json:"changed,omitempty"`
}

// ViewState is the cluster as one node sees it.
type ViewState struct {
	// Seq counts the views of this node.
	Seq uint64 `json:"seq"`
	// Term is the highest that the node has learned of.
	Term      uint64 `json:"term"`
	ClusterID string `json:"cluster_id"`
	// Majority says whether the node sees a majority of the expected members.
	Majority bool `json:"majority"`
	// Master is missing while none is known.
	Master  *Master  `json:"master,omitempty"`
	Members []Member `json:"members"`
}

// Master is the node that this one treats as the master.
type Master struct {
	NodeID     string `json:"node_id"`
	InstanceID string `json:"instance_id"`
	Term       uint64 `json:"term"`
}

// Member is a live member.
type Member struct {
	NodeID     string `json:"node_id"`
	InstanceID string `json:"instance_id"`
	Addr       string `json:"addr"`
}

// Writer writes records. Its methods are safe for concurrent use, and those of a nil
// Writer do nothing.
type Writer struct {
	nodeID, instanceID, clock string

	mu   sync.Mutex
	w    io.Writer
	n    uint64 // records so far
	torn bool   // the last write may have left part of a line
	err  error
}

// NewWriter returns a Writer to w of the records of one instance, whose times are readings of
// the boot clock of that name. The caller owns w, and sees to it that a write does not block for
// long: the election waits for it.
func NewWriter(w io.Writer, nodeID, instanceID, clock string) *Writer {
	return &Writer{w: w, nodeID: nodeID, instanceID: instanceID, clock: clock}
}

// Write adds a line. Version, number, clock and the ids of the instance are filled in. The error
// says why this record is missing.
func (w *Writer) Write(r Record) error {
	if w == nil {
		return nil
	}
	r.Version, r.NodeID, r.InstanceID, r.Clock = Version, w.nodeID, w.instanceID, w.clock
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	r.N = w.n
	line, err := json.Marshal(r)
	line = append(line, '\n')
	if err == nil {
		if w.torn {
			line = append([]byte{'\n'}, line...)
		}
		_, err = w.w.Write(line)
		w.torn = err != nil
	}
	if w.err == nil {
		w.err = err
	}
	return err
}

// Err returns why the first record that is missing could not be written, and nil
// where all are there.
func (w *Writer) Err() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
