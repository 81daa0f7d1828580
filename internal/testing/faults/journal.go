package faults

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
)

// journal is what was done to a cluster, and when: for people, and for the checker.
type journal struct {
	began int64

	mu     sync.Mutex
	events []string
	counts map[string]int  // faults by kind
	cuts   []checker.Fault // of hosts from each other and from the store, which cutsEnd ends
	stalls []checker.Fault
	outs   []checker.Fault // of the store
	// forgotten is when the records of the cluster were wiped or restored.
	forgotten []int64
}

func newJournal() *journal { return &journal{began: now(), counts: make(map[string]int)} }

// logf notes what was done.
func (j *journal) logf(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	at := now()
	j.events = append(j.events, fmt.Sprintf("%8.3f  %.6f  %s", time.Duration(at-j.began).Seconds(), time.Duration(at).Seconds(), fmt.Sprintf(format, args...)))
}

// text is all that was noted, a line for each.
func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.events, "\n")
}

// inject counts a fault of the kind.
func (j *journal) inject(kind string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counts[kind]++
}

// cut notes a cut that is in force from now on.
func (j *journal) cut(f checker.Fault) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f.Begin = now()
	j.cuts = append(j.cuts, f)
}

// cutsEnd ends all cuts, before they do: hosts hear each other at the latest from here on.
func (j *journal) cutsEnd() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.cuts {
		if j.cuts[i].End == 0 {
			j.cuts[i].End = now()
		}
	}
}

// stall notes that the machine stood still until a moment.
func (j *journal) stall(until int64, by time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stalls = append(j.stalls, checker.Fault{Kind: checker.Stall, Begin: until - int64(by), End: until})
}

// storeOut notes that no server of the store takes a write from a moment on.
func (j *journal) storeOut(since int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.outs = append(j.outs, checker.Fault{Kind: checker.StoreOut, Begin: since})
}

// storeBack ends what storeOut has noted.
func (j *journal) storeBack() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.outs[len(j.outs)-1].End = now()
}

// forgets has the checker know that the records of before are gone.
func (j *journal) forgets() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forgotten = append(j.forgotten, now())
}

// lastForgotten is when the records were last gone, 0 if they never were.
func (j *journal) lastForgotten() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.forgotten); n > 0 {
		return j.forgotten[n-1]
	}
	return 0
}

// faults returns what the checker is to know.
func (j *journal) faults() (all []checker.Fault, forgotten []int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Concat(j.cuts, j.stalls, j.outs), slices.Clone(j.forgotten)
}
