package history_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/node/history"
)

var update = flag.Bool("update", false, "write the golden file")

// records has one of each kind, with every field that it can have.
func records() []history.Record {
	return []history.Record{
		{BootNS: 1_000, Kind: history.Start, Cluster: "orders", Addr: "10.0.0.5:7946"},
		{BootNS: 2_000, Kind: history.View, View: &history.ViewState{Seq: 1, Members: []history.Member{
			{NodeID: "a", InstanceID: "a-1", Addr: "10.0.0.5:7946"},
		}}},
		{BootNS: 3_000, Kind: history.Active, Term: 3, ClusterID: "c1", DeadlineNS: 7_000},
		{BootNS: 4_000, Kind: history.Renewed, Term: 3, ClusterID: "c1", SentNS: 3_500, DeadlineNS: 8_000},
		{BootNS: 4_500, Kind: history.View, View: &history.ViewState{
			Seq: 2, Term: 3, ClusterID: "c1", Majority: true, Master: &history.Master{NodeID: "a", InstanceID: "a-1", Term: 3},
			Members: []history.Member{
				{NodeID: "a", InstanceID: "a-1", Addr: "10.0.0.5:7946"}, {NodeID: "b", InstanceID: "b-1", Addr: "10.0.0.6:7946"},
			},
		}, Events: []history.Event{
			{Kind: "member_updated", NodeID: "b", InstanceID: "b-1", Changed: []string{"zone", "tags"}},
			{Kind: "cluster_formed"},
			{Kind: "master_lost", NodeID: "b", InstanceID: "b-1", Term: 2},
		}},
		{BootNS: 5_000, Kind: history.Ended, Term: 3, ClusterID: "c1", DeadlineNS: 8_000, UntilNS: 5_000, Reason: "draining"},
		{BootNS: 5_500, Kind: history.Leaving, Time: time.Date(2026, 11, 30, 3, 14, 7, 412_000_000, time.UTC)},
		{BootNS: 5_600, Kind: history.Heard, Term: 4, ClusterID: "c1", Peer: &history.Reading{NodeID: "b", InstanceID: "b-1", Clock: "0ther", BootNS: 77}},
		{BootNS: 6_000, Kind: history.Stop},
	}
}

// writes keeps what each write brought.
type writes struct{ parts [][]byte }

func (w *writes) Write(b []byte) (int, error) {
	w.parts = append(w.parts, bytes.Clone(b))
	return len(b), nil
}

// TestLayout pins the lines: users read them with tools of their own.
func TestLayout(t *testing.T) {
	const golden = "testdata/history.jsonl"
	var got writes
	w := history.NewWriter(&got, "a", "a-1", "c0ffee")
	for _, r := range records() {
		w.Write(r)
	}
	for _, part := range got.parts {
		if bytes.Count(part, []byte("\n")) != 1 || part[len(part)-1] != '\n' {
			t.Errorf("a write that is not one line: %q", part)
		}
	}
	text := bytes.Join(got.parts, nil)
	if *update {
		if err := os.WriteFile(golden, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Errorf("the layout has changed, which readers of version %d do not expect: -want +got:\n%s", history.Version, diff)
	}
	read, err := history.Read(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	expected := records()
	for i := range expected {
		expected[i].Version, expected[i].NodeID, expected[i].InstanceID = history.Version, "a", "a-1"
		expected[i].N, expected[i].Clock = uint64(i+1), "c0ffee"
	}
	if diff := cmp.Diff(expected, read); diff != "" {
		t.Errorf("read back: -want +got:\n%s", diff)
	}
}

// limited takes so many bytes more, and then fails as a full disk does.
type limited struct {
	bytes.Buffer
	left int
}

var errFull = errors.New("no space left on device")

func (l *limited) Write(b []byte) (int, error) {
	n, _ := l.Buffer.Write(b[:min(len(b), l.left)])
	l.left -= n
	if n < len(b) {
		return n, errFull
	}
	return n, nil
}

// What a full disk tears is left out, and what comes after it is read again.
func TestTornLines(t *testing.T) {
	disk := &limited{left: 140}
	w := history.NewWriter(disk, "a", "a-1", "c0ffee")
	w.Write(history.Record{BootNS: 1, Kind: history.Leaving})
	w.Write(history.Record{BootNS: 2, Kind: history.Leaving})
	if !errors.Is(w.Err(), errFull) {
		t.Errorf("Err() = %v, want %v", w.Err(), errFull)
	}
	disk.left = 10_000
	w.Write(history.Record{BootNS: 3, Kind: history.Leaving})
	w.Write(history.Record{BootNS: 4, Kind: history.Leaving})
	if !errors.Is(w.Err(), errFull) {
		t.Errorf("Err() = %v after the disk has room again, want %v: a record is missing", w.Err(), errFull)
	}
	killed := strings.TrimSuffix(disk.String(), "\"}\n")
	for text, want := range map[string][]int64{disk.String(): {1, 3, 4}, killed: {1, 3}} {
		got, err := history.Read(strings.NewReader(text))
		var at []int64
		for _, r := range got {
			at = append(at, r.BootNS)
		}
		if err != nil || !cmp.Equal(at, want) {
			t.Errorf("Read = records of %v, %v; want those of %v from:\n%s", at, err, want, text)
		}
	}
}

func TestReadNamesWhatItCannotRead(t *testing.T) {
	text := `{"v":1,"n":1,"t_boot_ns":1,"kind":"leaving","later":"field"}
garbage
{"v":2,"t_boot_ns":2,"kind":"leaving"}
{"v":1,"n":1,"t_boot_ns":3,"kind":"leaving"}
{"v":1,"t_boot_ns":4,"kind":"leaving"}
`
	records, err := history.Read(strings.NewReader(text))
	if len(records) != 2 || records[0].BootNS != 1 || records[1].BootNS != 3 {
		t.Errorf("Read = %+v, want those of 1 and 3", records)
	}
	for _, want := range []string{"line 2: no record", "line 3: version 2", "line 5: a record without its number"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read = %v, want %q", err, want)
		}
	}
}

// A number is missing where a record is.
func TestNumbersOfRecords(t *testing.T) {
	disk := &limited{left: 10}
	w := history.NewWriter(disk, "a", "a-1", "")
	w.Write(history.Record{BootNS: 1, Kind: history.Leaving})
	disk.left = 10_000
	w.Write(history.Record{BootNS: 2, Kind: history.Leaving})
	got, err := history.Read(&disk.Buffer)
	if err != nil || len(got) != 1 || got[0].N != 2 {
		t.Errorf("Read = %+v, %v; want one record, the second", got, err)
	}
}

// What is no history costs no memory, and what comes behind it is read.
func TestReadGarbage(t *testing.T) {
	const record = `{"v":1,"n":1,"t_boot_ns":1,"kind":"leaving"}` + "\n"
	text := strings.Repeat("x", 9<<20) + "\n" + record + strings.Repeat("garbage\n", 1000) + record
	s := history.NewScanner(strings.NewReader(text))
	records := 0
	for s.Scan() {
		records++
	}
	bad := s.Unreadable()
	if records != 2 || bad.Lines != 1001 || len(bad.Named) != 10 || bad.Torn != 0 || s.Err() != nil {
		t.Errorf("%d records, %d unreadable, %d named, %d torn, %v", records, bad.Lines, len(bad.Named), bad.Torn, s.Err())
	}
	for _, want := range []string{"line 1: longer than", "line 3: no record", "and 991 more lines"} {
		if !strings.Contains(bad.Err().Error(), want) {
			t.Errorf("the error is %v, want %s", bad.Err(), want)
		}
	}
}

// The last records are kept, as whole lines, and one that is longer than all of them.
func TestRecent(t *testing.T) {
	var kept history.Recent
	w := history.NewWriter(&kept, "a", "a-1", "")
	numbers := func() (first, last uint64, size int64) {
		var text bytes.Buffer
		size, err := kept.WriteTo(&text)
		if err != nil {
			t.Fatal(err)
		}
		records, err := history.Read(&text)
		if err != nil || len(records) == 0 {
			t.Fatalf("%d records, %v", len(records), err)
		}
		return records[0].N, records[len(records)-1].N, size
	}
	for range 30_000 {
		w.Write(history.Record{Kind: history.Renewed, Term: 7, BootNS: 1_000_000_000_000})
	}
	if first, last, size := numbers(); first <= 1 || last != 30_000 || size > history.RecentBytes || size < history.RecentBytes*9/10 {
		t.Errorf("records %d to %d are kept, %d bytes", first, last, size)
	}
	w.Write(history.Record{Kind: history.Ended, Reason: strings.Repeat("x", history.RecentBytes)})
	if first, last, _ := numbers(); first != 30_001 || last != 30_001 {
		t.Errorf("records %d to %d are kept after a long one", first, last)
	}
	w.Write(history.Record{Kind: history.Stop})
	if first, last, _ := numbers(); first != 30_002 || last != 30_002 {
		t.Errorf("records %d to %d are kept in the end", first, last)
	}
}

// FuzzRead holds that no bytes make the reader fail, and that what it has read is what would be
// written.
func FuzzRead(f *testing.F) {
	golden, err := os.ReadFile("testdata/history.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add([]byte("{\"v\":1}\n{\"v\":2}\ngarbage\n{\"torn\":"))
	f.Fuzz(func(t *testing.T, text []byte) {
		records, _ := history.Read(bytes.NewReader(text))
		for _, r := range records {
			line, err := json.Marshal(r)
			if err != nil {
				t.Fatalf("%+v: %v", r, err)
			}
			again, err := history.Read(bytes.NewReader(line))
			if diff := cmp.Diff([]history.Record{r}, again); diff != "" || err != nil {
				t.Errorf("read again: %v -want +got:\n%s", err, diff)
			}
		}
	})
}

func TestNilWriter(t *testing.T) {
	var w *history.Writer
	w.Write(history.Record{Kind: history.Leaving})
	if err := w.Err(); err != nil {
		t.Error(err)
	}
}
