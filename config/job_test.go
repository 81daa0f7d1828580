package config

import (
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
