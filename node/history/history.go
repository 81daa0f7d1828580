// Package history is the record that a node keeps of itself: what became of its
// mastership, and each view of the cluster, as lines of JSON that are stamped with
// the boot clock. The histories of all nodes of a host can be laid side by side,
// as that clock is one for all its processes: see what was true on one node while
// another took itself for the master.
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
//	{"v":1,"t_boot_ns":81325001234567,"kind":"active","node_id":"a","instance_id":"5f…","term":3,"cluster_id":"9c…","deadline_ns":81329751234567}
//
// # What it promises
//
// The beginning of a mastership is on record before anybody is told that this node
// is master, and a renewal before its deadline counts; the end after everybody was
// told. So what is on record spans all that can have been done in a term. A process
// that is killed leaves no end: its mastership was over at its death, or at the last
// deadline on record.
//
// It does not promise to be there: a record that cannot be written is dropped, and
// [Writer.Err] says so. Nor does it outlive the machine, as nothing is synced.
package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
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
	// Leaving: the node was asked to leave, or ends by itself.
	Leaving Kind = "leaving"
	// Stop: the node has ended.
	Stop Kind = "stop"
)

// Record is one line. Times are nanoseconds of the boot clock.
type Record struct {
	Version int `json:"v"`
	// BootNS is when it happened.
	BootNS     int64  `json:"t_boot_ns"`
	Kind       Kind   `json:"kind"`
	NodeID     string `json:"node_id"`
	InstanceID string `json:"instance_id"`

	// Of Start.
	Cluster string `json:"cluster,omitempty"`
	Addr    string `json:"addr,omitempty"`

	// Of Active, Renewed and Ended.
	Term       uint64 `json:"term,omitempty"`
	ClusterID  string `json:"cluster_id,omitempty"`
	SentNS     int64  `json:"sent_ns,omitempty"`
	DeadlineNS int64  `json:"deadline_ns,omitempty"`
	UntilNS    int64  `json:"until_ns,omitempty"`
	Reason     string `json:"reason,omitempty"`

	View *ViewState `json:"view,omitempty"`
}

// ViewState is the cluster as one node sees it.
type ViewState struct {
	// Seq counts the views of this node.
	Seq uint64 `json:"seq"`
	// Term is the highest that the node has heard of.
	Term      uint64 `json:"term"`
	ClusterID string `json:"cluster_id"`
	// Majority says whether the node sees a majority of the expected members.
	Majority bool `json:"majority"`
	// Master is missing while none is known.
	Master  *Master  `json:"master,omitempty"`
	Members []Member `json:"members"`
}

// Master is whom the node takes for the master.
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
	nodeID, instanceID string

	mu   sync.Mutex
	w    io.Writer
	torn bool // the last write may have left part of a line
	err  error
}

// NewWriter returns a Writer to w of the records of one instance. The caller owns w,
// and sees to it that a write does not block for long: the election waits for it.
func NewWriter(w io.Writer, nodeID, instanceID string) *Writer {
	return &Writer{w: w, nodeID: nodeID, instanceID: instanceID}
}

// Write adds a line. Version and the ids of the instance are filled in.
func (w *Writer) Write(r Record) {
	if w == nil {
		return
	}
	r.Version, r.NodeID, r.InstanceID = Version, w.nodeID, w.instanceID
	line, err := json.Marshal(r)
	line = append(line, '\n')
	w.mu.Lock()
	defer w.mu.Unlock()
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

// maxLine bounds a line: a view of some thousand members.
const maxLine = 4 << 20

// Read reads all records. Of a line that a full disk or the end of the process has
// torn nothing is left; the error names each line that is neither a record nor the
// torn beginning of one, and the other records are returned nevertheless.
func Read(r io.Reader) ([]Record, error) {
	var records []Record
	var errs []error
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var record Record
		err := json.Unmarshal(line, &record)
		switch {
		case err != nil && line[0] == '{' && line[len(line)-1] != '}':
			continue // torn
		case err != nil:
			errs = append(errs, fmt.Errorf("line %d: no record of a history: %w", n, err))
		case record.Version != Version:
			errs = append(errs, fmt.Errorf("line %d: version %d of the layout; this is version %d", n, record.Version, Version))
		default:
			records = append(records, record)
		}
	}
	return records, errors.Join(append(errs, lines.Err())...)
}
