package page

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/upgrade"
)

// Jobs and steps are shown, with what is wrong with them.
func TestJobsAndSteps(t *testing.T) {
	s := seen{
		Jobs: []cron.NodeStatus{
			{Name: "report", Schedule: "30 2 * * * UTC", Next: time.Date(2026, 12, 1, 2, 30, 0, 0, time.UTC), Failed: 2,
				Last: &cron.RunStatus{State: cron.Failed, Error: "<no disk>"}},
			{Name: "noon", Spec: &cron.Spec{Handler: "report"}, Problem: "no handler"},
		},
		Steps: []upgrade.Status{{Name: "schema", Version: "1.2", State: upgrade.Interrupted, NodeID: "orders-1", Term: 7}},
	}
	want := []warning{{"jobs that fail", "report"}, {"jobs that do not run here", "noon"}, {"steps that are stuck", "schema 1.2"}}
	if got := warningsOf(s); !slices.Equal(got, want) {
		t.Errorf("the warnings: %q", got)
	}
	text := ""
	for _, section := range viewOfNode(s).Sections {
		if section.ID == "jobs" || section.ID == "steps" {
			var out strings.Builder
			if err := templates.ExecuteTemplate(&out, section.ID+".html", section.Data); err != nil {
				t.Fatal(err)
			}
			text += out.String()
		}
	}
	for _, want := range []string{"2026-12-01 02:30:00Z", "&lt;no disk&gt;", "0 done, 2 failed", "runs report", "does not run here: no handler", "schema", `<span class="bad">interrupted</span>`} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing from\n%s", want, text)
		}
	}
}

// A warning does not name a thousand jobs.
func TestManyJobsThatFail(t *testing.T) {
	t.Parallel()
	var s seen
	for i := range 1000 {
		s.Jobs = append(s.Jobs, cron.NodeStatus{Name: fmt.Sprintf("j%03d", i), Last: &cron.RunStatus{State: cron.Interrupted}})
	}
	if got := warningsOf(s); len(got) != 1 || got[0].Text != "j000, j001, j002, j003, j004 and 995 more" {
		t.Errorf("the warnings: %q", got)
	}
}

// kept is a store of one run, which may be away, and counts how often it is read.
type kept struct {
	cron.Store
	run   string
	away  error
	reads int
}

func (k *kept) Records(_ context.Context, prefix string) ([]driver.Record, error) {
	if prefix != "cron/runs/" {
		k.reads++
		return nil, k.away
	}
	return []driver.Record{{Key: prefix + "report", Value: []byte(k.run)}}, k.away
}

// A node that is not master shows the last run of a job as it is recorded, and asks for it no more
// often than a page is asked for.
func TestLastRunsElsewhere(t *testing.T) {
	t.Parallel()
	var runs recordedRuns
	store := &kept{run: `{"what":"2026-11-30T02:30:00.000000000Z","state":"failed","term":7,"node_id":"orders-2","error":"no disk"}`}
	now := time.Now()
	show := func(jobs ...cron.NodeStatus) []cron.NodeStatus {
		runs.fill(t.Context(), now, store, jobs)
		return jobs
	}
	for range 3 {
		jobs := show(cron.NodeStatus{Name: "report"}, cron.NodeStatus{Name: "never"}, cron.NodeStatus{Name: "each", EachNode: true})
		if last := jobs[0].Last; last == nil || last.State != cron.Failed || last.NodeID != "orders-2" || jobs[1].Last != nil || jobs[2].Last != nil {
			t.Errorf("the jobs: %+v", jobs)
		}
		if got := warningsOf(seen{Jobs: jobs}); !slices.Equal(got, []warning{{"jobs that fail", "report"}}) {
			t.Errorf("the warnings: %q", got)
		}
	}
	now, store.away = now.Add(refreshNode), errors.New("it is away")
	if jobs := show(cron.NodeStatus{Name: "report"}); jobs[0].Last == nil {
		t.Error("nothing is known while the store is away")
	}
	now = now.Add(refreshNode)
	own := &cron.RunStatus{State: cron.Done}
	if jobs := show(cron.NodeStatus{Name: "report", Last: own}); jobs[0].Last != own || store.reads != 2 {
		t.Errorf("where it is known: %+v, after %d reads", jobs[0].Last, store.reads)
	}
}
