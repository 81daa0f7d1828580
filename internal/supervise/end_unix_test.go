//go:build unix

package supervise

import (
	"log/slog"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// TestEndsWhenItIsOverdue: the wrapper learns of the end of a command only after the moment at
// which it would have asked or killed it, as one that was stopped. Nothing is left to do that to.
func TestEndsWhenItIsOverdue(t *testing.T) {
	t.Parallel()
	now := clock.Now()
	for name, overdue := range map[string]run{
		"to be asked":  {term: 1, soft: now, deadline: now.Add(time.Hour)},
		"to be killed": {term: 1, soft: now, deadline: now},
	} {
		r := &runner{
			Options: Options{Logger: slog.New(slog.DiscardHandler)}, process: &process{}, running: true,
			m: machine{run: &overdue, locked: true, stopping: true},
		}
		if err := r.step(ended{status: 3}); err != nil || !r.exited || r.status != 3 {
			t.Errorf("%s: exited %t with status %d, %v", name, r.exited, r.status, err)
		}
	}
}

// TestEndsAtTheDeadlineOfItsSupervisor: a supervisor that learned of no renewal has killed its
// command, while the wrapper knows of a later deadline. The command did not end by itself, and the
// wrapper goes on.
func TestEndsAtTheDeadlineOfItsSupervisor(t *testing.T) {
	t.Parallel()
	for _, expired := range []bool{true, false} {
		now, byItself := clock.Now(), false
		r := &runner{
			Options: Options{
				Logger: slog.New(slog.DiscardHandler),
				Ended:  func(_ uint64, _ int, itself bool) { byItself = itself },
			},
			process: &process{}, running: true, saying: true,
			m: machine{locked: true, run: &run{term: 1, soft: now.Add(time.Hour), deadline: now.Add(time.Hour)}},
		}
		if err := r.step(ended{status: 137, expired: expired}); err != nil || r.exited == expired || byItself == expired {
			t.Errorf("expired %t: by itself %t, exited %t, %v", expired, byItself, r.exited, err)
		}
	}
}
