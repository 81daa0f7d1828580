package httpapi

import (
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// Once the work of a term has ended, no deadline of that term is written, and none that was written
// is cut short.
func TestNoDeadlineIsWrittenAfterTheEnd(t *testing.T) {
	var hs holds
	h := hs.add("w", "", nil)
	now := time.Duration(clock.Now())
	if !h.write(1, now+time.Hour) || h.expire(1) {
		t.Error("it expired before its deadline")
	}
	h = hs.add("w", "", nil)
	if !h.write(1, now-time.Second) || !h.expire(1) {
		t.Error("it does not expire after its deadline")
	}
	if h.write(1, now+time.Hour) {
		t.Error("a deadline was written after the end")
	}
	if !h.write(2, now+time.Hour) {
		t.Error("the next term cannot begin")
	}
	h.finish(1, false, outcome{OutcomeDone, ""})
	if h.outcome.state != "" {
		t.Error("an end that came late counts")
	}
}
