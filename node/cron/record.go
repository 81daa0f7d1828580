package cron

import (
	"bytes"
	"cmp"
	"compress/flate"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/internal/claim"
)

const (
	// maxHistory is how many runs are kept, the last one among them.
	maxHistory = 20
	// maxText bounds each text of those before, and of what else is recorded.
	maxText = 256
	// maxSchedule bounds the text of a schedule.
	maxSchedule = 1 << 10
	// maxData is how many bytes all that may have: beyond, what a store has made of it is dropped.
	maxData = 128 << 10
)

// runData is what a job keeps in the record of its claim.
type runData struct {
	// Since is when the job was first seen with this schedule, whose text is Schedule, and with
	// this edit: when it was made, by a clock that may be wrong.
	Since    time.Time `json:"since"`
	Schedule string    `json:"schedule"`
	Edited   time.Time `json:"edited,omitzero"`
	// Last is the latest scheduled time that was claimed, runs that were triggered apart.
	Last time.Time `json:"last,omitzero"`
	// Trigger is the ID of the last one that was run.
	Trigger string `json:"trigger,omitempty"`
	// Seq and Triggered are about the run that the claim is for.
	Seq       uint64      `json:"seq,omitempty"`
	Triggered bool        `json:"triggered,omitempty"`
	History   []RunStatus `json:"history,omitempty"`
}

func dataOf(c claim.Record) runData {
	var d runData
	_ = json.Unmarshal(c.Data, &d) // what cannot be read is none
	return d
}

func (d runData) encode() json.RawMessage {
	raw, err := json.Marshal(d)
	if len(raw) > maxData {
		d.History = nil
		d.Schedule, d.Trigger = claim.Cut(d.Schedule, maxSchedule), claim.Cut(d.Trigger, maxText)
		raw, err = json.Marshal(d)
	}
	if err != nil {
		return nil // no value of these types fails, but a time out of bounds
	}
	return raw
}

// knows reports whether Since is that of the schedule and the edit.
func (d runData) knows(schedule string, edited time.Time) bool {
	return d.Schedule == schedule && d.Edited.Equal(edited)
}

// count has the job count from now on, or from the edit if it was made before. One of a job of the
// program is not when its schedule was changed.
func (d *runData) count(schedule string, edited time.Time, added bool, now time.Time) {
	since := now
	if !edited.IsZero() && (added || d.Schedule == schedule) {
		since = earlier(edited, now)
	}
	if !d.Since.After(now) {
		since = later(since, d.Since)
	}
	d.Since, d.Schedule, d.Edited = since, schedule, edited
}

// with returns the history with the run of the claim before it.
func (d runData) with(c claim.Record) []RunStatus {
	if c.What == "" || c.State == claim.Free {
		return d.History
	}
	run := RunStatus{
		Scheduled: parseWhat(c.What), State: RunState(c.State), Began: c.Claimed, Ended: c.Ended,
		NodeID: claim.Cut(c.NodeID, maxText), InstanceID: claim.Cut(c.InstanceID, maxText),
		Term: c.Term, Error: claim.Cut(c.Error, maxText),
		Triggered: d.Triggered, Seq: d.Seq,
	}
	all := append([]RunStatus{run}, d.History...)
	return all[:min(len(all), maxHistory)]
}

// whatLayout is fixed in width, so that texts are in the order of their times.
const whatLayout = "2006-01-02T15:04:05.000000000Z"

func formatWhat(t time.Time) string { return t.UTC().Format(whatLayout) }

// parseWhat is the zero time for what is none.
func parseWhat(s string) time.Time {
	t, err := time.Parse(whatLayout, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// tooFar is how far ahead of the clock nothing is believed that is recorded.
const tooFar = 24 * time.Hour

// compareAt orders scheduled times. One that is too far ahead of now, of a node whose clock was
// wrong, and what is none, comes before all others.
func compareAt(now time.Time) func(a, b string) int {
	limit := now.Add(tooFar)
	credible := func(s string) string {
		if t := parseWhat(s); t.IsZero() || t.After(limit) {
			return ""
		}
		return s
	}
	return func(a, b string) int { return cmp.Compare(credible(a), credible(b)) }
}

func sorted(jobs map[string]JobStatus) []JobStatus {
	return slices.SortedFunc(maps.Values(jobs), func(a, b JobStatus) int { return strings.Compare(a.Name, b.Name) })
}

const (
	// MaxOutput is how many bytes of the output of a run are kept: the last ones.
	MaxOutput = 64 << 10
	// outputSlots is of how many runs it is kept.
	outputSlots = 8
)

func outputKey(name string, slot int) string { return outputPrefix + name + "/" + strconv.Itoa(slot) }

// output is the value of a slot. Exactly one of the two has what was written.
type output struct {
	Seq  uint64 `json:"seq"`
	Text []byte `json:"text,omitempty"`
	// Deflated is the same, by RFC 1951, where that is shorter.
	Deflated []byte `json:"deflated,omitempty"`
}

// Output returns what a run has written, by RunStatus.Seq. The error wraps discovery.ErrNotFound
// if it has written nothing, or that is not kept any more: it is for the last eight runs.
func Output(ctx context.Context, s Store, name string, seq uint64) ([]byte, error) {
	r, err := s.Get(ctx, outputKey(name, int(seq%outputSlots)))
	if err != nil {
		return nil, err
	}
	var o output
	if json.Unmarshal(r.Value, &o) != nil || o.Seq != seq {
		return nil, fmt.Errorf("cron: job %q: the output of run %d: %w", name, seq, driver.ErrNotFound)
	}
	if o.Deflated == nil {
		return o.Text, nil
	}
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(o.Deflated)), MaxOutput))
	if err != nil {
		return nil, fmt.Errorf("cron: job %q: the output of run %d cannot be read: %w: %w", name, seq, driver.ErrInvalid, err)
	}
	return text, nil
}

func writeOutput(ctx context.Context, s Store, name string, seq uint64, text []byte) error {
	o := output{Seq: seq, Text: text}
	if short := deflate(text); len(short) < len(text) {
		o.Text, o.Deflated = nil, short
	}
	value, err := json.Marshal(o)
	if err != nil {
		return err
	}
	key := outputKey(name, int(seq%outputSlots))
	r, err := s.Get(ctx, key)
	if err != nil && !errors.Is(err, driver.ErrNotFound) {
		return err
	}
	_, err = s.Set(ctx, key, value, r.Revision)
	return err
}

func deflate(text []byte) []byte {
	var short bytes.Buffer
	w, err := flate.NewWriter(&short, flate.DefaultCompression)
	if err != nil {
		return text // it never fails with this level, nor does a write to a buffer
	}
	_, _ = w.Write(text)
	_ = w.Close()
	return short.Bytes()
}

// tail keeps the last MaxOutput bytes. Any number of goroutines may write.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

func (o *tail) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, p[max(0, len(p)-MaxOutput):]...)
	if len(o.kept) > 2*MaxOutput {
		o.kept = slices.Clone(o.kept[len(o.kept)-MaxOutput:])
	}
	return len(p), nil
}

func (o *tail) text() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.kept[max(0, len(o.kept)-MaxOutput):])
}
