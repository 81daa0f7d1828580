package history_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/node/history"
)

var update = flag.Bool("update", false, "write the golden file anew")

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
		}},
		{BootNS: 5_000, Kind: history.Ended, Term: 3, ClusterID: "c1", DeadlineNS: 8_000, UntilNS: 5_000, Reason: "draining"},
		{BootNS: 5_500, Kind: history.Leaving},
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
	w := history.NewWriter(&got, "a", "a-1")
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
	disk := &limited{left: 120}
	w := history.NewWriter(disk, "a", "a-1")
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
	text := `{"v":1,"t_boot_ns":1,"kind":"leaving","later":"field"}
garbage
{"v":2,"t_boot_ns":2,"kind":"leaving"}
{"v":1,"t_boot_ns":3,"kind":"leaving"}
`
	records, err := history.Read(strings.NewReader(text))
	if len(records) != 2 || records[0].BootNS != 1 || records[1].BootNS != 3 {
		t.Errorf("Read = %+v, want those of 1 and 3", records)
	}
	for _, want := range []string{"line 2: no record", "line 3: version 2"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read = %v, want %q", err, want)
		}
	}
}

func TestNilWriter(t *testing.T) {
	var w *history.Writer
	w.Write(history.Record{Kind: history.Leaving})
	if err := w.Err(); err != nil {
		t.Error(err)
	}
}
