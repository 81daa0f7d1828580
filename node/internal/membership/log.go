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

	"github.com/musterhq/muster/internal/alarm"
)

// memberlistLogger makes a logger for memberlist that writes into l. memberlist
// logs everything that a network can do to it, most of which this package reports in
// its own words, as a member that fell silent. Of it all only what it calls errors may be
// a warning here, and only what goes on: a connection that a peer resets, as when it is
// started again, is for debugging like the rest.
func (m *Membership) memberlistLogger() *log.Logger {
	return log.New(logWriter{m}, "", 0)
}

type logWriter struct{ m *Membership }

func (w logWriter) Write(line []byte) (int, error) {
	m, n := w.m, len(line)
	level, text := splitLevel(line)
	// A stranger's packets are discarded before any delegate sees them: this line
	// is all that reports them.
	switch {
	case bytes.Contains(text, []byte(`stream with unacceptable label ""`)):
		// It ended before it said anything. It is no stranger's: the link asks for the cluster.
		level = slog.LevelDebug
	case bytes.Contains(text, []byte("with unacceptable label")):
		m.refuse(reasonCluster, "error", string(text))
		return n, nil
	}
	if level == slog.LevelWarn {
		m.alarms.Raise(gossipFails, kindOf(string(text)), "error", string(text))
	} else if m.log.Enabled(context.Background(), level) {
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

// What an operator must know of.
var (
	memberFailed = alarm.Kind{Name: "member_failed", Raised: "member failed", Cleared: "member no longer failed"}
	gossipFails  = alarm.Kind{Name: "gossip_fails", Raised: "gossip fails", Cleared: "gossip works again",
		Patience: 10 * time.Second, Quiet: 30 * time.Second}
	strangers = alarm.Kind{Name: "stranger_rejected", Raised: "stranger rejected", Cleared: "strangers no longer come",
		Quiet: 2 * time.Minute}
	detailsMissing = alarm.Kind{Name: "details_missing", Raised: "member details not fetched",
		Cleared: "member details fetched", Patience: 5 * time.Second}
	// Somebody else has said it in its name.
	leaveForged = alarm.Kind{Name: "leave_forged", Raised: "member was said to leave, and has not", Cleared: "member no longer said to leave",
		Quiet: time.Minute}
	stateTooLarge = alarm.Kind{Name: "state_too_large", Raised: "state not sent", Cleared: "state sent again"}
)

// kindOf returns the start of a text, up to where it names what it is about.
func kindOf(text string) string {
	if at := strings.IndexAny(text, ":0123456789'\""); at >= 0 {
		text = text[:at]
	}
	return text[:min(len(text), 40)]
}

// rateLimit lets each key pass once a minute.
type rateLimit struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (s *rateLimit) allow(key string, now time.Time) bool {
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

// refuse counts someone who was rejected, and logs it at most once a minute for
// each reason. It must be cheap: strangers decide how often it is called.
func (m *Membership) refuse(reason string, args ...any) {
	m.counts.refuse(reason)
	m.alarms.Raise(strangers, reason, args...)
}
