package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJobs(t *testing.T) {
	c := mustLoad(t, least+`
jobs:
  - {name: report, schedule: "30 2 * * *", time_zone: Europe/Berlin, command: ["/bin/report", "--of", "a, b"], timeout: 30m, missed: once, window: 2h}
  - {name: clean-up, schedule: "@every 10m", command: [/bin/clean-up], where: all}
  - {name: by-hand, command: [/bin/true]}
`, nil)
	want := []Job{
		{Name: "report", Schedule: "30 2 * * *", TimeZone: "Europe/Berlin", Command: []string{"/bin/report", "--of", "a, b"},
			Timeout: 30 * time.Minute, Missed: "once", Window: 2 * time.Hour},
		{Name: "clean-up", Schedule: "@every 10m", Command: []string{"/bin/clean-up"}, Where: "all"},
		{Name: "by-hand", Command: []string{"/bin/true"}},
	}
	if diff := cmp.Diff(want, c.Jobs); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A name that package cron refuses would keep all jobs from running.
func TestJobNames(t *testing.T) {
	for name, want := range map[string]bool{"report": true, "a.b-c_D": true, ".a": true, "": false, ".": false, "..": false, "...": false, "a/b": false, "a b": false} {
		if isJobName(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
}

// A mistake elsewhere hides none of a job, and one in a job none of the others.
func TestJobsAreCheckedWithTheRest(t *testing.T) {
	_, wrong := load(t, least+`
http: {addr: nonsense}
mastership: {ttl: banana}
jobs:
  - {name: "bad name", schedule: "x", timeout: banana, command: [a]}
  - hello
  - {name: b, schedule: "99 * * * *", time_zone: Mars/X, comand: [a]}
  - {name: b, command: [a], where: nowhere}
proxy:
  - {listen: "127.0.0.1:1", to: slave, app: pg, max_connections: many}
`, nil)
	if wrong == nil {
		t.Fatal("no error")
	}
	err := wrong.Error()
	for _, key := range []string{
		"http.addr", "mastership.ttl", "jobs[0].name", "jobs[0].schedule", "jobs[0].timeout", "jobs[1]", "jobs[2].schedule",
		"jobs[2].time_zone", "jobs[2].comand", "jobs[2].command", "jobs[3].name", "jobs[3].where", "proxy[0].to", "proxy[0].max_connections",
	} {
		if n := strings.Count(err, " "+key+": "); n != 1 {
			t.Errorf("%d errors of %s in\n%s", n, key, err)
		}
	}
	if strings.Contains(err, "jobs[1].") {
		t.Errorf("an item that is none is judged as one:\n%s", err)
	}
}

// A program that is not there is no error, and is told with the place of the job.
func TestMissingPrograms(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"runs": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	c := mustLoad(t, least+`
jobs:
  - {name: found, command: [runs]}
  - {name: path, command: [`+dir+`/runs]}
  - {name: text, command: [`+dir+`/text]}
  - {name: gone, command: [gone]}
`, nil)
	missing := c.MissingPrograms()
	if len(missing) != 2 {
		t.Fatalf("missing: %v", missing)
	}
	for i, want := range []string{"jobs[2].command", "jobs[3].command"} {
		if text := missing[i].Error(); !strings.Contains(text, want) || !strings.Contains(text, "cannot be executed here") {
			t.Errorf("%s: %s", want, text)
		}
	}
}
