package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/httpapi"
)

// A client lists, adds, triggers, pauses and removes jobs, and reads what they wrote; and only what
// the program has can be added.
func TestJobs(t *testing.T) {
	report := func(_ context.Context, f cron.Fire) error {
		fmt.Fprintf(f.Output, "by %s", f.Job)
		return errors.New("no disk")
	}
	never, err := cron.Parse("@never", nil)
	if err != nil {
		t.Fatal(err)
	}
	jobs := &cron.Scheduler{
		Handlers: map[string]func(context.Context, cron.Fire) error{"report": report, "each": report},
		Permit: func(s *cron.Spec) error {
			s.EachNode = s.Handler == "each"
			return nil
		},
	}
	n, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{Jobs: jobs}}, nil)
	jobs.Node, jobs.Store = n, n.Store()
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- jobs.Run(running, cron.Job{Name: "report", Schedule: never, Run: report}) }()
	t.Cleanup(func() { stop(); <-ended })
	base := "http://" + addr
	read := func(path string, into any) {
		t.Helper()
		status, body := get(t, base+path)
		if err := json.Unmarshal([]byte(body), into); status != http.StatusOK || err != nil {
			t.Fatalf("%s: status %d, %v: %s", path, status, err, body)
		}
	}
	job := func(name string) (j httpapi.Job) {
		t.Helper()
		var all []httpapi.Job
		read(httpapi.PathJobs, &all)
		for _, one := range all {
			if one.Name == name {
				j = one
			}
		}
		return j
	}
	want := func(what string, status int, path string, query ...string) {
		t.Helper()
		values := url.Values{}
		for i := 0; i < len(query); i += 2 {
			values.Set(query[i], query[i+1])
		}
		if got, body := post(t, base+path+"?"+values.Encode(), "Content-Type", "application/json"); got != status {
			t.Errorf("%s: status %d, want %d: %s", what, got, status, body)
		}
	}
	wait.For(t, "the job is known", func() bool { return job("report").Schedule == "@never" })

	want("trigger", http.StatusOK, httpapi.PathJobTrigger, "name", "report")
	wait.For(t, "it has run", func() bool { l := job("report").Last; return l != nil && l.State == cron.Failed })
	var runs []cron.RunStatus
	read(httpapi.PathJobRuns+"?name=report", &runs)
	if len(runs) != 1 || runs[0].Error != "no disk" || !runs[0].Triggered {
		t.Fatalf("runs: %+v", runs)
	}
	if status, body := get(t, fmt.Sprintf("%s%s?name=report&run=%d", base, httpapi.PathJobOutput, runs[0].Seq)); status != http.StatusOK || body != "by report" {
		t.Errorf("output: status %d: %q", status, body)
	}
	if _, body := get(t, base+httpapi.PathMetrics); !strings.Contains(body, `muster_job_last_run_failed{name="report"} 1`) ||
		!strings.Contains(body, `muster_job_runs_total{name="report",outcome="failed"} 1`) {
		t.Errorf("the metrics lack the failure")
	}

	want("add", http.StatusOK, httpapi.PathJobAdd, "name", "noon", "runs", "report", "schedule", "0 12 * * *", "time_zone", "Europe/Berlin")
	if j := job("noon"); j.Runs != "report" || j.Schedule != "0 12 * * * Europe/Berlin" {
		t.Errorf("added: %+v", j)
	}
	want("add again", http.StatusConflict, httpapi.PathJobAdd, "name", "noon", "runs", "report", "schedule", "@daily")
	want("add what nobody has", http.StatusBadRequest, httpapi.PathJobAdd, "name", "x", "runs", "/bin/sh", "schedule", "@daily")
	want("add in place of one of the program", http.StatusConflict, httpapi.PathJobAdd, "name", "report", "runs", "report", "schedule", "@daily")
	want("add with a wrong schedule", http.StatusBadRequest, httpapi.PathJobAdd, "name", "x", "runs", "report", "schedule", "61 * * * *")
	want("add what is not caught up with", http.StatusBadRequest, httpapi.PathJobAdd, "name", "x", "runs", "each", "schedule", "@daily", "missed", "once")
	want("add with a window that means nothing", http.StatusBadRequest, httpapi.PathJobAdd, "name", "x", "runs", "report", "schedule", "@daily", "window", "2h")
	want("pause", http.StatusOK, httpapi.PathJobPause, "name", "noon")
	wait.For(t, "it is paused", func() bool { return job("noon").Paused })
	want("resume", http.StatusOK, httpapi.PathJobResume, "name", "noon")
	wait.For(t, "it is resumed", func() bool { j := job("noon"); return !j.Paused && !j.Next.IsZero() })
	want("trigger what nobody knows", http.StatusNotFound, httpapi.PathJobTrigger, "name", "nope")
	want("remove", http.StatusOK, httpapi.PathJobRemove, "name", "noon")
	want("remove one of the program", http.StatusConflict, httpapi.PathJobRemove, "name", "report")
	want("remove what is gone", http.StatusNotFound, httpapi.PathJobRemove, "name", "noon")
	if status, _ := post(t, base+httpapi.PathJobTrigger+"?name=report"); status != http.StatusUnsupportedMediaType {
		t.Errorf("a form of another page: status %d", status)
	}
}
