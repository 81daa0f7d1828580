package membership

import (
	"bytes"
	"context"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// memberlistLogger makes a logger for memberlist that writes into l. memberlist
// logs everything that a network can do to it, most of which this package tells in
// its own words: of it all only what it calls errors is a warning here, each kind
// at most once a minute, and the rest is for debugging.
func (m *Membership) memberlistLogger() *log.Logger {
	return log.New(logWriter{m}, "", 0)
}

type logWriter struct{ m *Membership }

func (w logWriter) Write(line []byte) (int, error) {
	m, n := w.m, len(line)
	level, text := splitLevel(line)
	// A stranger's packets are discarded before any delegate sees them: this line
	// is all that tells of them.
	if bytes.Contains(text, []byte("with unacceptable label")) {
		m.refuse(reasonCluster, "error", string(text))
		return n, nil
	}
	if level == slog.LevelWarn && !m.seldom.allow("memberlist: "+kindOf(string(text)), time.Now()) {
		level = slog.LevelDebug
	}
	if m.log.Enabled(context.Background(), level) {
		m.log.Log(context.Background(), level, "memberlist", "text", string(text))
	}
	return n, nil
}

var _ io.Writer = logWriter{}

// splitLevel takes the "[LEVEL] memberlist: " off a line.
func splitLevel(line []byte) (slog.Level, []byte) {
	level := slog.LevelDebug
	line = bytes.TrimSpace(line)
	if name, rest, ok := bytes.Cut(line, []byte("] ")); ok && bytes.HasPrefix(name, []byte("[")) {
		if string(name) == "[ERR" || string(name) == "[ERROR" {
			level = slog.LevelWarn
		}
		line = rest
	}
	return level, bytes.TrimPrefix(line, []byte("memberlist: "))
}

// kindOf returns the start of a text, up to where it names what it is about.
func kindOf(text string) string {
	if at := strings.IndexAny(text, ":0123456789'\""); at >= 0 {
		text = text[:at]
	}
	return text[:min(len(text), 40)]
}

// seldom lets each key pass once a minute.
type seldom struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (s *seldom) allow(key string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.last[key]; ok && now.Sub(last) < time.Minute {
		return false
	}
	if s.last == nil || len(s.last) > 1024 {
		s.last = make(map[string]time.Time)
	}
	s.last[key] = now
	return true
}

// refuse counts someone who was turned away, and logs it at most once a minute for
// each reason. It must be cheap: strangers decide how often it is called.
func (m *Membership) refuse(reason string, args ...any) {
	m.counts.refuse(reason)
	if m.seldom.allow("refused: "+reason, time.Now()) {
		m.log.Warn("turned away; further ones are counted and logged once a minute", append([]any{"reason", reason}, args...)...)
	}
}
