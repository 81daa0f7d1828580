// Package crontab reads the schedules of jobs, for package node/cron and for the configuration:
// that is where they are documented.
package crontab

import (
	"errors"
	"fmt"
	"strings"
	"time"

	parser "github.com/netresearch/go-cron"

	"github.com/musterhq/muster/discovery/driver"
)

// Schedule is one that was parsed. Next returns the first time after t, or the zero time if there
// is none. It does not block.
type Schedule interface {
	Next(t time.Time) time.Time
	String() string
}

// Of returns s if it is one of this package.
func Of(s any) (Schedule, bool) {
	switch s := s.(type) {
	case every:
		return s, true
	case never:
		return s, true
	case *local:
		return s, true
	}
	return nil, false
}

// Every is due each d, counted from the zero time.
func Every(d time.Duration) Schedule { return every(max(d, time.Millisecond)) }

// never is never due.
type never bool

func (never) Next(time.Time) time.Time { return time.Time{} }
func (never) String() string           { return "@never" }

type every time.Duration

func (e every) Next(t time.Time) time.Time {
	return t.Round(0).Truncate(time.Duration(e)).Add(time.Duration(e))
}

func (e every) String() string { return "@every " + time.Duration(e).String() }

// Location is the time zone of a name. Empty: UTC. Local is none, which differs with the host.
func Location(name string) (*time.Location, error) {
	if name == "Local" {
		return nil, errors.New("it is another one on each host")
	}
	return time.LoadLocation(name)
}

// Error says what is wrong with an expression. It wraps driver.ErrInvalid.
type Error struct{ Expr, Problem string }

func (e *Error) Error() string {
	return fmt.Sprintf("cron: schedule %q: %v: %s", e.Expr, driver.ErrInvalid, e.Problem)
}

// Unwrap returns driver.ErrInvalid.
func (e *Error) Unwrap() error { return driver.ErrInvalid }

// Parse is cron.Parse. Its error is an *Error.
func Parse(expr string, loc *time.Location) (Schedule, error) {
	if loc == nil {
		loc = time.UTC
	}
	invalid := func(problem any) error { return &Error{Expr: expr, Problem: fmt.Sprint(problem)} }
	expr = strings.Join(strings.Fields(expr), " ")
	if strings.Contains(expr, "TZ=") {
		return nil, invalid("the time zone is given beside the expression, and not in it")
	}
	if expr == never(true).String() {
		return never(true), nil
	}
	if text, ok := strings.CutPrefix(expr, "@every "); ok {
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Millisecond {
			return nil, invalid("want a duration of a millisecond at least, such as @every 1h30m")
		}
		return Every(d), nil
	}
	p := parser.MustNewParser(parser.SecondOptional | parser.Minute | parser.Hour | parser.Dom | parser.Month |
		parser.Dow | parser.Descriptor | parser.DowOrDom)
	parsed, err := p.Parse(expr)
	if err != nil {
		return nil, invalid(err)
	}
	spec, ok := parsed.(*parser.SpecSchedule)
	if !ok {
		return nil, invalid("it names no times of the day")
	}
	spec.Location = time.UTC // it is asked about clocks on the wall alone
	const all = 1<<24 - 1
	return &local{expr: expr, spec: spec, loc: loc, hourly: spec.Hour&all == all}, nil
}

// local is an expression about the clock on the wall of a place. A reading of that clock is kept
// as a time in UTC with the same date and time.
type local struct {
	expr   string
	spec   *parser.SpecSchedule
	loc    *time.Location
	hourly bool
}

func (l *local) String() string { return l.expr + " " + l.loc.String() }

func (l *local) Next(t time.Time) time.Time {
	t = t.Round(0).In(l.loc)
	if l.hourly {
		return l.nextReading(t)
	}
	return l.nextDate(t)
}

// offset is how far the clock on the wall is ahead of UTC at t, which is in the place.
func offset(t time.Time) time.Duration {
	_, seconds := t.Zone()
	return time.Duration(seconds) * time.Second
}

// reading is what the clock on the wall shows at t.
func reading(t time.Time) time.Time { return t.UTC().Add(offset(t)) }

// maxZones bounds how many changes of the clock are looked through.
const maxZones = 100

// nextReading is the first instant after t at which the clock shows what the expression says.
func (l *local) nextReading(t time.Time) time.Time {
	for range maxZones {
		shown := l.spec.Next(reading(t))
		if shown.IsZero() {
			return time.Time{}
		}
		at := shown.Add(-offset(t)).In(l.loc)
		_, end := t.ZoneBounds()
		if end.IsZero() || at.Before(end) {
			return at
		}
		t = zoneEnd(end, l.loc) // the clock is changed first
	}
	return time.Time{}
}

// zoneEnd is the instant before the clock is changed at end, seen with the offset after it, so
// that what is due at end itself is found.
func zoneEnd(end time.Time, loc *time.Location) time.Time {
	after := end.In(loc)
	return time.Unix(0, end.UnixNano()-1).In(time.FixedZone("", int(offset(after)/time.Second)))
}

// nextDate is the instant of the first date and time after those that t has passed.
func (l *local) nextDate(t time.Time) time.Time {
	passed := reading(t)
	if start, _ := t.ZoneBounds(); !start.IsZero() {
		// Where the clock was set back, all that it showed before has passed, but for the
		// very moment at which it was.
		before := reading(start.Add(-time.Nanosecond).In(l.loc))
		if before.After(passed) {
			passed = before
		}
	}
	for range maxZones {
		shown := l.spec.Next(passed)
		if shown.IsZero() {
			return time.Time{}
		}
		if at := l.instant(shown); at.After(t) {
			return at
		}
		passed = shown
	}
	return time.Time{}
}

// instant is the first one at which the clock shows that, or the end of the gap that it is in.
func (l *local) instant(shown time.Time) time.Time {
	// One day before and after, the offsets are those of both sides of any change near by.
	early := shown.Add(-24*time.Hour - offset(shown.Add(-24*time.Hour).In(l.loc))).In(l.loc)
	for range maxZones {
		at := shown.Add(-offset(early)).In(l.loc)
		_, end := early.ZoneBounds()
		if end.IsZero() || at.Before(end) {
			return at
		}
		early = end.In(l.loc)
		if reading(early).After(shown) {
			return early // the clock skipped it
		}
	}
	return time.Time{}
}
