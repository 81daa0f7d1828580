package registrar

import (
	"time"

	"github.com/musterhq/muster/internal/backoff"
)

// maxRetry bounds the wait between two tries at anything, together with half the
// TTL.
const maxRetry = 5 * time.Second

// schedule is when the next call for an entry is made.
type schedule struct {
	due       bool      // the instance is to be registered, or confirmed
	notBefore time.Time // when the next call may be made, whatever it is

	retry      backoff.Backoff // spaces the calls that fail
	disputes   backoff.Backoff // spaces the repairs where somebody undoes them
	disputedAt time.Time
}

// now makes the instance due at once.
func (s *schedule) now() { s.due, s.notBefore = true, time.Time{} }

// later makes the instance due at a time.
func (s *schedule) later(at time.Time) { s.due, s.notBefore = true, at }

// none has the instance not be due; a call of another kind may be made at once.
func (s *schedule) none() { s.due, s.notBefore = false, time.Time{} }

// failed spaces the next call from one that failed.
func (s *schedule) failed(bound time.Duration) {
	s.retry.Max = bound
	s.notBefore = time.Now().Add(s.retry.Next())
}

// doubted makes the instance due at once, or later if there is doubt again and again.
func (s *schedule) doubted(now time.Time, bound time.Duration) {
	s.later(now)
	if now.Sub(s.disputedAt) > 2*bound {
		s.disputes.Reset()
	} else {
		s.disputes.Max = bound
		s.notBefore = now.Add(s.disputes.Next())
	}
	s.disputedAt = now
}
