package membership

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/internal/testing/alarmlog"
)

// logged takes the log of a member.
type logged struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(b)
}

func (l *logged) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.String()
}

// into has a member write its log to l, without what is for debugging.
func (l *logged) into(c *Config) { c.Logger = slog.New(slog.NewJSONHandler(l, nil)) }

// count is how many lines have all the texts.
func (l *logged) count(texts ...string) int {
	n := 0
	for line := range strings.Lines(l.text()) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

// open lists the warnings that are not over.
func (l *logged) open(t *testing.T) []string {
	t.Helper()
	open, err := alarmlog.Open(strings.NewReader(l.text()), "")
	if err != nil {
		t.Fatal(err)
	}
	return open
}

// A member that failed is a warning, which ends when the node is back, as the same instance
// or another, or is forgotten.
func TestFailedMembersAreOneAlarmEach(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var log logged
		a, b, c := start(t, net, "a", 1, log.into), start(t, net, "b", 2), start(t, net, "c", 3)
		a.peers(2, 3)
		see(time.Second, "a b c", a, b, c)
		net.cut(1, address(2))
		see(10*time.Second, "a c", a, c)
		if n := log.count(`"WARN"`, `"member failed"`, `"alarm":"member_failed"`, `"subject":"b"`); n != 1 {
			t.Errorf("%d warnings of b, want one:\n%s", n, log.text())
		}
		net.heal()
		see(10*time.Second, "a b c", a, b, c)
		if n := log.count(`"INFO"`, `"alarm":"member_failed"`, `"subject":"b"`, `"reason":"back"`); n != 1 || len(log.open(t)) > 0 {
			t.Errorf("%d lines that b is back, want one:\n%s", n, log.text())
		}

		c.crash()
		see(10*time.Second, "a b", a, b)
		again := start(t, net, "c", 3)
		again.peers(1)
		see(10*time.Second, "a b c", a, b, again)
		if n := log.count(`"INFO"`, `"subject":"c"`, `"reason":"back"`); n != 1 || len(log.open(t)) > 0 {
			t.Errorf("%d lines that c is back as another instance, want one:\n%s", n, log.text())
		}

		again.crash()
		see(10*time.Second, "a b", a, b)
		time.Sleep(departedKept - time.Minute)
		if len(log.open(t)) != 1 {
			t.Errorf("the alarm of c is over before it was forgotten:\n%s", log.text())
		}
		time.Sleep(2 * time.Minute)
		if n := log.count(`"INFO"`, `"subject":"c"`, `"reason":"forgotten"`); n != 1 || len(log.open(t)) > 0 {
			t.Errorf("%d lines that c is forgotten, want one:\n%s", n, log.text())
		}
	})
}

// One that said that it leaves while it was cut off has left after all.
func TestFailedMemberThatHadLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var log logged
		a, b, c := start(t, net, "a", 1, log.into), start(t, net, "b", 2), start(t, net, "c", 3)
		a.peers(2, 3)
		see(time.Second, "a b c", a, b, c)
		net.cut(1, address(2), address(3))
		see(10*time.Second, "a", a)
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		see(time.Second, "c", c)
		net.heal()
		see(10*time.Second, "a c", a, c)
		eventually(t, 10*time.Second, "a knows that b has left", func() bool { return a.departed(b.cfg.InstanceID).State == StateLeft })
		if n := log.count(`"INFO"`, `"subject":"b"`, `"reason":"left"`); n != 1 || len(log.open(t)) > 0 {
			t.Errorf("%d lines that b has left, want one:\n%s", n, log.text())
		}
	})
}

// Members that leave at the same time have left, for those that leave with them and for
// one that stays; and none of them waits for the others in vain.
func TestLeaveTogether(t *testing.T) {
	for _, stays := range []bool{false, true} {
		t.Run(fmt.Sprintf("one stays: %v", stays), func(t *testing.T) {
			for round := range 10 {
				inBubble(t, func(t *testing.T, net *memoryNetwork) {
					const size = 7
					var logs [size]logged
					var members []*member
					want := make([]string, size)
					for i := range size {
						want[i] = string(rune('a' + i))
						members = append(members, start(t, net, want[i], i+1, logs[i].into))
						members[i].peers(1, 2)
					}
					see(5*time.Second, strings.Join(want, " "), members...)
					leaving := members
					if stays {
						leaving = members[1:]
					}
					var wg sync.WaitGroup
					for i, m := range leaving {
						wg.Go(func() {
							time.Sleep(time.Duration(i*round) * 10 * time.Millisecond)
							begin := time.Now()
							if err := m.Leave(t.Context()); err != nil || time.Since(begin) > leaveTimeout {
								t.Errorf("%s: Leave = %v after %v", m.cfg.NodeID, err, time.Since(begin))
							}
						})
					}
					wg.Wait()
					if stays {
						see(time.Second, "a", members[0])
						time.Sleep(10 * time.Second)
						for _, m := range leaving {
							if gone := members[0].departed(m.cfg.InstanceID); gone.State != StateLeft {
								t.Errorf("a knows of %s: %+v", m.cfg.NodeID, gone)
							}
						}
					}
					for i := range logs {
						if logs[i].count(`"member failed"`) > 0 {
							t.Errorf("%s: %s", want[i], logs[i].text())
						}
					}
				})
			}
		})
	}
}

// A goodbye that nobody hears costs no more than part of the caller's time.
func TestGoodbyeLeavesTimeForTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		a, _, _ := three(t, net)
		net.cut(1, address(1))
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // not enough for gossip
		defer cancel()
		if err := a.Leave(ctx); err != nil {
			t.Errorf("Leave = %v after %v", err, time.Since(begin))
		}
	})
}

// A stream that a peer resets is no warning, unless that goes on; and what goes on is
// over when it no longer does.
func TestGossipThatFailsForAMomentIsNoWarning(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var log logged
		a := start(t, net, "a", 1, log.into)
		lines := logWriter{a.Membership}
		reset := []byte("[ERR] memberlist: Failed to send ping: read tcp 10.0.0.1:7946: connection reset by peer\n")
		_, _ = lines.Write(reset)
		time.Sleep(gossipFails.Quiet + time.Second)
		_, _ = lines.Write(reset)
		_, _ = lines.Write(reset)
		time.Sleep(time.Minute)
		if log.count(`"WARN"`) > 0 {
			t.Errorf("what heals at once is a warning:\n%s", log.text())
		}
		_, _ = lines.Write([]byte("[ERR] memberlist: discarding stream with unacceptable label \"\": from=10.0.0.1:7946\n"))
		if n := a.Stats().Refused[reasonCluster]; n > 0 || log.count(`"WARN"`) > 0 {
			t.Errorf("a stream that was cut is taken for %d strangers:\n%s", n, log.text())
		}
		for range 20 {
			_, _ = lines.Write(reset)
			time.Sleep(time.Second)
		}
		if log.count(`"WARN"`, `"alarm":"gossip_fails"`, "connection reset by peer") != 1 {
			t.Errorf("what goes on is no warning:\n%s", log.text())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if open := log.open(t); len(open) > 0 {
			t.Errorf("not over: %v", open)
		}
	})
}

// Strangers are one alarm for each reason, which ends when none have come for a while.
func TestStrangersAreOneAlarm(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var log logged
		a := start(t, net, "a", 1, log.into)
		other := start(t, net, "x", 2, func(c *Config) { c.Cluster = "invoices" })
		other.peers(1)
		time.Sleep(time.Minute)
		if n := log.count(`"WARN"`, `"alarm":"stranger_rejected"`, `"subject":"cluster"`); n != 1 {
			t.Errorf("%d warnings, want one:\n%s", n, log.text())
		}
		other.crash()
		time.Sleep(strangers.Quiet + 10*time.Second)
		synctest.Wait()
		if open := log.open(t); len(open) > 0 || a.Stats().Refused[reasonCluster] < 2 {
			t.Errorf("not over: %v", open)
		}
	})
}

// What a member says otherwise is named.
func TestChangedFields(t *testing.T) {
	was := Member{NodeID: "a", InstanceID: "1", DetailsKnown: true, State: StateAlive}
	for _, test := range []struct {
		want   string
		change func(*Member)
	}{
		{"", func(*Member) {}},
		{"addr", func(m *Member) { m.Addr = "x" }},
		{"cluster_id", func(m *Member) { m.ClusterID = "x" }},
		{"zone", func(m *Member) { m.Zone = "x" }},
		{"tags", func(m *Member) { m.Tags = []string{"x"} }},
		{"", func(m *Member) {
			m.Tags, m.Meta, m.AppAddrs, m.Authorities = []string{}, map[string]string{}, map[string]string{}, []string{}
		}},
		{"meta", func(m *Member) { m.Meta = map[string]string{"x": ""} }},
		{"app_addrs", func(m *Member) { m.AppAddrs = map[string]string{"x": ""} }},
		{"version", func(m *Member) { m.Version = "x" }},
		{"voter", func(m *Member) { m.Voter = "x" }},
		{"authorities", func(m *Member) { m.Authorities = []string{"x"} }},
		{"details_known", func(m *Member) { m.DetailsKnown = false }},
		{"state", func(m *Member) { m.State = StateLeft }},
		{"reason", func(m *Member) { m.Reason = "x" }},
		{"zone tags", func(m *Member) { m.Zone, m.Tags = "x", []string{"x"} }},
	} {
		now := was
		test.change(&now)
		if got := strings.Join(now.Changed(was), " "); got != test.want {
			t.Errorf("Changed = %q, want %q", got, test.want)
		}
		changes := Diff(View{Members: []Member{was}}, View{Members: []Member{now}})
		if test.want == "" && len(changes) > 0 || test.want != "" && (len(changes) != 1 || changes[0].Kind != Updated || strings.Join(changes[0].Fields, " ") != test.want) {
			t.Errorf("Diff = %+v, want an update of %q", changes, test.want)
		}
	}
}

// Details that are not fetched are an alarm of the member until they are, or until it is
// gone.
func TestMissingDetailsAreAnAlarm(t *testing.T) {
	for _, crashes := range []bool{false, true} {
		inBubble(t, func(t *testing.T, net *memoryNetwork) {
			var log logged
			deaf := &deafNetwork{}
			deaf.failures.Store(1e9)
			a := start(t, net, "a", 1, log.into, func(c *Config) { deaf.Network, c.Network = c.Network, deaf })
			b := start(t, net, "b", 2, func(c *Config) { c.Details = bigDetails("x", 10_000) })
			b.peers(1)
			see(time.Second, "a b", a, b)
			time.Sleep(detailsMissing.Patience + 6*time.Second)
			if n := log.count(`"WARN"`, `"alarm":"details_missing"`, `"addr":"`+address(2).String()); n != 1 {
				t.Errorf("%d warnings, want one:\n%s", n, log.text())
			}
			end := `"msg":"member details fetched"`
			if crashes {
				b.crash()
				see(10*time.Second, "a", a)
				end = `"msg":"no longer watched"`
			} else {
				deaf.failures.Store(0)
				eventually(t, time.Minute, "b's details at a", func() bool { return a.View().Members[1].DetailsKnown })
			}
			time.Sleep(10 * time.Second)
			if n := log.count(`"INFO"`, `"alarm":"details_missing"`, end); n != 1 {
				t.Errorf("%d lines of the end %s, want one:\n%s", n, end, log.text())
			}
		})
	}
}

// What this node knows is too much to be sent, and is later not.
func TestStateThatIsTooLargeIsAnAlarm(t *testing.T) {
	inBubble(t, func(t *testing.T, net *memoryNetwork) {
		var log logged
		var size atomic.Int64
		size.Store(MaxState + 1)
		a := start(t, net, "a", 1, log.into, func(c *Config) { c.LocalState = func() []byte { return make([]byte, size.Load()) } })
		b := start(t, net, "b", 2)
		b.peers(1)
		see(time.Second, "a b", a, b)
		time.Sleep(2 * pushPullInterval)
		if n := log.count(`"WARN"`, `"alarm":"state_too_large"`); n != 1 {
			t.Errorf("%d warnings, want one:\n%s", n, log.text())
		}
		size.Store(MaxState)
		time.Sleep(4 * pushPullInterval)
		if open := log.open(t); len(open) > 0 {
			t.Errorf("not over: %v", open)
		}
	})
}
