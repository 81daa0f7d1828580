package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
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
	}{
		{cron.Spec{Handler: "report", Timeout: time.Minute}, false},
		{cron.Spec{Handler: "report", Timeout: time.Hour}, false},
		{cron.Spec{Handler: "report", EachNode: true}, false},
		{cron.Spec{Handler: "clean-up", Timeout: time.Hour}, true},
	} {
		spec := row.recorded
		if err := j.permit(&spec); err != nil || spec.EachNode != row.each || spec.Timeout != 0 {
			t.Errorf("%+v: %+v, %v", row.recorded, spec, err)
		}
	}
	if err := j.permit(&cron.Spec{Handler: "report", Args: []string{"--all"}}); err == nil || !strings.Contains(err.Error(), "arguments") {
		t.Errorf("with arguments: %v", err)
	}
}

// A job that waits for others to start has its whole timeout once it may.
func TestTimeoutCountsFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &jobs{starts: make(chan struct{}, 1)}
		_, started, end, err := j.begin(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, started)
		began := time.Now()
		run, _, endSecond, err := j.begin(t.Context(), 100*time.Millisecond)
		if err != nil || time.Since(began) < time.Second {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		if until, ok := run.Deadline(); !ok || time.Until(until) != 100*time.Millisecond {
			t.Errorf("it has %v left", time.Until(until))
		}
		<-run.Done()
		if err := context.Cause(run); !strings.Contains(err.Error(), "ran for more than 100ms") {
			t.Errorf("it ends: %v", err)
		}
		end()
		stopped, stop := context.WithCancel(t.Context())
		stop()
		if _, _, _, err := j.begin(stopped, 0); !errors.Is(err, cron.ErrInterrupted) {
			t.Errorf("the mastership ends while it waits: %v", err)
		}
		endSecond()
		if len(j.starts) != 0 {
			t.Error("its place is not free again")
		}
	})
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
