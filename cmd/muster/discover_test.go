package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
)

func TestDiscoverLists(t *testing.T) {
	file := writeFile(t, "muster.yaml", "cluster: orders\nprovider: {static: {peers: [\"10.0.0.6:7946\", \"10.0.0.5:7946\"]}}\n")
	status, stdout, stderr := execute(t, "discover", "-c", file)
	if status != statusDone || stderr != "" {
		t.Fatalf("status %d, stderr %q", status, stderr)
	}
	want := [][]string{
		{"NODE", "INSTANCE", "ADDRESS", "ZONE", "TAGS", "META", "APP", "ADDRESSES"},
		{"-", "-", "10.0.0.5:7946", "-", "-", "-", "-"},
		{"-", "-", "10.0.0.6:7946", "-", "-", "-", "-"},
	}
	if diff := cmp.Diff(want, columns(stdout)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	status, stdout, stderr = execute(t, "discover", "-c", file, "-o", "json", "--service", "bills")
	if status != statusDone || stderr != "" {
		t.Fatalf("status %d, stderr %q", status, stderr)
	}
	var got []driver.Instance
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v:\n%s", err, stdout)
	}
	if len(got) != 2 || got[0].Service != "bills" || got[0].Addr != "10.0.0.5:7946" {
		t.Errorf("got %+v", got)
	}
}

// TestDiscoverAProviderThatIsDown holds that the wait is announced, ends, and
// names the provider and its endpoint.
func TestDiscoverAProviderThatIsDown(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // it accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	endpoint := "http://" + l.Addr().String()
	file := writeFile(t, "muster.yaml", "cluster: orders\nprovider: {etcd: {endpoints: [\""+endpoint+"\"]}}\n")
	status, stdout, stderr := executeProcess(t, "discover", "-c", file, "--timeout", "2s")
	if status != statusFailed || stdout != "" {
		t.Errorf("status %d, stdout %q, want status 1", status, stdout)
	}
	label := "provider etcd (endpoints " + endpoint + ")"
	for _, want := range []string{"muster: waiting for " + label, "muster: " + label + " did not answer within 2s: "} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is missing in:\n%s", want, stderr)
		}
	}
}

// fake is a provider that knows what it is told.
type fake struct {
	mu       sync.Mutex
	snapshot driver.Snapshot
	err      error
}

func (f *fake) set(s driver.Snapshot, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snapshot, f.err = s, err
}

func (f *fake) List(context.Context, driver.Query) (driver.Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snapshot, f.err
}

func (f *fake) Close() error { return nil }

func instance(id string) driver.Instance {
	return driver.Instance{
		Service: "orders", NodeID: "n-" + id, InstanceID: id, Addr: "10.0.0.5:7946",
		Tags: []string{"web"}, Meta: map[string]string{"v": "1"}, AppAddrs: map[string]string{"http": "10.0.0.5:80"},
	}
}

// following is a discoverer at work: the lines that it prints, and its end.
type following struct {
	out, err chan string
	done     chan error
	stop     context.CancelFunc
}

// follow starts a discoverer of the provider "fake" and, if there is a second one, of
// "other".
func follow(t *testing.T, d discoverer, fakes ...*fake) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &following{out: make(chan string, 1000), err: make(chan string, 1000), done: make(chan error, 1), stop: cancel}
	d.out, d.err = &lineWriter{lines: w.out}, &lineWriter{lines: w.err}
	d.query.Service, d.label = "orders", func(provider string) string { return "provider " + provider }
	var registries []*discovery.Registry
	for n, f := range fakes {
		name := []string{"fake", "other"}[n]
		registries = append(registries, discovery.New(name, f, discovery.Options{PollInterval: 5 * time.Millisecond}))
	}
	union := discovery.NewUnion(registries...)
	go func() { w.done <- errors.Join(d.follow(ctx, union), union.Close()) }()
	t.Cleanup(cancel)
	return w
}

// lineWriter sends each line that is written to it.
type lineWriter struct {
	lines chan string
	rest  string // the line that has not ended
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest += string(p)
	for {
		line, rest, ended := strings.Cut(w.rest, "\n")
		if !ended {
			return len(p), nil
		}
		w.lines <- line
		w.rest = rest
	}
}

const liveness = 20 * time.Second

func next(t *testing.T, lines chan string) string {
	t.Helper()
	select {
	case line := <-lines:
		return line
	case <-time.After(liveness):
		t.Fatal("nothing more is printed")
		return ""
	}
}

func ended(t *testing.T, w *following) error {
	t.Helper()
	select {
	case err := <-w.done:
		return err
	case <-time.After(liveness):
		t.Fatal("it does not end")
		return nil
	}
}

func TestDiscoverWatchPrintsOneObjectPerChange(t *testing.T) {
	f := &fake{snapshot: driver.Snapshot{Revision: 1, Instances: []driver.Instance{instance("a")}}}
	w := follow(t, discoverer{watch: true, output: "json", timeout: liveness}, f)
	read := func() discovered {
		t.Helper()
		var d discovered
		line := next(t, w.out)
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		return d
	}
	if d := read(); d.Revision != 1 || len(d.Instances) != 1 || d.Stale {
		t.Errorf("first: %+v", d)
	}
	f.set(driver.Snapshot{
		Revision:  2,
		Instances: []driver.Instance{instance("a"), instance("b")},
		Skipped:   []driver.Skipped{{Key: "/muster/orders/c", Reason: errors.New("not JSON")}},
	}, nil)
	if d := read(); len(d.Instances) != 2 || len(d.Skipped) != 1 || d.Skipped[0] != (skipped{"/muster/orders/c", "not JSON"}) {
		t.Errorf("second: %+v", d)
	}
	if got, want := next(t, w.err), `muster: skipped "/muster/orders/c": not JSON`; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	f.set(driver.Snapshot{}, fmt.Errorf("%w: connection refused", driver.ErrUnavailable))
	if d := read(); len(d.Instances) != 2 || !d.Stale || !strings.Contains(d.Error, "connection refused") {
		t.Errorf("failed: %+v", d)
	}
	if got := next(t, w.err); !strings.HasPrefix(got, "muster: stale: provider fake fails: ") {
		t.Errorf("stderr %q", got)
	}
	f.set(driver.Snapshot{Revision: 3}, nil)
	if d := read(); len(d.Instances) != 0 || d.Instances == nil || d.Stale {
		t.Errorf("last: %+v", d)
	}
	if got, want := next(t, w.err), "muster: provider fake answers again"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	w.stop()
	if err := ended(t, w); err != nil {
		t.Errorf("an interrupted watch fails: %v", err)
	}
}

func TestDiscoverWatchPrintsTables(t *testing.T) {
	f := &fake{snapshot: driver.Snapshot{Instances: []driver.Instance{instance("a")}}}
	w := follow(t, discoverer{watch: true, output: "table", timeout: liveness}, f)
	for _, want := range []string{"1 of orders", "NODE", "n-a", ""} {
		if got := next(t, w.out); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDiscoverGoesOnWhenTheProviderComes(t *testing.T) {
	f := &fake{err: fmt.Errorf("%w: connection refused", driver.ErrUnavailable)}
	w := follow(t, discoverer{output: "table", timeout: liveness}, f)
	if got, want := next(t, w.err), "muster: waiting for provider fake: list: provider unavailable: connection refused"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	f.set(driver.Snapshot{Instances: []driver.Instance{instance("a")}}, nil)
	if err := ended(t, w); err != nil {
		t.Fatal(err)
	}
	if got := next(t, w.out); !strings.HasPrefix(got, "NODE") {
		t.Errorf("stdout %q", got)
	}
}

func TestDiscoverDoesNotWaitForWhatNoRetryMends(t *testing.T) {
	f := &fake{err: fmt.Errorf("%w: wrong password", driver.ErrDenied)}
	w := follow(t, discoverer{output: "table"}, f)
	err := ended(t, w)
	if !errors.Is(err, driver.ErrDenied) && (err == nil || !strings.Contains(err.Error(), "wrong password")) {
		t.Errorf("error %v, want access denied", err)
	}
}

func TestDiscoverInterruptedBeforeAnAnswer(t *testing.T) {
	f := &fake{err: driver.ErrUnavailable}
	w := follow(t, discoverer{output: "table"}, f)
	next(t, w.err)
	w.stop()
	if err := ended(t, w); err == nil || !strings.HasPrefix(err.Error(), "interrupted before provider fake answered: ") {
		t.Errorf("error %v", err)
	}
}

// What one provider knows is printed although the other fails, and who lists what is
// told.
func TestDiscoverPutsProvidersTogether(t *testing.T) {
	byAddr := driver.Instance{Service: "orders", Addr: "10.0.0.6:7946"}
	f := &fake{snapshot: driver.Snapshot{Instances: []driver.Instance{instance("a")}}}
	other := &fake{snapshot: driver.Snapshot{Instances: []driver.Instance{byAddr, instance("a")}}}
	w := follow(t, discoverer{output: "table", timeout: liveness}, f, other)
	if err := ended(t, w); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"NODE", "PROVIDERS"}, {"-", "10.0.0.6:7946", "other"}, {"n-a", "fake,other"}} {
		line := next(t, w.out)
		if fields := strings.Fields(line); fields[0] != want[0] || fields[len(fields)-1] != want[len(want)-1] {
			t.Errorf("got %q, want %v", line, want)
		}
	}

	other.set(driver.Snapshot{}, fmt.Errorf("%w: connection refused", driver.ErrUnavailable))
	w = follow(t, discoverer{watch: true, output: "json", timeout: liveness}, f, other)
	got := next(t, w.err)
	if strings.HasPrefix(got, "muster: waiting for ") { // its answer was the first
		got = next(t, w.err)
	}
	if want := "muster: incomplete: provider other fails: list: provider unavailable: connection refused"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	var d discovered
	if err := json.Unmarshal([]byte(next(t, w.out)), &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Instances) != 1 || !d.Stale || !strings.Contains(d.Error, "provider other: ") {
		t.Errorf("got %+v", d)
	}
	if diff := cmp.Diff([]string{"fake"}, d.Instances[0].Providers); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(d.Providers) != 2 || !d.Providers[0].Known || d.Providers[0].Error != "" || d.Providers[1].Known || d.Providers[1].Error == "" {
		t.Errorf("providers %+v", d.Providers)
	}
	other.set(driver.Snapshot{Instances: []driver.Instance{byAddr}}, nil)
	if got, want := next(t, w.err), "muster: provider other answers again"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	if err := json.Unmarshal([]byte(next(t, w.out)), &d); err != nil || len(d.Instances) != 2 || d.Stale {
		t.Errorf("got %+v, %v", d, err)
	}
}

// Where none answers, each says why.
func TestDiscoverNamesEveryProviderThatIsDown(t *testing.T) {
	f, other := &fake{err: driver.ErrDenied}, &fake{err: driver.ErrUnavailable}
	w := follow(t, discoverer{output: "table", timeout: 50 * time.Millisecond}, f, other)
	err := ended(t, w)
	for _, want := range []string{
		"provider fake did not answer within 50ms: list: access denied",
		"provider other did not answer within 50ms: list: provider unavailable",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestDiscoverOneOfSeveralProviders(t *testing.T) {
	// etcd is not there, and not asked.
	file := writeFile(t, "muster.yaml", `
cluster: orders
provider: {static: {peers: ["10.0.0.5:7946"]}, etcd: {endpoints: ["http://127.0.0.1:1"]}}
mastership: {authority: etcd}
`)
	status, stdout, stderr := execute(t, "discover", "-c", file, "--provider", "static", "-o", "json")
	if status != statusDone || stderr != "" || !strings.Contains(stdout, `"providers": [`) {
		t.Errorf("status %d, stderr %q, stdout:\n%s", status, stderr, stdout)
	}
	status, _, stderr = execute(t, "discover", "-c", file, "--provider", "consul")
	if want := "muster: --provider: \"consul\": not configured; write etcd or static\n"; status != statusUsage || stderr != want {
		t.Errorf("status %d, stderr %q, want %q", status, stderr, want)
	}
}

func TestSkippedIsReportedOnceAsLongAsItStands(t *testing.T) {
	var errs bytes.Buffer
	d := discoverer{out: io.Discard, err: &errs}
	bad := []driver.Skipped{{Key: "k\n", Reason: nil}}
	d.reportSkipped(bad)
	d.reportSkipped(bad)
	d.reportSkipped(nil)
	d.reportSkipped(bad)
	line := `muster: skipped "k\n": no reason was given` + "\n"
	if diff := cmp.Diff(line+line, errs.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What a registrar has registered can be listed with its own file, which names no cluster.
func TestDiscoverWithTheFileOfARegistrar(t *testing.T) {
	file := writeFile(t, "registrar.yaml", "provider: {etcd: {endpoints: [\"http://"+testserver.SharedEtcd(t).Addr()+"\"]}}\nregistrar: {explicit: true}\n")
	status, stdout, stderr := execute(t, "discover", "-c", file, "--service", "shop", "-o", "json")
	if status != statusDone || stderr != "" || strings.TrimSpace(stdout) != "[]" {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
	if status, _, stderr := execute(t, "discover", "-c", file); status != statusUsage || !strings.Contains(stderr, "cluster") {
		t.Errorf("without a service: status %d, stderr %q", status, stderr)
	}
}
