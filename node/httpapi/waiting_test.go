package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/mastership"
)

// waitingMetrics returns the values of muster_waiting by reason.
func waitingMetrics(t *testing.T, url string) map[string]string {
	t.Helper()
	_, body := get(t, url+httpapi.PathMetrics)
	values := make(map[string]string)
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, `muster_waiting{reason="`); ok {
			reason, value, _ := strings.Cut(strings.TrimSpace(rest), `"} `)
			values[reason] = value
		}
	}
	return values
}

// checkWaiting holds that exactly one reason is 1, or none, and that all are there.
func checkWaiting(t *testing.T, url string, reason node.WaitReason) {
	t.Helper()
	values := waitingMetrics(t, url)
	for _, known := range node.WaitReasons() {
		want := "0"
		if known == reason {
			want = "1"
		}
		if got := values[string(known)]; got != want {
			t.Errorf("muster_waiting of %s is %q, want %s", known, got, want)
		}
	}
	if len(values) != len(node.WaitReasons()) {
		t.Errorf("%d reasons, want %d", len(values), len(node.WaitReasons()))
	}
}

// A node that is not ready says why in a sentence and in a code, wherever it is asked.
func TestWaitingReason(t *testing.T) {
	url := serve(t, memory.New(), "a", func(c *node.Config) { c.Bootstrap.Expect = 3 })
	var status httpapi.Status
	wait.For(t, "the node waits for a majority", func() bool { // the provider answers first
		decode(t, waitFor(t, url+httpapi.PathStatus, http.StatusOK), &status)
		return status.WaitingReason == string(mastership.WaitMajority)
	}, func() string { return fmt.Sprintf("waiting for %q (%s)", status.WaitingFor, status.WaitingReason) })
	const sentence = "the cluster is not formed: waiting for a majority: sees 1 of the 2 needed"
	if status.Ready || status.WaitingFor != sentence {
		t.Errorf("ready %v, waiting for %q", status.Ready, status.WaitingFor)
	}
	for path, want := range map[string]httpapi.Error{
		httpapi.PathReady:  {Error: "not ready: " + sentence, Reason: "no_majority"},
		httpapi.PathMaster: {Error: "no master is known: " + sentence, Reason: "no_majority"},
	} {
		code, body := get(t, url+path)
		var e httpapi.Error
		decode(t, body, &e)
		if code < 400 || e != want {
			t.Errorf("GET %s: status %d, %+v, want %+v", path, code, e, want)
		}
	}
	checkWaiting(t, url, mastership.WaitMajority)
}

// A node that knows a master waits for nothing.
func TestNothingIsWaitedFor(t *testing.T) {
	url := serve(t, memory.New(), "a", nil)
	waitFor(t, url+httpapi.PathMaster, http.StatusOK)
	if body := waitFor(t, url+httpapi.PathReady, http.StatusOK); body != "ok\n" {
		t.Errorf("GET %s: %q", httpapi.PathReady, body)
	}
	if _, body := get(t, url+httpapi.PathStatus); strings.Contains(body, "waiting_") {
		t.Errorf("GET %s: %s", httpapi.PathStatus, body)
	}
	checkWaiting(t, url, "")
}

// Where no master is wanted, the node is ready, and who asks for the master learns why there
// is none.
func TestNoMasterWanted(t *testing.T) {
	url := serve(t, memory.New(), "a", func(c *node.Config) { c.Mastership.Authority = []string{node.AuthorityNone} })
	const sentence = "mastership.authority is none, so that no member is granted mastership"
	if body, want := waitFor(t, url+httpapi.PathReady, http.StatusOK), fmt.Sprintf("ok\nno master: %s (reason none_wanted)\n", sentence); body != want {
		t.Errorf("GET %s: %q, want %q", httpapi.PathReady, body, want)
	}
	code, body := get(t, url+httpapi.PathMaster)
	var e httpapi.Error
	decode(t, body, &e)
	if want := (httpapi.Error{Error: "no master is known: " + sentence, Reason: "none_wanted"}); code != http.StatusNotFound || e != want {
		t.Errorf("GET %s: status %d, %+v, want %+v", httpapi.PathMaster, code, e, want)
	}
	checkWaiting(t, url, node.WaitNoneWanted)
}
