package main

import (
	"cmp"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// beatsArgument makes the test binary be a command that writes when it runs.
const beatsArgument = "test-beats"

// beats adds a line to the file when it starts, every few milliseconds, and when it is asked to
// end: the term, when this run started and the time, on the boot clock, and what it is.
func beats(path string) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	began := clock.Now()
	write := func(what string) {
		fmt.Fprintf(file, "%s %d %d %s\n", os.Getenv("MUSTER_RUN_TERM"), began, clock.Now(), what)
	}
	write("start")
	for {
		select {
		case <-asked:
			write("end")
			os.Exit(0)
		case <-time.After(3 * time.Millisecond):
			write("beat")
		}
	}
}

// beatsRun is one run of a command, as it has written it.
type beatsRun struct {
	term        uint64
	began, last clock.Instant
	ended       bool // in good order
}

// readBeats returns the runs in the order of their starts.
func readBeats(t testing.TB, path string) []beatsRun {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	runs := make(map[int64]*beatsRun)
	for line := range strings.Lines(string(text)) {
		var term uint64
		var began, at int64
		var what string
		if _, err := fmt.Sscan(line, &term, &began, &at, &what); err != nil {
			continue // the last line of one that was killed
		}
		r := runs[began]
		if r == nil {
			r = &beatsRun{term: term, began: clock.Instant(began)}
			runs[began] = r
		}
		r.last, r.ended = max(r.last, clock.Instant(at)), r.ended || what == "end"
	}
	var sorted []beatsRun
	for _, r := range runs {
		sorted = append(sorted, *r)
	}
	slices.SortFunc(sorted, func(a, b beatsRun) int { return cmp.Compare(a.began, b.began) })
	return sorted
}
