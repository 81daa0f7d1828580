package cron

import (
	"time"

	"github.com/musterhq/muster/internal/crontab"
)

// Schedule says when a job is due. One that has a method String is known by it: a job whose
// Schedule has another text than before was edited, and counts from then on.
type Schedule interface {
	// Next returns the first time after t at which the job is due, or the zero time if there is
	// none. It has the same result for the same t on every node. One that blocks, or panics, keeps
	// its own job from running.
	Next(t time.Time) time.Time
}

// Every is due each d, counted from the zero time, so that all nodes agree: Every(time.Hour) is
// due on the hour of UTC. d is at least a millisecond; less is taken for that.
func Every(d time.Duration) Schedule { return crontab.Every(d) }

// Parse reads a cron expression: minute, hour, day of month, month and day of week, with a field of
// seconds before them if there are six; or @yearly, @monthly, @weekly, @daily, @hourly, or @every
// with a duration; or @never, for what only runs when it is triggered. Lists, ranges, steps and
// English names are known, and 0 and 7 are Sunday. Where both days are restricted, one that matches
// is enough. The expression is about the clock on the wall in loc; nil is UTC. What cannot be read
// is an error that wraps discovery.ErrInvalid.
//
// Daylight saving: an expression with any hour, such as */15 * * * *, is due whenever the clock
// shows what it says: each hour, also in the hour that comes twice. One with fixed hours is due
// once for each date and time that it names: where the clock skips them, all of them once, at the
// end of the gap; where they come twice, the first time.
func Parse(expr string, loc *time.Location) (Schedule, error) {
	s, err := crontab.Parse(expr, loc)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// trusted reports whether s neither blocks nor panics: it is one of ours.
func trusted(s Schedule) bool {
	_, ok := crontab.Of(s)
	return ok
}
