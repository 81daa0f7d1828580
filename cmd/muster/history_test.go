package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/clock"
)

// A reign is one mastership as its own node logged it, on the boot clock that all
// processes of the host share.
type reign struct {
	node       string
	term       uint64
	clusterID  string
	begin, end clock.Instant
}

func (r reign) String() string {
	return fmt.Sprintf("%s in term %d from %v to %v", r.node, r.term, r.begin, r.end)
}

// readReigns reads the masterships from the log of one agent. One whose end was not
// logged goes on until its last deadline, or until the process was killed.
func readReigns(log []byte, killed []clock.Instant) ([]reign, error) {
	var reigns []reign
	var open *reign
	var deadline clock.Instant
	finish := func(end clock.Instant) {
		if open != nil {
			open.end = end
			reigns = append(reigns, *open)
			open = nil
		}
	}
	// A process that follows shows that the one before was killed.
	killedBy := func(next clock.Instant) clock.Instant {
		end := deadline
		for _, k := range killed {
			if open != nil && open.begin.Before(k) && k.Before(next) {
				end = min(end, k)
			}
		}
		return end
	}
	lines := bufio.NewScanner(bytes.NewReader(log))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var record struct {
			Msg       string `json:"msg"`
			Node      string `json:"node_id"`
			Term      uint64 `json:"term"`
			ClusterID string `json:"cluster_id"`
			Boot      int64  `json:"t_boot_ns"`
			Deadline  int64  `json:"deadline_ns"`
			Until     int64  `json:"until_ns"`
		}
		if !strings.HasPrefix(lines.Text(), "{") {
			continue // not a record, such as the output of a crash
		}
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			return nil, fmt.Errorf("log record %q: %w", lines.Text(), err)
		}
		switch record.Msg {
		case "mastership active":
			finish(killedBy(clock.Instant(record.Boot)))
			open = &reign{node: record.Node, term: record.Term, clusterID: record.ClusterID, begin: clock.Instant(record.Boot)}
			deadline = clock.Instant(record.Deadline)
		case "mastership renewed":
			deadline = clock.Instant(record.Deadline)
		case "mastership ended":
			finish(clock.Instant(record.Until))
		}
	}
	finish(killedBy(clock.Instant(1<<63 - 1)))
	return reigns, lines.Err()
}

// checkReigns verifies that there was at most one master at any time, that terms
// only rose, and that there was one cluster.
func checkReigns(reigns []reign) error {
	slices.SortFunc(reigns, func(a, b reign) int { return int(a.begin.Sub(b.begin)) })
	for i := 1; i < len(reigns); i++ {
		last, next := reigns[i-1], reigns[i]
		switch {
		case next.begin.Before(last.end):
			return fmt.Errorf("two masters for %v: %v, and %v", last.end.Sub(next.begin), last, next)
		case next.term <= last.term:
			return fmt.Errorf("the term did not rise: %v, then %v", last, next)
		case next.clusterID != last.clusterID:
			return fmt.Errorf("two clusters: %s of %v, and %s of %v", last.clusterID, last, next.clusterID, next)
		}
	}
	return nil
}

// The check is worth something only if it fails where it must.
func TestCheckReignsNotices(t *testing.T) {
	a := reign{node: "a", term: 1, clusterID: "x", begin: 10, end: 20}
	for _, test := range []struct {
		name string
		next reign
		want string
	}{
		{"sound", reign{node: "b", term: 2, clusterID: "x", begin: 20, end: 30}, ""},
		{"overlap", reign{node: "b", term: 2, clusterID: "x", begin: 19, end: 30}, "two masters"},
		{"same term", reign{node: "b", term: 1, clusterID: "x", begin: 25, end: 30}, "did not rise"},
		{"other cluster", reign{node: "b", term: 2, clusterID: "y", begin: 25, end: 30}, "two clusters"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := checkReigns([]reign{test.next, a})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("checkReigns = %v, want %q", err, test.want)
			}
		})
	}
}

func TestReadReigns(t *testing.T) {
	log := `{"msg":"mastership active","node_id":"a","term":1,"cluster_id":"x","t_boot_ns":100,"deadline_ns":200}
{"msg":"mastership renewed","term":1,"t_boot_ns":150,"deadline_ns":250}
{"msg":"mastership active","node_id":"a","term":3,"cluster_id":"x","t_boot_ns":400,"deadline_ns":500}
{"msg":"mastership ended","term":3,"t_boot_ns":900,"until_ns":480}
{"msg":"mastership active","node_id":"a","term":5,"cluster_id":"x","t_boot_ns":1000,"deadline_ns":1100}
`
	reigns, err := readReigns([]byte(log), []clock.Instant{180, 1050})
	if err != nil {
		t.Fatal(err)
	}
	want := []reign{
		{"a", 1, "x", 100, 180},   // killed before its deadline
		{"a", 3, "x", 400, 480},   // ended at its deadline, though it noticed late
		{"a", 5, "x", 1000, 1050}, // killed at the end of the log
	}
	if !slices.Equal(reigns, want) {
		t.Errorf("readReigns = %v, want %v", reigns, want)
	}
}
