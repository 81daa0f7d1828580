package alarm

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// record is what a handler writes, a short line for each record.
type record struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes.Write(b)
}

// take returns the lines since the last call, without those of debug level.
func (r *record) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for line := range strings.Lines(r.bytes.String()) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "level=DEBUG") {
			lines = append(lines, strings.TrimPrefix(line, "level="))
		}
	}
	r.bytes.Reset()
	return strings.Join(lines, "\n")
}

func newSet() (*Set, *record) {
	r := new(record)
	return New(slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))), r
}

func (r *record) want(t *testing.T, when, want string) {
	t.Helper()
	if got := r.take(); got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", when, got, want)
	}
}

var fails = Kind{Name: "fails", Raised: "it fails", Cleared: "it is good again"}

func TestOnceEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newSet()
		defer s.Close()
		s.Clear(fails, "x")
		log.want(t, "cleared though never raised", "")
		for range 3 {
			s.Raise(fails, "x", "error", "boom")
			time.Sleep(time.Second)
		}
		s.Raise(fails, "y", "error", "bang")
		log.want(t, "raised", "WARN msg=\"it fails\" alarm=fails subject=x error=boom\nWARN msg=\"it fails\" alarm=fails subject=y error=bang")
		for range 2 {
			s.Clear(fails, "x", "tries", 3)
		}
		log.want(t, "cleared", "INFO msg=\"it is good again\" alarm=fails subject=x lasted=3s tries=3")
		if raised := s.Raised(fails); len(raised) != 1 || raised[0] != "y" {
			t.Errorf("Raised = %q, want y", raised)
		}
		s.Keep(fails, map[string]bool{"y": true})
		log.want(t, "y is kept", "")
		s.Keep(fails, nil)
		log.want(t, "y is not", "INFO msg=\"it is good again\" alarm=fails subject=y lasted=0s")
		s.Raise(fails, "z")
		s.Forget(fails, "z")
		s.Forget(fails, "z")
		log.want(t, "forgotten", "WARN msg=\"it fails\" alarm=fails subject=z\nINFO msg=\"no longer watched\" alarm=fails subject=z lasted=0s")
		s.Raise(fails, "z")
		s.Clear(fails, "z")
		log.want(t, "again", "WARN msg=\"it fails\" alarm=fails subject=z\nINFO msg=\"it is good again\" alarm=fails subject=z lasted=0s")
	})
}

func TestChangedReasonIsRepeatedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newSet()
		defer s.Close()
		for i := range 150 { // each second another error, and one in the last 30 s
			if i < 120 {
				s.Raise(fails, "", "error", i)
			} else {
				s.Raise(fails, "", "error", "last")
			}
			time.Sleep(time.Second)
		}
		log.want(t, "over 150 s", "WARN msg=\"it fails\" alarm=fails error=0\nWARN msg=\"it fails\" alarm=fails error=60\nWARN msg=\"it fails\" alarm=fails error=last")
		time.Sleep(time.Hour)
		s.Raise(fails, "", "error", "last")
		log.want(t, "the same for an hour", "")
	})
}

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newSet()
		defer s.Close()
		patient := fails
		patient.Patience, patient.Level = 5*time.Second, slog.LevelError
		s.Raise(patient, "x")
		time.Sleep(4 * time.Second)
		s.Clear(patient, "x")
		time.Sleep(time.Minute)
		log.want(t, "over in time", "")
		s.Raise(patient, "x", "n", 1)
		time.Sleep(4 * time.Second)
		s.Raise(patient, "x", "n", 2)
		time.Sleep(2 * time.Second) // nobody calls when it is due
		synctest.Wait()
		log.want(t, "it lasts", "ERROR msg=\"it fails\" alarm=fails subject=x n=2 held_back=1")
		s.Clear(patient, "x")
		log.want(t, "over", "INFO msg=\"it is good again\" alarm=fails subject=x lasted=6s")
	})
}

func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newSet()
		defer s.Close()
		quiet := fails
		quiet.Quiet = 30 * time.Second
		for range 4 {
			s.Raise(quiet, "x")
			time.Sleep(20 * time.Second)
		}
		synctest.Wait()
		log.want(t, "again and again", "WARN msg=\"it fails\" alarm=fails subject=x quiet=30s")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		log.want(t, "quiet", "INFO msg=\"it is good again\" alarm=fails subject=x lasted=1m30s")

		// One that happens once is none, with patience; one that goes on is.
		quiet.Patience = 10 * time.Second
		s.Raise(quiet, "x")
		time.Sleep(time.Hour)
		s.Raise(quiet, "x")
		time.Sleep(11 * time.Second)
		log.want(t, "once an hour", "")
		s.Raise(quiet, "x")
		time.Sleep(time.Minute)
		synctest.Wait()
		log.want(t, "twice", "WARN msg=\"it fails\" alarm=fails subject=x quiet=30s held_back=1\nINFO msg=\"it is good again\" alarm=fails subject=x lasted=41s")
	})
}

// What flaps is not logged each time, and its last word is never a warning that is over.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newSet()
		defer s.Close()
		for range 30 {
			s.Raise(fails, "x")
			time.Sleep(500 * time.Millisecond)
			s.Clear(fails, "x")
			time.Sleep(500 * time.Millisecond)
		}
		lines := strings.Split(log.take(), "\n")
		if len(lines) != 2*burst || !strings.HasPrefix(lines[len(lines)-1], "INFO") {
			t.Errorf("30 times in 30 s are %d lines, want %d:\n%s", len(lines), 2*burst, strings.Join(lines, "\n"))
		}
		s.Raise(fails, "x")
		time.Sleep(29 * time.Second)
		synctest.Wait()
		log.want(t, "within the minute", "")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		log.want(t, "it lasts", "WARN msg=\"it fails\" alarm=fails subject=x held_back=25")
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newSet()
		patient := fails
		patient.Patience = time.Second
		s.Raise(patient, "x")
		s.Raise(fails, "y")
		s.Close()
		log.take()
		time.Sleep(time.Minute)
		synctest.Wait()
		s.Raise(fails, "z")
		s.Clear(fails, "y")
		log.want(t, "closed", "")
	})
}

// Subjects come from strangers: their number is bounded, and those that are over make room.
func TestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := newSet()
		defer s.Close()
		for i := range maxStates + 10 {
			s.Raise(fails, fmt.Sprint(i), "error", errors.New("boom"))
		}
		if len(s.states) != maxStates || strings.Count(log.take(), "WARN") != maxStates {
			t.Errorf("%d states, want %d and as many warnings", len(s.states), maxStates)
		}
		for i := range maxStates {
			s.Clear(fails, fmt.Sprint(i))
		}
		time.Sleep(2 * window)
		log.take()
		s.Raise(fails, "late")
		if len(s.states) != 1 {
			t.Errorf("%d states are left, want the new one", len(s.states))
		}
		log.want(t, "after the rest was over", "WARN msg=\"it fails\" alarm=fails subject=late")
	})
}

func TestNilSet(t *testing.T) {
	var s *Set
	s.Raise(fails, "x")
	s.Clear(fails, "x")
	s.Forget(fails, "x")
	s.Keep(fails, nil)
	s.Close()
}
