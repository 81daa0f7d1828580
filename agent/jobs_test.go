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
	for _, row := range []struct {
		recorded cron.Spec
		each     bool
		timeout  time.Duration
	}{
		{cron.Spec{Handler: "report", Timeout: time.Minute}, false, time.Minute},
		{cron.Spec{Handler: "report", Timeout: time.Hour}, false, time.Minute},
		{cron.Spec{Handler: "report", EachNode: true}, false, time.Minute},
		{cron.Spec{Handler: "clean-up", Timeout: time.Hour}, true, 0},
	} {
		spec := row.recorded
		if err := j.permit(&spec); err != nil || spec.EachNode != row.each || spec.Timeout != row.timeout {
			t.Errorf("%+v: %+v, %v", row.recorded, spec, err)
		}
	}
	if err := j.permit(&cron.Spec{Handler: "report", Args: []string{"--all"}}); err == nil || !strings.Contains(err.Error(), "arguments") {
		t.Errorf("with arguments: %v", err)
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
