// Package alarm logs what an operator must know of for as long as it lasts: a
// warning when it begins, and a line that says so when it is over.
//
//	var providerFails = alarm.Kind{Name: "provider_fails", Raised: "provider fails", Cleared: "provider answers again"}
//
//	s.alarms.Raise(providerFails, service, "error", err) // at each failure
//	s.alarms.Clear(providerFails, service)               // at each success
//
// The owner reports what it sees as often as it sees it: each warning and each clearing
// line is written once. Both carry the attributes "alarm", the name of the kind, and
// "subject", what it is about, by which one finds the other; the clearing line says how
// long it lasted. So the log of a healthy process has no warning without its end.
package alarm

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Kind is one sort of alarm.
type Kind struct {
	// Name is what both lines have as the attribute "alarm". It is unique within a
	// Set, unless the two are one alarm at different levels.
	Name string
	// Raised and Cleared are the messages of the two lines.
	Raised, Cleared string
	// Level is that of the first line. Default: slog.LevelWarn.
	Level slog.Level
	// Patience is how long an alarm may last before it is a warning. One that is
	// over earlier is logged at debug level. Default: it is a warning at once.
	Patience time.Duration
	// Quiet is for what happens rather than lasts, such as a rejected stranger. It
	// is over once it has not been raised for so long; with Patience it is a warning
	// only if it is raised again after that. Default: it lasts until Clear.
	Quiet time.Duration
	// Repeat is how soon the warning is written again if its attributes have changed, as
	// with another error, however often they do. Default: a minute.
	Repeat time.Duration
}

// The attributes of both lines, and of the warning of a Kind with Quiet.
const (
	AttrAlarm   = "alarm"
	AttrSubject = "subject"
	AttrQuiet   = "quiet"
)

const (
	// burst is how many times an alarm may begin within a window before it is held
	// back: what comes and goes without end is logged as one that lasts, if it does.
	burst  = 5
	window = time.Minute
	// again is the default of Kind.Repeat.
	again = time.Minute
	// maxStates bounds the memory. What is beyond it is logged at debug level alone.
	maxStates = 1024
)

// Set holds the alarms of one owner. All methods are safe for concurrent use; those
// of a nil Set do nothing.
type Set struct {
	log *slog.Logger

	mu     sync.Mutex
	states map[id]*state
	closed bool
}

type id struct{ kind, subject string }

// state is one alarm, raised or lately over.
type state struct {
	kind    Kind
	subject string
	raised  bool
	since   time.Time // when it began
	seen    time.Time // when it was raised last
	attrs   []any     // of the last Raise
	timer   *time.Timer

	warned   bool // the warning of this time was written
	warnedAt time.Time
	text     string // its attributes

	begun  int // warnings within the window
	window time.Time
	held   int // times that were held back since the last warning
}

// New returns a Set without alarms that writes to log; nil writes nothing.
func New(log *slog.Logger) *Set {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Set{log: log, states: make(map[id]*state)}
}

// Raise says that the alarm of kind k about subject is there, with what is known of
// it. An empty subject means that there is only one.
func (s *Set) Raise(k Kind, subject string, attrs ...any) {
	if s == nil {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	c := s.states[id{k.Name, subject}]
	if c == nil {
		if len(s.states) >= maxStates {
			s.purge(now)
		}
		c = &state{kind: k, subject: subject}
		if len(s.states) >= maxStates {
			s.write(slog.LevelDebug, k.Raised, c, attrs)
			return
		}
		s.states[id{k.Name, subject}] = c
	}
	c.kind, c.attrs, c.seen = k, attrs, now
	first := !c.raised
	if first {
		c.raised, c.warned, c.since = true, false, now
	}
	s.look(c, now, true)
	if first && !c.warned {
		s.write(slog.LevelDebug, k.Raised, c, attrs)
	}
}

// Clear says that the alarm is not there, or no longer. The attributes are those of
// the clearing line.
func (s *Set) Clear(k Kind, subject string, attrs ...any) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.states[id{k.Name, subject}]; c != nil && c.raised && !s.closed {
		s.over(c, time.Now(), attrs)
	}
}

// Forget says that it is no longer checked whether the alarm is there, as when what it is
// about is not wanted any more.
func (s *Set) Forget(k Kind, subject string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.states[id{k.Name, subject}]; c != nil && c.raised && !s.closed {
		c.kind.Cleared = "no longer watched"
		s.over(c, time.Now(), nil)
	}
}

// Raised returns the subjects about which an alarm of kind k is there now.
func (s *Set) Raised(k Kind) []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var subjects []string
	for key, c := range s.states {
		if key.kind == k.Name && c.raised {
			subjects = append(subjects, key.subject)
		}
	}
	return subjects
}

// Keep clears the alarms of kind k about subjects that are not among those given.
func (s *Set) Keep(k Kind, subjects map[string]bool) {
	for _, subject := range s.Raised(k) {
		if !subjects[subject] {
			s.Clear(k, subject)
		}
	}
}

// Close ends the Set: nothing is logged afterwards. What is raised stays so in the log.
func (s *Set) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, c := range s.states {
		c.stop()
	}
}

// look writes the warning if it is due, and sees to it that it is looked again.
func (s *Set) look(c *state, now time.Time, raised bool) {
	c.stop()
	if !c.raised {
		return
	}
	if q := c.kind.Quiet; q > 0 && now.Sub(c.seen) >= q {
		s.over(c, now, nil)
		return
	}
	due := s.due(c, now)
	switch {
	case c.warned:
		if raised && now.Sub(c.warnedAt) >= cmp.Or(c.kind.Repeat, again) && fmt.Sprint(c.attrs...) != c.text {
			s.warn(c, now)
		}
	case !due.After(now) && (raised || c.kind.Quiet == 0 || c.kind.Patience == 0):
		s.warn(c, now)
	}
	next := time.Duration(-1)
	if !c.warned && due.After(now) {
		next = due.Sub(now)
	}
	if q := c.kind.Quiet; q > 0 {
		if quiet := c.seen.Add(q).Sub(now); next < 0 || quiet < next {
			next = quiet
		}
	}
	if next >= 0 {
		c.timer = time.AfterFunc(next, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.closed {
				s.look(c, time.Now(), false)
			}
		})
	}
}

// due is when the warning of c may be written.
func (s *Set) due(c *state, now time.Time) time.Time {
	due := c.since.Add(c.kind.Patience)
	if now.Sub(c.window) >= window {
		c.window, c.begun = now, 0
	}
	if held := c.window.Add(window); c.begun >= burst && held.After(due) {
		return held
	}
	return due
}

func (s *Set) warn(c *state, now time.Time) {
	if !c.warned {
		c.begun++
	}
	c.warned, c.warnedAt, c.text = true, now, fmt.Sprint(c.attrs...)
	attrs := c.attrs
	if c.kind.Quiet > 0 {
		attrs = append(attrs[:len(attrs):len(attrs)], AttrQuiet, c.kind.Quiet)
	}
	if c.held > 0 {
		attrs = append(attrs[:len(attrs):len(attrs)], "held_back", c.held)
		c.held = 0
	}
	level := c.kind.Level
	if level == 0 {
		level = slog.LevelWarn
	}
	s.write(level, c.kind.Raised, c, attrs)
}

// over ends the alarm.
func (s *Set) over(c *state, now time.Time, attrs []any) {
	level := slog.LevelInfo
	if !c.warned {
		level = slog.LevelDebug
		c.held++
	}
	c.raised = false
	c.stop()
	s.write(level, c.kind.Cleared, c, append([]any{"lasted", now.Sub(c.since).Round(time.Millisecond)}, attrs...))
}

func (s *Set) write(level slog.Level, message string, c *state, attrs []any) {
	about := []any{AttrAlarm, c.kind.Name}
	if c.subject != "" {
		about = append(about, AttrSubject, c.subject)
	}
	s.log.Log(context.Background(), level, message, append(about, attrs...)...)
}

// purge forgets what has been over for longer than it counts.
func (s *Set) purge(now time.Time) {
	for key, c := range s.states {
		if !c.raised && now.Sub(c.window) >= window {
			delete(s.states, key)
		}
	}
}

func (c *state) stop() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}
