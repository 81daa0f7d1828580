//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/history/check"
)

// incidentOf runs muster history over what agents recorded.
func incidentOf(t *testing.T, wantStatus int, args ...string) (found incident, text string) {
	t.Helper()
	status, stdout, stderr := execute(t, append([]string{"history", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(stdout), &found); err != nil || status != wantStatus {
		t.Fatalf("status %d, want %d; %v, stderr %q, stdout:\n%s", status, wantStatus, err, stderr, stdout)
	}
	_, text, _ = execute(t, append([]string{"history"}, args...)...)
	return found, text
}

// A master is killed, and the histories show how long there was none, and that there were never
// two.
func TestIncidentOfAKilledMaster(t *testing.T) {
	t.Parallel()
	c, first := formCluster(t, 3, staticProvider)
	master, others := c.split(first)
	c.kill(master)
	second := c.waitMaster(first.Term, 2, others...)
	// The agents that still run know what happened, but not what the first master did.
	found, text := incidentOf(t, statusDone, "--agent", others[0].httpAddr, "--agent", others[1].httpAddr)
	if found.TwoMasters != check.Unknown || !strings.Contains(text, "there is no history of "+first.NodeID) || !strings.Contains(text, fmt.Sprintf("knows %s as master of term %d", second.NodeID, second.Term)) {
		t.Errorf("the agents say %s: %q\n%s", found.TwoMasters, found.Undecided, text)
	}
	found, text = incidentOf(t, statusDone, "--agent", others[0].httpAddr, "--agent", others[1].httpAddr, "--agent", master.httpAddr, c.historyFile(master))
	if found.TwoMasters != check.No || len(found.Sources) != 4 || !strings.Contains(text, "no agent answers at "+master.httpAddr) {
		t.Errorf("with the history of the one that was killed: %s %q\n%s", found.TwoMasters, found.Undecided, text)
	}
	c.stopAll()

	found, text = incidentOf(t, statusDone, c.files.dir)
	if found.TwoMasters != check.No || len(found.Violations) > 0 || len(found.Sources) != 3 {
		t.Errorf("the incident is %+v", found)
	}
	var last, whole incidentMastership
	for _, m := range found.Masterships {
		if m.NodeID == first.NodeID && m.Reason != "" || m.NodeID != first.NodeID && m.Reason == "" {
			t.Errorf("a mastership ended by %q: %+v", m.Reason, m)
		}
		if m.Term == second.Term && (m.NodeID != second.NodeID || m.BeginNS <= last.BeginNS) {
			t.Errorf("%+v after %+v", m, last)
		}
		if last = m; m.Term == second.Term {
			whole = m
		}
	}
	if a := found.Availability; a == nil || a.LongestWithout <= 0 || a.LongestWithout > wait.Patience.Seconds() || a.Share <= 0 || a.Share >= 1 {
		t.Errorf("the times are %+v", found.Availability)
	}
	for _, want := range []string{
		"two masters: no\n", "longest without a master: ", fmt.Sprintf("is master of term %d", second.Term),
		fmt.Sprintf("its history ends as master of term %d: it was killed, or still runs", first.Term),
		"considers " + first.NodeID + " failed",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing says %q:\n%s", want, text)
		}
	}

	// The same with a second master that somebody planted: another term begins while
	// the second, whose end is on record, is master.
	name := c.historyFile(others[0])
	records := readHistoryFile(t, name)
	for k := range records {
		if r := &records[k]; r.Kind == history.Start {
			begin := whole.BeginNS + int64(time.Millisecond)
			extra := *r
			extra.Kind, extra.InstanceID, extra.NodeID, extra.N, extra.BootNS = history.Active, "planted", "evil", 1, begin
			extra.Term, extra.ClusterID, extra.DeadlineNS, extra.Cluster, extra.Addr = 1000, first.ClusterID, begin+int64(time.Hour), "", ""
			records = append(records, extra)
			break
		}
	}
	writeHistory(t, name, records)
	found, text = incidentOf(t, statusFailed, c.files.dir)
	if found.TwoMasters != check.Yes || !strings.Contains(text, "two masters: yes\n") || !strings.Contains(text, "I2: two masters for") {
		t.Errorf("a planted master is not found:\n%s", text)
	}
}

func readHistoryFile(t *testing.T, name string) []history.Record {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return checker.ReadLog(t, name, f).Records
}

func writeHistory(t *testing.T, name string, records []history.Record) {
	t.Helper()
	var text bytes.Buffer
	for _, r := range records {
		if err := json.NewEncoder(&text).Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(name, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each agent runs with a boot clock of its own, hours apart from the others, as on hosts of its
// own. What they heard from each other suffices to know that there were never two masters. Their
// wall clocks are then made wrong by hours, and nothing changes.
func TestIncidentOfClocksHoursApart(t *testing.T) {
	t.Parallel()
	unshare, err := exec.LookPath("unshare")
	if err == nil {
		err = exec.CommandContext(t.Context(), unshare, "--time", "--boottime", "3600", "true").Run()
	}
	if err != nil {
		if os.Getenv("MUSTER_REQUIRE_NETLAB") != "" {
			t.Fatal(err)
		}
		t.Skipf("clocks of their own want root and unshare: %v", err)
	}
	c := newTestCluster(t, 3, staticProvider)
	for k, agent := range c.agents {
		script := writeFile(t, "start.sh", fmt.Sprintf("#!/bin/sh\nexec %s --time --boottime %d %q \"$@\"\n", unshare, 3600*(5*k+1), c.files.binary))
		if err := os.Chmod(script, 0o700); err != nil {
			t.Fatal(err)
		}
		c.lives[agent.name] = append(c.lives[agent.name], checker.Life{Host: agent.name, Begin: int64(clock.Now())})
		if err := agent.start(script); err != nil {
			t.Fatal(err)
		}
	}
	first := c.waitMaster(0, 3, c.agents...)
	master, others := c.split(first)
	c.kill(master)
	c.waitMaster(first.Term, 2, others...)
	c.stopAll()

	for _, wrong := range []time.Duration{0, 7 * time.Hour} {
		for k, agent := range c.agents {
			records := readHistoryFile(t, c.historyFile(agent))
			for n := range records {
				records[n].Time = records[n].Time.Add(time.Duration(k) * wrong)
			}
			writeHistory(t, c.historyFile(agent), records)
		}
		found, text := incidentOf(t, statusDone, c.files.dir)
		clocks := make(map[string]bool)
		for _, m := range found.Masterships {
			clocks[m.Clock] = true
		}
		// On a machine under load an announcement may be heard so late that it says too little.
		late := found.TwoMasters == check.Unknown && !slices.ContainsFunc(found.Undecided, func(reason string) bool { return !strings.Contains(reason, "may overlap by up to") })
		if found.TwoMasters != check.No && !late || len(found.Violations) > 0 || len(clocks) < 2 {
			t.Errorf("wrong by %v: %d clocks, two masters: %s %q, %v", wrong, len(clocks), found.TwoMasters, found.Undecided, found.Violations)
		}
		if a := found.Availability; a == nil || a.LongestWithout <= 0 || a.LongestWithout > wait.Patience.Seconds() {
			t.Errorf("wrong by %v: %+v", wrong, a)
		}
		if wrong > 0 && !strings.Contains(text, "differ by about 7h0m0s") && !strings.Contains(text, "differ by about 14h0m0s") {
			t.Errorf("nothing says that the wall clocks are wrong:\n%s", text)
		}
	}
	heard := false
	for _, agent := range others {
		for _, r := range readHistoryFile(t, c.historyFile(agent)) {
			heard = heard || r.Kind == history.Heard && r.Peer.InstanceID == first.InstanceID
		}
	}
	if !heard {
		t.Error("no reading of the clock of the first master is on record")
	}
}

func TestHistoryUsage(t *testing.T) {
	empty := t.TempDir()
	good := writeFile(t, "a.jsonl", `{"v":1,"n":1,"t_boot_ns":1,"kind":"start","node_id":"a","instance_id":"a1","cluster":"orders"}`+"\n")
	other := writeFile(t, "b.jsonl", `{"v":1,"n":1,"t_boot_ns":1,"kind":"start","node_id":"b","instance_id":"b1","cluster":"carts"}`+"\n")
	garbage := writeFile(t, "c.jsonl", "garbage\n")
	for _, v := range []struct {
		status int
		args   []string
		want   string
	}{
		{statusFailed, []string{"--agent", "127.0.0.1:1"}, "no agent answers at 127.0.0.1:1"},
		{statusUsage, []string{"--agent", "127.0.0.1"}, "not the address of an agent"},
		{statusUsage, []string{filepath.Join(empty, "none.jsonl")}, "no such file"},
		{statusUsage, []string{empty}, "there is no file in it"},
		{statusUsage, []string{good, "-o", "yaml"}, `--output: "yaml"`},
		{statusUsage, []string{good, "--since", "soon"}, `--since: "soon": not a time; write`},
		{statusUsage, []string{good, "--since", "1h", "--until", "2h"}, `--until: "2h": not after --since "1h"`},
		{statusUsage, []string{good, other}, "several clusters: carts, orders; name one with --cluster"},
		{statusUsage, []string{good, "--cluster", "carts"}, `--cluster: "carts": there is no history of it, but of orders`},
		{statusFailed, []string{garbage}, "there is no record of a history in"},
		{statusDone, []string{good, other, garbage, "--cluster", "carts"}, ""},
	} {
		status, _, stderr := execute(t, append([]string{"history"}, v.args...)...)
		if status != v.status || !strings.Contains(stderr, v.want) {
			t.Errorf("muster history %v: status %d, stderr %q; want %d and %q", v.args, status, stderr, v.status, v.want)
		}
	}
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "2h": now.Add(-2 * time.Hour), "2026-11-30 03:14": time.Date(2026, 11, 30, 3, 14, 0, 0, time.UTC),
		"2026-11-30 03:14:07.4": time.Date(2026, 11, 30, 3, 14, 7, 400_000_000, time.UTC), "2026-11-30": time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC),
		"2026-11-30T03:14:07+01:00": time.Date(2026, 11, 30, 2, 14, 7, 0, time.UTC),
	} {
		if got, err := parseMoment("--since", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
