package mastership

import (
	"context"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// logLines is a handler that keeps what is logged.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Enabled(context.Context, slog.Level) bool { return true }
func (l *logLines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logLines) WithGroup(string) slog.Handler            { return l }
func (l *logLines) Handle(_ context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return nil // as an alarm that is held back
	}
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

// count returns how many lines have the message and, unless it is empty, the attribute.
func (l *logLines) count(message, attr string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if strings.HasPrefix(line, message) && strings.Contains(line, attr) {
			n++
		}
	}
	return n
}

// What is heard never ends a mastership: the authority is asked, and decides.
func TestHearsayEndsNoMastership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		logs := new(logLines)
		a := run(t, s, "a", func(c *Config) { c.Logger = slog.New(logs) })
		var calls atomic.Int64
		a.auth.hooks(func(_ context.Context, op string) error {
			if op == "renew" {
				calls.Add(1)
			}
			return nil
		}, nil)
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		token, _ := a.Check()
		started := time.Now()
		var higher driver.Term
		x := driver.Holder{NodeID: "x", InstanceID: "x", Addr: "10.0.0.9:1"}
		for n := 0; time.Since(started) < 10*ttl; n++ {
			higher++
			for _, an := range []Announcement{
				{Term: 7, ClusterID: "another cluster", Holder: x, Active: true, ValidFor: ttl},
				{Term: driver.MaxTerm, ClusterID: token.ClusterID, Holder: x, Active: true, ValidFor: ttl},
				{Term: token.Term + higher, ClusterID: token.ClusterID, Holder: x, Active: true, Seq: uint64(n), ValidFor: ttl},
				{Term: token.Term, ClusterID: token.ClusterID, Holder: x, Active: true, Seq: uint64(n), ValidFor: ttl},
				{Term: token.Term + 1<<32, ClusterID: token.ClusterID, Holder: a.cfg.Holder, Active: true, Seq: math.MaxUint64},
			} {
				an.From = "x"
				a.Learn(an)
			}
			time.Sleep(10 * time.Millisecond)
			if err := token.Check(); err != nil {
				t.Fatalf("no longer master in term %d after %v: %v", token.Term, time.Since(started), err)
			}
		}
		st := a.Status()
		if st.Alarm != nil || st.ClusterID != token.ClusterID {
			t.Errorf("hearsay raised %v in cluster %s", st.Alarm, st.ClusterID)
		}
		n := uint64(higher)
		if h := st.Hearsay; h.AbsurdTerms != n || h.ForeignClusters != n || h.Disputes < 2*n {
			t.Errorf("counted %+v, want %d, %d and at least %d", h, n, n, 2*n)
		}
		// A renewal is sent every third of the ttl; twice as often at most.
		if n := calls.Load(); n > 61 || n < 50 {
			t.Errorf("%d renewals in ten ttls, want about 60", n)
		}
		for _, want := range []string{"announced term ignored", "announcement of another cluster ignored", "mastership disputed"} {
			if n := logs.count(want, " from=x "); n < 1 || n > 6 {
				t.Errorf("%d lines %q, want one now and then", n, want)
			}
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for _, want := range []string{"absurd terms are no longer announced", "another cluster is no longer announced", "mastership confirmed"} {
			if logs.count(want, "") == 0 {
				t.Errorf("no line %q when it was over", want)
			}
		}
		if st := a.Status(); st.Err != nil || !a.IsMaster() {
			t.Errorf("afterwards: %+v", st)
		}
	})
}

// A contradiction is put to the authority at once, and its word counts.
func TestDisputeIsDecidedByTheAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(newFakeClock(), ttl)
		a := run(t, s, "a")
		wait.Virtual(t, "a is master", time.Second, a.IsMaster)
		token, _ := a.Check()
		a.auth.hooks(func(_ context.Context, op string) error {
			if op == "observe" { // it learns of nothing
				return driver.ErrUnavailable
			}
			return nil
		}, nil)
		time.Sleep(ttl / 3)
		synctest.Wait() // it has just renewed
		x := driver.Holder{NodeID: "x", InstanceID: "x"}
		s.mu.Lock()
		s.state.Holder, s.state.Term = &x, token.Term+1
		s.mu.Unlock()
		a.Learn(Announcement{Term: token.Term + 1, ClusterID: token.ClusterID, Holder: x, Active: true, Seq: 1, ValidFor: ttl})
		took := wait.Virtual(t, "the end", ttl, func() bool { return token.Check() != nil })
		if took > ttl/5 {
			t.Errorf("the authority was asked %v after the contradiction", took)
		}
	})
}
