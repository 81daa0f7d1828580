package check_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/history/check"
)

const (
	second = int64(time.Second)
	hour   = 3600 * second
)

// epoch is the true time at which the boot clock of host a shows 0.
var epoch = time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)

// host is one with a boot clock, which shows the true time and an offset, and a wall clock that is
// wrong.
type host struct {
	clock  string
	offset int64
	wrong  time.Duration
}

// recorder records what an instance on a host does at true times.
type recorder struct {
	host
	node    string
	records []history.Record
}

func (r *recorder) add(at int64, record history.Record) *recorder {
	record.Version, record.N = history.Version, uint64(len(r.records)+1)
	record.NodeID, record.InstanceID, record.Clock = r.node, r.node+"1", r.clock
	record.BootNS, record.Time = at+r.offset, epoch.Add(time.Duration(at)+r.wrong)
	for _, t := range []*int64{&record.SentNS, &record.DeadlineNS, &record.UntilNS} {
		if *t != 0 {
			*t += r.offset
		}
	}
	r.records = append(r.records, record)
	return r
}

func (r *recorder) start(at int64) *recorder {
	return r.add(at, history.Record{Kind: history.Start, Cluster: "orders", Addr: "10.0.0.5:7946"})
}

func (r *recorder) active(at int64, term uint64, deadline int64) *recorder {
	return r.add(at, history.Record{Kind: history.Active, Term: term, ClusterID: "x", DeadlineNS: deadline})
}

func (r *recorder) renewed(at int64, term uint64, deadline int64) *recorder {
	return r.add(at, history.Record{Kind: history.Renewed, Term: term, ClusterID: "x", SentNS: at, DeadlineNS: deadline})
}

func (r *recorder) ended(at int64, term uint64, reason string) *recorder {
	return r.add(at, history.Record{Kind: history.Ended, Term: term, ClusterID: "x", UntilNS: at, DeadlineNS: at, Reason: reason})
}

// knows records a view with a master, and members.
func (r *recorder) knows(at int64, term uint64, master string, members ...string) *recorder {
	v := &history.ViewState{Term: term, ClusterID: "x", Majority: true, Members: []history.Member{}}
	if master != "" {
		v.Master = &history.Master{NodeID: master, InstanceID: master + "1", Term: term}
	}
	for _, m := range members {
		v.Members = append(v.Members, history.Member{NodeID: m, InstanceID: m + "1"})
	}
	return r.add(at, history.Record{Kind: history.View, View: v})
}

// heard records a reading of the clock of a master, taken at a true time.
func (r *recorder) heard(at int64, term uint64, master *recorder, said int64) *recorder {
	return r.add(at, history.Record{Kind: history.Heard, Term: term, ClusterID: "x", Peer: &history.Reading{
		NodeID: master.node, InstanceID: master.node + "1", Clock: master.clock, BootNS: said + master.offset,
	}})
}

func (r *recorder) stop(at int64) *recorder { return r.add(at, history.Record{Kind: history.Stop}) }

func logs(all ...*recorder) (logs []check.Log) {
	for _, r := range all {
		logs = append(logs, check.Log{Host: "host-" + r.node, Records: r.records})
	}
	return logs
}

// failover is an incident on two hosts: a is master from 10 s on and dies, its last deadline is at
// 1000 s; b is master from begin on. said are the times at which b heard from a.
func failover(ha, hb host, begin int64, said ...int64) (a, b *recorder) {
	a, b = &recorder{host: ha, node: "a"}, &recorder{host: hb, node: "b"}
	a.start(1*second).active(10*second, 1, 15*second).knows(10*second, 1, "a", "a", "b")
	for at := 13 * second; at < 995*second; at += 3 * second {
		a.renewed(at, 1, at+5*second)
	}
	a.renewed(995*second, 1, 1000*second)
	b.start(2*second).knows(10*second+second/20, 1, "a", "a", "b")
	for _, at := range said {
		b.heard(at+second/100, 1, a, at)
	}
	b.knows(997*second, 1, "", "b")
	b.active(begin, 2, begin+5*second).knows(begin, 2, "b", "b").ended(begin+3*second, 2, "draining").stop(begin + 4*second)
	return a, b
}

var (
	one   = host{clock: "c1"}
	far   = host{clock: "c2", offset: 400 * hour}
	wrong = host{clock: "c2", offset: -hour, wrong: -5 * time.Hour}
)

func TestTwoMasters(t *testing.T) {
	heard := []int64{500 * second, 990 * second}
	for _, test := range []struct {
		name   string
		ha, hb host
		begin  int64
		said   []int64
		ruin   func(a, b *recorder)
		want   check.Answer
		reason string // in one of those why it is unknown
		broken string
	}{
		{name: "one host", ha: one, hb: one, begin: 1001 * second, want: check.No},
		{name: "one host, at the deadline", ha: one, hb: one, begin: 1000 * second, want: check.No},
		{name: "one host, before the deadline, and no end of a is on record", ha: one, hb: one, begin: 999 * second, want: check.Unknown, reason: "the end of term 1 of a is not on record"},
		{name: "one host, too early", ha: one, hb: one, begin: 999 * second, want: check.Yes, broken: "I2", ruin: func(a, b *recorder) {
			a.renewed(999*second+second/2, 1, 1004*second)
		}},
		{name: "one host, and the end of a is missing between others", ha: one, hb: one, begin: 999 * second, want: check.Unknown, reason: "1 records of a are missing", ruin: func(a, b *recorder) {
			a.ended(998*second, 1, "resigned").stop(1003 * second)
			a.records = slices.Delete(a.records, len(a.records)-2, len(a.records)-1)
		}},
		{name: "one host, and b knows of a mastership that a has not on record", ha: one, hb: one, begin: 1001 * second, want: check.Unknown, reason: "has no mastership of term 3, in which b saw it", ruin: func(a, b *recorder) {
			b.records = slices.Delete(b.records, len(b.records)-1, len(b.records))
			b.knows(1006*second, 3, "a", "a", "b").active(1010*second, 4, 1015*second).ended(1011*second, 4, "resigned").stop(1012 * second)
		}},
		{name: "two histories of one instance", ha: one, hb: one, begin: 1001 * second, want: check.Unknown, reason: "there are two histories of a", ruin: func(a, b *recorder) {
			copied := &recorder{host: a.host, node: a.node, records: slices.Clone(a.records[:len(a.records)-1])}
			a.records = append(a.records, copied.renewed(996*second, 1, 1010*second).records[len(copied.records)-1])
		}},
		{name: "a mastership that is over before it begins", ha: one, hb: one, begin: 999 * second, want: check.Unknown, broken: "I4 I12", reason: "the end of term 2 of b", ruin: func(a, b *recorder) {
			for k := range b.records {
				if r := &b.records[k]; r.Term == 2 {
					r.Term = 3
				}
			}
			b.records = b.records[:len(b.records)-1]
			b.active(1020*second, 2, second).stop(1021 * second)
		}},
		{name: "one host, wall clock set", ha: one, hb: host{clock: "c1", wrong: -9 * time.Hour}, begin: 1001 * second, want: check.No},
		{name: "no name of the clocks", begin: 1001 * second, want: check.Unknown, reason: "may overlap by up to"},
		{name: "two hosts", ha: one, hb: far, begin: 1001 * second, said: heard, want: check.No},
		{name: "two hosts, wall clocks wrong", ha: one, hb: wrong, begin: 1001 * second, said: heard, want: check.No},
		{name: "two hosts, nothing heard lately", ha: one, hb: far, begin: 1001 * second, said: heard[:1], want: check.Unknown, reason: "may overlap by up to 9.1"},
		{name: "two hosts, too close to tell", ha: one, hb: far, begin: 1000*second + second/10, said: heard, want: check.Unknown, reason: "by their wall clocks there were 100ms between them"},
		{name: "two hosts, too early, which nobody can tell", ha: one, hb: far, begin: 999 * second, said: heard, want: check.Unknown, reason: "by their wall clocks they overlap by 1s"},
		{name: "two hosts, and a learned of b while it was master", ha: one, hb: far, begin: 996 * second, said: heard, want: check.Yes, broken: "I2", ruin: func(a, b *recorder) {
			a.knows(996*second+second/10, 2, "b", "a", "b").renewed(997*second, 1, 1002*second)
		}},
		{name: "the same with wall clocks wrong", ha: one, hb: wrong, begin: 996 * second, said: heard, want: check.Yes, broken: "I2", ruin: func(a, b *recorder) {
			a.knows(996*second+second/10, 2, "b", "a", "b").renewed(997*second, 1, 1002*second)
		}},
		{name: "a learned of b when it was over", ha: one, hb: far, begin: 1001 * second, said: heard, want: check.No, ruin: func(a, b *recorder) {
			a.knows(1002*second, 2, "b", "a", "b").stop(1003 * second)
		}},
		{name: "a third member without a history", ha: one, hb: one, begin: 1001 * second, want: check.Unknown, reason: "no history of c (instance c1), which b saw", ruin: func(a, b *recorder) {
			b.knows(1002*second, 2, "b", "b", "c")
		}},
		{name: "a gap", ha: one, hb: one, begin: 1001 * second, want: check.Unknown, reason: "3 records of a are missing", ruin: func(a, b *recorder) {
			a.records = slices.Delete(a.records, 100, 103)
		}},
		{name: "a history that was cut at its beginning", ha: one, hb: one, begin: 1001 * second, want: check.No, ruin: func(a, b *recorder) {
			a.records = slices.Delete(a.records, 0, 100)
		}},
		{name: "a history that was copied too early", ha: one, hb: far, begin: 1001 * second, said: heard, want: check.Unknown, reason: "the end of the history of a", ruin: func(a, b *recorder) {
			a.records = a.records[:100]
		}},
		{name: "a reading that was forged", ha: one, hb: far, begin: 1001 * second, said: heard, want: check.Unknown, reason: "contradict", ruin: func(a, b *recorder) {
			a.knows(1002*second, 2, "b", "a", "b")
			b.heard(1002*second, 1, a, 5000*second)
		}},
		{name: "a term twice", ha: one, hb: far, begin: 1001 * second, said: heard, want: check.No, broken: "I1", ruin: func(a, b *recorder) {
			for k := range b.records {
				if r := &b.records[k]; r.Term == 2 {
					r.Term = 1
				} else if r.View != nil && r.View.Term == 2 {
					r.View.Term, r.View.Master.Term = 1, 1
				}
			}
		}},
		{name: "a mastership revived", ha: one, hb: far, begin: 1001 * second, said: heard, want: check.Unknown, broken: "I6", reason: "may overlap", ruin: func(a, b *recorder) {
			a.renewed(1002*second, 1, 1005*second)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := failover(test.ha, test.hb, test.begin, test.said...)
			if test.ruin != nil {
				test.ruin(a, b)
			}
			for _, order := range [][]check.Log{logs(a, b), logs(b, a)} {
				got := check.Check(order, check.Options{})
				var broken []string
				for _, v := range got.Violations {
					broken = append(broken, v.Invariant)
				}
				if got.TwoMasters != test.want || strings.Join(slices.Compact(broken), " ") != test.broken {
					t.Errorf("two masters: %s, want %s; broken: %v, want %q", got.TwoMasters, test.want, got.Violations, test.broken)
				}
				if len(got.Undecided) > 0 != (test.want == check.Unknown) || !strings.Contains(strings.Join(got.Undecided, "\n"), test.reason) {
					t.Errorf("undecided: %q, want %q", got.Undecided, test.reason)
				}
			}
		})
	}
}

// The longest time without a master is told, and when it was, whatever the wall clocks show.
func TestAvailability(t *testing.T) {
	for name, hb := range map[string]host{"one host": one, "two hosts": far, "a wrong wall clock": wrong} {
		a, b := failover(one, hb, 1002*second, 500*second, 990*second)
		got := check.Check(logs(a, b), check.Options{})
		about, ok := got.Availability()
		if d := about.Without - 2*time.Second; !ok || d.Abs() > 100*time.Millisecond || about.Since.Sub(epoch.Add(1000*time.Second)).Abs() > 100*time.Millisecond || about.Now {
			t.Errorf("%s: %+v", name, about)
		}
		if apart := slices.ContainsFunc(got.Notes, func(n string) bool {
			return strings.Contains(n, "differ by about 5h0m0s; times are shown by that of a")
		}); apart != (name == "a wrong wall clock") {
			t.Errorf("%s: notes %q", name, got.Notes)
		}
	}
}

// What lies outside of a span is no part of the answer.
func TestSpan(t *testing.T) {
	a, b := failover(one, one, 999*second)
	a.renewed(999*second+second/2, 1, 1000*second)
	for _, test := range []struct {
		since, until time.Duration
		want         check.Answer
		masterships  int
	}{
		{0, 0, check.Yes, 2}, {0, 900 * time.Second, check.No, 1}, {1001 * time.Second, 0, check.No, 1}, {998 * time.Second, 1001 * time.Second, check.Yes, 2},
	} {
		var o check.Options
		if test.since > 0 {
			o.Since = epoch.Add(test.since)
		}
		if test.until > 0 {
			o.Until = epoch.Add(test.until)
		}
		got := check.Check(logs(a, b), o)
		if got.TwoMasters != test.want || len(got.Masterships) != test.masterships || (test.want == check.No) != (len(got.Violations) == 0) {
			t.Errorf("from %v to %v: %s, %d masterships, %v", test.since, test.until, got.TwoMasters, len(got.Masterships), got.Violations)
		}
		for _, e := range got.Timeline() {
			if !o.Since.IsZero() && e.Time.Before(o.Since) || !o.Until.IsZero() && e.Time.After(o.Until) {
				t.Errorf("from %v to %v: %+v", test.since, test.until, e)
			}
		}
	}
}

// A file that is there twice, and parts of it in any order, are the same as the file.
func TestPartsOfAHistory(t *testing.T) {
	a, b := failover(one, one, 1001*second)
	parts := []check.Log{{Host: "a.2", Records: a.records[200:]}, {Host: "b", Records: b.records}, {Host: "a.1", Records: a.records[:210]}, {Host: "copy", Records: a.records[50:60]}}
	got := check.Check(parts, check.Options{})
	if got.TwoMasters != check.No || len(got.Violations) > 0 || len(got.Instances) != 2 || len(got.Notes) > 0 {
		t.Errorf("two masters: %s %q, broken: %v, %d instances, notes %q", got.TwoMasters, got.Undecided, got.Violations, len(got.Instances), got.Notes)
	}
}

// Records without a number are not taken: whether one is missing, or there twice, nobody could
// tell.
func TestRecordsWithoutANumber(t *testing.T) {
	a, b := failover(one, one, 1001*second)
	var text bytes.Buffer
	for _, r := range append(a.records, b.records...) {
		if r.NodeID == "b" {
			r.N = 0
		}
		if err := json.NewEncoder(&text).Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	var l check.Loader
	for range 2 {
		if err := l.Read("both", bytes.NewReader(text.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.Sources[1]; s.Lines != len(b.records) || !strings.Contains(s.Unreadable.Err().Error(), "without its number") {
		t.Errorf("%d unreadable lines: %v", s.Lines, s.Unreadable.Err())
	}
	if r := check.Check(l.Logs, check.Options{}); len(r.Violations) > 0 || len(r.Instances) != 1 {
		t.Errorf("%d instances, %v", len(r.Instances), r.Violations)
	}
}

// The timeline has each event of each node in plain words.
func TestTimeline(t *testing.T) {
	a := &recorder{host: one, node: "a"}
	a.start(second).active(2*second, 3, 7*second).renewed(3*second, 3, 8*second)
	a.add(4*second, history.Record{Kind: history.View, View: &history.ViewState{}, Events: []history.Event{
		{Kind: "member_joined", NodeID: "b", InstanceID: "b1"}, {Kind: "member_failed", NodeID: "b"}, {Kind: "member_left", NodeID: "b"},
		{Kind: "member_updated", NodeID: "b", Changed: []string{"zone"}}, {Kind: "cluster_formed"}, {Kind: "quorum_changed"},
		{Kind: "master_changed", NodeID: "b", InstanceID: "b1", Term: 4}, {Kind: "master_changed", NodeID: "a", InstanceID: "a1", Term: 3}, {Kind: "master_lost", NodeID: "b", Term: 4}, {Kind: "later"},
	}})
	a.add(9*second, history.Record{Kind: history.Ended, Term: 3, UntilNS: 8 * second, Reason: "deadline"})
	a.add(10*second, history.Record{Kind: history.Leaving})
	var got []string
	for _, e := range check.Check(logs(a), check.Options{}).Timeline() {
		got = append(got, e.Time.Format("05 ")+e.Text)
	}
	want := []string{
		"01 started as 10.0.0.5:7946, instance a1", "02 is master of term 3",
		"04 sees b as a member (instance b1)", "04 considers b failed", "04 sees that b has left", "04 sees that b has changed its zone", "04 knows the cluster's id",
		"04 sees no majority of the members", "04 knows b as master of term 4", "04 knows no master: b was master of term 4", "04 later",
		"09 is no longer master of term 3: its deadline had passed, as after a pause of the process, and was not for the 1s before this",
		"10 is leaving", "10 its history ends: it was killed, or still runs",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func write(t *testing.T, name string, records []history.Record, zip bool) {
	t.Helper()
	var text bytes.Buffer
	w := history.NewWriter(&text, records[0].NodeID, records[0].InstanceID, records[0].Clock)
	for _, r := range records {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if zip {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		z.Write(text.Bytes())
		z.Close()
		text = packed
	}
	if err := os.WriteFile(name, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	a, b := failover(one, far, 1001*second, 990*second)
	write(t, filepath.Join(dir, "a.jsonl"), a.records, false)
	write(t, filepath.Join(dir, "b.jsonl-20261130.gz"), b.records, true)
	for name, text := range map[string]string{"agent.log": "{}\n", "c.history.1": "garbage\n{\"v\":1", "broken.jsonl.gz": "\x1f\x8bgarbage"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names, err := check.Files(dir)
	if err != nil {
		t.Fatal(err)
	}
	var l check.Loader
	var got []string
	for _, name := range names {
		if err := l.File(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		s := l.Sources[len(l.Sources)-1]
		got = append(got, fmt.Sprintf("%s: %d records, %d torn, %d unreadable, failed %v", filepath.Base(name), s.Records, s.Torn, s.Lines, s.Err != nil))
	}
	want := []string{
		fmt.Sprintf("a.jsonl: %d records, 0 torn, 0 unreadable, failed false", len(a.records)),
		fmt.Sprintf("b.jsonl-20261130.gz: %d records, 0 torn, 0 unreadable, failed false", len(b.records)),
		"broken.jsonl.gz: 0 records, 0 torn, 0 unreadable, failed true",
		"c.history.1: 0 records, 1 torn, 1 unreadable, failed false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if r := check.Check(l.Logs, check.Options{}); r.TwoMasters != check.No || len(r.Masterships) != 2 {
		t.Errorf("two masters: %s %q, %d masterships", r.TwoMasters, r.Undecided, len(r.Masterships))
	}
	if kept := len(l.Logs[0].Records); kept > 20 {
		t.Errorf("%d records are kept of %d, most of which are renewals", kept, len(a.records))
	}
	if _, err := check.Files(t.TempDir()); err == nil {
		t.Error("a directory without a history is no error")
	}
}

// Renewals that are folded hide no gap, no renewal after a deadline, and no second file.
func TestFoldedRenewals(t *testing.T) {
	load := func(all ...[]history.Record) *check.Report {
		var l check.Loader
		for _, records := range all {
			var text bytes.Buffer
			for _, r := range records {
				if err := json.NewEncoder(&text).Encode(r); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Read("x", &text); err != nil {
				t.Fatal(err)
			}
		}
		return check.Check(l.Logs, check.Options{})
	}
	a, b := failover(one, one, 1001*second)
	if got := load(a.records[:150], a.records[100:], b.records, a.records[40:60]); got.TwoMasters != check.No || len(got.Violations) > 0 || len(got.Masterships) != 2 {
		t.Errorf("parts: %s %q %v", got.TwoMasters, got.Undecided, got.Violations)
	}
	if got := load(slices.Delete(slices.Clone(a.records), 100, 103), b.records); !strings.Contains(strings.Join(got.Undecided, ""), "3 records of a are missing") {
		t.Errorf("a gap: %s %q", got.TwoMasters, got.Undecided)
	}
	late := slices.Clone(a.records)
	late[100].DeadlineNS = late[100].BootNS + 1
	late[99].DeadlineNS = late[100].DeadlineNS
	if got := load(late, b.records); len(got.Violations) != 1 || got.Violations[0].Invariant != "I6" {
		t.Errorf("a renewal after the deadline: %v", got.Violations)
	}
}

func TestSelect(t *testing.T) {
	a, b := failover(one, one, 1001*second)
	for k := range b.records {
		if b.records[k].Cluster != "" {
			b.records[k].Cluster = "carts"
		}
	}
	all := logs(a, b)
	if got := check.Clusters(all); !slices.Equal(got, []string{"carts", "orders"}) {
		t.Errorf("clusters %q", got)
	}
	if got := check.Select(all, "carts"); len(got) != 1 || got[0].Host != "host-b" {
		t.Errorf("selected %d logs", len(got))
	}
}

// FuzzCheck holds that no histories make the checker fail.
func FuzzCheck(f *testing.F) {
	a, b := failover(one, far, 1001*second, 990*second)
	var text [2]bytes.Buffer
	for k, r := range []*recorder{a, b} {
		w := history.NewWriter(&text[k], r.node, r.node+"1", r.clock)
		for n, record := range r.records {
			if n < 6 || n > len(r.records)-4 {
				w.Write(record)
			}
		}
	}
	f.Add(text[0].Bytes(), text[1].Bytes())
	f.Add(text[0].Bytes(), text[0].Bytes())
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var l check.Loader
		for _, text := range [][]byte{first, second} {
			if err := l.Read("fuzz", bytes.NewReader(text)); err != nil {
				t.Fatal(err)
			}
		}
		r := check.Check(l.Logs, check.Options{})
		r.Timeline()
		r.Availability()
		if overlap := slices.ContainsFunc(r.Violations, func(v check.Violation) bool { return v.Invariant == "I2" }); overlap && r.TwoMasters != check.Yes {
			t.Errorf("two masters: %s beside %v", r.TwoMasters, r.Violations)
		}
	})
}
