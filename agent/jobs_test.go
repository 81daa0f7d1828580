package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/node/cron"
)

// Whatever the store says of a job, its command runs as it is in the configuration, or not at all.
func TestPermit(t *testing.T) {
	j := &jobs{byName: map[string]config.Job{
		"report": {Name: "report", Timeout: time.Minute}, "clean-up": {Name: "clean-up", Where: config.OnAll},
	}}
	for problem, spec := range map[string]cron.Spec{
		"":             {Handler: "report", Timeout: time.Minute},
		"arguments":    {Handler: "report", Timeout: time.Minute, Args: []string{"--all"}},
		"runs on mas":  {Handler: "report", Timeout: time.Minute, EachNode: true},
		"runs on all":  {Handler: "clean-up"},
		"is 1h0m0s, a": {Handler: "report", Timeout: time.Hour},
	} {
		err := j.permit(spec)
		if (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%+v: %v, want %q", spec, err, problem)
		}
	}
}

// Each job of each node has a lock of its own, whose file can be made whatever the names are.
func TestLockNames(t *testing.T) {
	seen := make(map[string][]string)
	for _, names := range [][]string{
		{"orders", "a", "b-c"}, {"orders", "a-b", "c"}, {"orders-a", "b", "c"},
		{strings.Repeat("c", 128), strings.Repeat("n", 128), strings.Repeat("j", 64)},
		{"orders", "a", strings.Repeat("\u00fc", 128)},
	} {
		name := lockName(names[0], names[1], names[2])
		if other, twice := seen[name]; twice {
			t.Errorf("%q and %q have one lock", names, other)
		}
		seen[name] = names
		if len(name) > 255 || strings.Contains(name, "/") {
			t.Errorf("%q: no file has the name %q", names, name)
		}
	}
}
