package page

import (
	"strings"
	"testing"
	"time"

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
