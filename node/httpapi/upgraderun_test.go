package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/upgrade"
)

// statusOf reads what is recorded of a step.
func statusOf(t *testing.T, base, name string) upgrade.Status {
	t.Helper()
	_, body := get(t, base+httpapi.PathUpgrades)
	var all []upgrade.Status
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	return upgrade.Status{}
}

// A step whose client is gone is recorded as interrupted, and not before the last deadline that the
// client knew: until then its command may run.
func TestStepOfAClientThatIsGone(t *testing.T) {
	steps := new(upgrade.Runner)
	n, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{Upgrades: steps}}, nil)
	steps.Node, steps.Ledger = n, n.Store()
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- steps.Run(running) }()
	t.Cleanup(func() { stop(); <-ended })
	base := "http://" + addr
	path := base + httpapi.PathUpgradeRun + "?name=schema&version=1"
	working := func(m httpapi.Mastership) bool { return m.Term > 0 }

	ctx, vanish := context.WithCancel(t.Context())
	m := until(t, "the step is to run", events(t, ctx, http.MethodPost, path), working)
	if s := statusOf(t, base, "schema"); s.State != upgrade.Running || uint64(s.Term) != m.Term {
		t.Errorf("while it runs it is recorded as %+v", s)
	}
	if status, body := post(t, path, "Content-Type", "application/json"); status != http.StatusConflict {
		t.Errorf("a second client: status %d: %s", status, body)
	}
	vanish()
	wait.For(t, "the step is interrupted", func() bool { return statusOf(t, base, "schema").State != upgrade.Running })
	if now := clock.Now(); now < clock.Instant(m.BootNS+m.ValidNS) {
		t.Errorf("recorded %v before the deadline of the client", clock.Instant(m.BootNS+m.ValidNS).Sub(now))
	}
	if s := statusOf(t, base, "schema"); s.State != upgrade.Interrupted {
		t.Errorf("it is recorded as %+v", s)
	}

	// One that says how it went has done it, or has failed.
	for _, outcome := range []string{httpapi.OutcomeFailed, "unheard-of", httpapi.OutcomeNotBegun, httpapi.OutcomeDone} {
		before := statusOf(t, base, "schema")
		if status, body := post(t, base+httpapi.PathUpgradeRetry+"?name=schema&version=1", "Content-Type", "application/json"); before.State != upgrade.Free && status != http.StatusOK {
			t.Fatalf("retry: status %d: %s", status, body)
		}
		ctx, end := context.WithCancel(t.Context())
		defer end()
		stream := events(t, ctx, http.MethodPost, path)
		m := until(t, "the step is to run", stream, working)
		done := fmt.Sprintf("%s%s?hold=%s&term=%d&outcome=%s&error=no+space", base, httpapi.PathDone, m.Hold, m.Term, outcome)
		if status, body := post(t, done, "Content-Type", "application/json"); status != http.StatusOK {
			t.Fatalf("done: status %d: %s", status, body)
		}
		wait.For(t, "the end is recorded", func() bool { return statusOf(t, base, "schema").State != upgrade.Running })
		want := upgrade.Interrupted
		switch outcome {
		case httpapi.OutcomeDone, httpapi.OutcomeFailed:
			want = upgrade.State(outcome)
		case httpapi.OutcomeNotBegun:
			want = upgrade.Free
		}
		s := statusOf(t, base, "schema")
		if s.State != want || (want == upgrade.Failed || want == upgrade.Interrupted) != strings.Contains(s.Error, "no space") {
			t.Errorf("%s is recorded as %+v", outcome, s)
		}
		if want == upgrade.Free && s.Runs != before.Runs {
			t.Errorf("it has not begun, and has %d runs: %d before", s.Runs, before.Runs)
		}
		for range stream { // each is good for one run
		}
		end()
	}
}

// A name or a version that is none is a mistake of the client, on all paths.
func TestStepsThatAreNone(t *testing.T) {
	t.Parallel()
	_, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{Upgrades: new(upgrade.Runner)}}, nil)
	for query, want := range map[string]string{
		"name=schema&version=v1": "want numbers with dots between them, such as 1.2.0", "name=schema": "want numbers",
		"name=a/b&version=1": "without slashes", "version=1": "name",
	} {
		status, body := get(t, "http://"+addr+httpapi.PathUpgradeWait+"?"+query)
		if status != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("wait: %s: status %d: %s", query, status, body)
		}
		for _, path := range []string{httpapi.PathUpgradeRun, httpapi.PathUpgradeRetry, httpapi.PathUpgradeResolve} {
			status, body := post(t, "http://"+addr+path+"?"+query, "Content-Type", "application/json")
			if status != http.StatusBadRequest || !strings.Contains(body, want) {
				t.Errorf("%s: %s: status %d: %s", path, query, status, body)
			}
		}
	}
}

// A client that names itself and does not say that it goes on, as one that is stopped, has
// interrupted its step.
func TestStepOfAClientThatIsSilent(t *testing.T) {
	t.Parallel()
	steps := new(upgrade.Runner)
	n, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{Upgrades: steps}}, nil)
	steps.Node, steps.Ledger = n, n.Store()
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- steps.Run(running) }()
	t.Cleanup(func() { stop(); <-ended })
	base := "http://" + addr
	path := base + httpapi.PathUpgradeRun + "?name=schema&version=1&holder=h"
	stream := events(t, t.Context(), http.MethodPost, path)
	until(t, "the step is to run", stream, func(m httpapi.Mastership) bool { return m.Term > 0 })
	for range stream { // it ends by itself
	}
	wait.For(t, "the step is interrupted", func() bool { return statusOf(t, base, "schema").State == upgrade.Interrupted })
}
