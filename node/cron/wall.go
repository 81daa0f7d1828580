package cron

import (
	"sync"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// settleAfter is how long a wall clock that was set by more than a day has to go on from there
// before jobs run by it.
const settleAfter = 10 * time.Minute

// wall judges the wall clock by those that nobody sets: if it moves by more than a day beside them
// then it, or what it was before, is wrong. A host that was suspended is none.
type wall struct {
	mu      sync.Mutex
	trusted moment
	moved   *moment // where it has moved to, and is not trusted yet
	eras    int     // how often another one was trusted
}

// moment is one moment on all clocks.
type moment struct {
	wall time.Time
	mono time.Time     // the process's, which stands still while the host is suspended
	boot clock.Instant // the boot clock
}

func momentAt(now time.Time) moment { return moment{now.Round(0), time.Now(), clock.Now()} }

// age is how long ago m was.
func (m moment) age() time.Duration { return max(time.Since(m.mono), clock.Now().Sub(m.boot)) }

// holds reports whether the wall clock, which shows now, has gone on from m as the others have.
func (m moment) holds(now time.Time) bool {
	return (now.Round(0).Sub(m.wall) - m.age()).Abs() <= tooFar
}

func (w *wall) start(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trusted = momentAt(now)
}

func (w *wall) era() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.eras
}

// judge reports whether jobs may run by the clock, which shows now. The era changes where it counts
// from then on although it was set.
func (w *wall) judge(now time.Time) (era int, steady bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trusted.holds(now) {
		w.moved = nil
		return w.eras, true
	}
	if w.moved == nil || !w.moved.holds(now) {
		m := momentAt(now)
		w.moved = &m
	}
	if w.moved.age() < settleAfter {
		return w.eras, false
	}
	w.trusted, w.moved = *w.moved, nil
	w.eras++
	return w.eras, true
}
