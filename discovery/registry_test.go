package discovery_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/internal/testing/snapshot"
	"github.com/musterhq/muster/tlsfiles"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = fmt.Errorf("%w: connection refused", driver.ErrUnavailable)

func instance(n int) discovery.Instance {
	return discovery.Instance{Service: "orders", InstanceID: fmt.Sprintf("i%d", n), NodeID: fmt.Sprintf("n%d", n), Addr: fmt.Sprintf("10.0.0.%d:7946", n)}
}

var orders = discovery.Query{Service: "orders"}

// fake is a driver made of functions; it counts the calls.
type fake struct {
	mu    sync.Mutex
	lists int
	list  func(ctx context.Context, n int) (driver.Snapshot, error)
}

func (f *fake) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	f.mu.Lock()
	f.lists++
	n := f.lists
	f.mu.Unlock()
	return f.list(ctx, n)
}

func (f *fake) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lists
}

func (f *fake) Close() error { return nil }

// watching is a fake with a Watcher.
type watching struct {
	*fake
	watch func(ctx context.Context, since driver.Snapshot) iter.Seq2[driver.Snapshot, error]
}

func (w *watching) Watch(ctx context.Context, _ driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return w.watch(ctx, since)
}

func registry(t *testing.T, d driver.Driver, o discovery.Options) *discovery.Registry {
	t.Helper()
	r := discovery.New("test", d, o)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestListRetriesUntilTheProviderAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		m.Put(instance(1))
		m.Fail(errDown)
		time.AfterFunc(time.Minute, func() { m.Fail(nil) })
		r := registry(t, m.Driver(), discovery.Options{})
		start := time.Now()
		s, err := r.List(t.Context(), orders)
		if err != nil || len(snapshot.Instances(s)) != 1 || !s.Known || s.Stale {
			t.Fatalf("List = %+v, %v", s, err)
		}
		if took := time.Since(start); took < time.Minute || took > time.Minute+6*time.Second {
			t.Fatalf("List took %v over an outage of a minute", took)
		}
		st := r.Stats()
		if st.Errors["unavailable"] < 10 || st.Errors["unavailable"] > 200 || !errors.Is(st.LastError, driver.ErrUnavailable) || st.Snapshots != 1 {
			t.Fatalf("Stats = %+v", st)
		}
	})
}

func TestListGivesUpWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		m := memory.New()
		m.Fail(errDown)
		r := registry(t, m.Driver(), discovery.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		start := time.Now()
		s, err := r.List(ctx, orders)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, driver.ErrUnavailable) {
			t.Fatalf("List error %v, want the context's and the provider's", err)
		}
		if s.Known || snapshot.Instances(s) != nil || s.Err == nil {
			t.Fatalf("on error, List says %+v", s)
		}
		if took := time.Since(start); took != 7*time.Second {
			t.Fatalf("List gave up after %v", took)
		}
	})
}

func TestListReturnsFinalErrorsAtOnce(t *testing.T) {
	for _, kind := range []error{driver.ErrDenied, driver.ErrInvalid, driver.ErrUnsupported} {
		m := memory.New()
		m.Fail(fmt.Errorf("%w: no", kind))
		r := registry(t, m.Driver(), discovery.Options{})
		if _, err := r.List(t.Context(), orders); !errors.Is(err, kind) {
			t.Errorf("List error %v, want %v", err, kind)
		}
		if n := r.Stats().Calls["list"]; n != 1 {
			t.Errorf("%v: %d attempts, want 1", kind, n)
		}
	}
	r := registry(t, memory.New().Driver(), discovery.Options{})
	if _, err := r.List(t.Context(), discovery.Query{}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("List without a service: %v", err)
	}
}

func TestEachAttemptIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := &fake{list: func(ctx context.Context, n int) (driver.Snapshot, error) {
			if n < 3 { // a black hole, twice
				<-ctx.Done()
				return driver.Snapshot{}, ctx.Err()
			}
			return driver.Snapshot{Instances: []discovery.Instance{instance(1)}}, nil
		}}
		r := registry(t, f, discovery.Options{CallTimeout: 2 * time.Second})
		start := time.Now()
		if _, err := r.List(t.Context(), orders); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 4*time.Second || took > 5*time.Second {
			t.Fatalf("List took %v over two attempts of 2 s", took)
		}
		if !strings.Contains(r.Stats().LastError.Error(), "no answer within 2s") {
			t.Fatalf("LastError = %v", r.Stats().LastError)
		}
	})
}

func TestSnapshotIsFilteredSortedAndWithoutDuplicates(t *testing.T) {
	base := []discovery.Instance{
		{Service: "orders", InstanceID: "c", Addr: "10.0.0.3:1", Zone: "eu", Tags: []string{"a", "b"}, Meta: map[string]string{"k": "v", "e": ""}},
		{Service: "orders", InstanceID: "a", Addr: "10.0.0.2:1", Zone: "eu", Tags: []string{"a"}},
		{Service: "orders", InstanceID: "a", Addr: "10.0.0.1:1", Zone: "us", Tags: []string{"a"}},
		{Service: "orders", InstanceID: "a", Addr: "10.0.0.1:1", Zone: "eu", Tags: []string{"a"}},
		{Service: "orders", InstanceID: "b", NodeID: "n", Addr: "10.0.0.4:1"},
		{Service: "orders", InstanceID: "d", NodeID: "n", Addr: "10.0.0.5:1"},
		{Service: "orders", Addr: "db:1"},
		{Service: "ordersbar", InstanceID: "x", Addr: "10.0.0.9:1"},
		{Service: "orders", InstanceID: "bad", Addr: "0.0.0.0:1"},
	}
	keys := func(s discovery.Snapshot) []string {
		var all []string
		for _, i := range snapshot.Instances(s) {
			all = append(all, i.Key())
		}
		return all
	}
	for range 5 {
		// The order in which the provider has them makes no difference.
		base = append(base[1:], base[0])
		f := &fake{list: func(context.Context, int) (driver.Snapshot, error) {
			return driver.Snapshot{Instances: base, Revision: 9}, nil
		}}
		r := registry(t, f, discovery.Options{})
		list := func(q discovery.Query) discovery.Snapshot {
			t.Helper()
			q.Service = "orders"
			s, err := r.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := list(discovery.Query{})
		if d := cmp.Diff([]string{"a", "b", "c", "d", "db:1"}, keys(s)); d != "" {
			t.Fatalf("the set (-want +got):\n%s", d)
		}
		if s.Revision != 9 || snapshot.Instances(s)[0].Addr != "10.0.0.1:1" || snapshot.Instances(s)[0].Zone != "eu" {
			t.Fatalf("revision %d, chosen duplicate %+v", s.Revision, snapshot.Instances(s)[0])
		}
		if len(s.Skipped) != 1 || s.Skipped[0].Key != "bad" {
			t.Fatalf("Skipped = %v", s.Skipped)
		}
		for _, tc := range []struct {
			q    discovery.Query
			want []string
		}{
			{discovery.Query{Tags: []string{"a"}}, []string{"a", "c"}},
			{discovery.Query{Tags: []string{"b", "a"}}, []string{"c"}},
			{discovery.Query{Zone: "eu"}, []string{"a", "c"}},
			{discovery.Query{Meta: map[string]string{"k": "v"}}, []string{"c"}},
			{discovery.Query{Meta: map[string]string{"e": ""}}, []string{"c"}},
			{discovery.Query{Meta: map[string]string{"k": "w"}}, nil},
			{discovery.Query{Zone: "us"}, []string{"a"}},
		} {
			if d := cmp.Diff(tc.want, keys(list(tc.q))); d != "" {
				t.Errorf("%+v (-want +got):\n%s", tc.q, d)
			}
		}
		if got, known := s.Others("b"); len(got) != 4 || !known {
			t.Errorf("Others(b) = %v", got)
		}
		if got, _ := s.Others(""); len(got) != 5 {
			t.Errorf("Others of nobody = %v, want all", got)
		}
	}
}

func TestSkippedEntriesAreCountedAndLoggedOnce(t *testing.T) {
	m := memory.New()
	m.Put(instance(1))
	m.AddGarbage("orders", "junk")
	var log bytes.Buffer
	r := registry(t, m.Driver(), discovery.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 3 {
		s, err := r.List(t.Context(), orders)
		if err != nil || len(snapshot.Instances(s)) != 1 || len(s.Skipped) != 1 {
			t.Fatalf("List = %+v, %v", s, err)
		}
	}
	if n := r.Stats().Skipped; n != 3 {
		t.Errorf("Stats.Skipped = %d after three readings of one entry, want 3", n)
	}
	if n := strings.Count(log.String(), "orders/junk"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, log.String())
	}
}

func TestSessionsAndAuthorities(t *testing.T) {
	r := registry(t, memory.New().Driver(), discovery.Options{})
	if !r.CanRegister() {
		t.Error("CanRegister is false over a Registrar")
	}
	s, err := r.OpenSession(t.Context(), driver.SessionOptions{TTL: time.Hour})
	if err != nil || s.TTL() != time.Hour {
		t.Fatalf("OpenSession = %v, %v", s, err)
	}
	defer s.Close(t.Context())
	a, err := r.OpenAuthority(t.Context(), driver.AuthorityOptions{Cluster: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close(t.Context())
	if st := r.Stats(); st.Calls["open_session"] != 1 || st.Calls["open_authority"] != 1 {
		t.Errorf("Stats = %+v", st)
	}

	plain := registry(t, &fake{}, discovery.Options{})
	if plain.CanRegister() {
		t.Error("CanRegister is true over a plain driver")
	}
	if _, err := plain.OpenSession(t.Context(), driver.SessionOptions{}); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("OpenSession over a plain driver: %v", err)
	}
	if _, err := plain.OpenAuthority(t.Context(), driver.AuthorityOptions{}); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("OpenAuthority over a plain driver: %v", err)
	}
}

func TestOpenSessionMakesOneAttempt(t *testing.T) {
	m := memory.New()
	m.Fail(errDown)
	r := registry(t, m.Driver(), discovery.Options{})
	if _, err := r.OpenSession(t.Context(), driver.SessionOptions{}); !errors.Is(err, driver.ErrUnavailable) {
		t.Fatalf("OpenSession: %v", err)
	}
	if st := r.Stats(); st.Calls["open_session"] != 1 || st.Errors["unavailable"] != 1 {
		t.Fatalf("Stats = %+v", st)
	}
}

func TestCloseEndsWhatRuns(t *testing.T) {
	m := memory.New()
	m.Fail(errDown)
	r := discovery.New("test", m.Driver(), discovery.Options{})
	ended := make(chan error, 2)
	go func() {
		_, err := r.List(context.Background(), orders)
		ended <- err
	}()
	go func() {
		for range r.Watch(context.Background(), orders) {
			r.Close() // from the body of the watch
		}
		ended <- discovery.ErrClosed
	}()
	for range 2 {
		select {
		case err := <-ended:
			if !errors.Is(err, discovery.ErrClosed) {
				t.Errorf("ended with %v, want ErrClosed", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("Close did not end what ran")
		}
	}
	if err := r.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := r.List(t.Context(), orders); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("List after Close: %v", err)
	}
	for s := range r.Watch(t.Context(), orders) {
		if s.Known || !errors.Is(s.Err, discovery.ErrClosed) {
			t.Errorf("Watch after Close yielded %+v", s)
		}
	}
	if _, err := r.OpenSession(t.Context(), driver.SessionOptions{}); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("OpenSession after Close: %v", err)
	}
}

// secured is a driver with TLS.
type secured struct {
	*fake
	live *tlsfiles.Files
}

func (s secured) TLSState() (state driver.TLSState, ok bool) {
	if s.live == nil {
		return state, false
	}
	return s.live.Check(), true
}

func TestFilesOfTheDriverAreWatched(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, pair, err := pki.NewAuthority("authority", time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		files := tlsfiles.Config{CAFile: filepath.Join(t.TempDir(), "ca.pem")}
		put := func(text []byte) {
			t.Helper()
			if err := os.WriteFile(files.CAFile, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put(pair.Cert)
		live, err := tlsfiles.Follow(files, tlsfiles.Contents.Client)
		if err != nil {
			t.Fatal(err)
		}
		log := new(bytes.Buffer)
		r := registry(t, secured{new(fake), live}, discovery.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
		if state, ok := r.TLS(); !ok || state.Err != nil {
			t.Fatalf("TLS() = %+v, %t", state, ok)
		}
		put([]byte("no certificate"))
		time.Sleep(5 * time.Second)
		if state, _ := r.TLS(); state.Err == nil || !strings.Contains(state.Err.Error(), "tls.ca_file") {
			t.Errorf("of a file that holds no certificate TLS() says %v", state.Err)
		}
		put(pair.Cert)
		time.Sleep(5 * time.Second)
		if state, _ := r.TLS(); state.Err != nil {
			t.Errorf("after it was fixed TLS() says %v", state.Err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if text := log.String(); !strings.Contains(text, "certificates not reloaded") || !strings.Contains(text, "provider=test") {
			t.Errorf("the log has %q", text)
		}
	})
	for name, d := range map[string]driver.Driver{"no TLS": secured{new(fake), nil}, "not one that could": new(fake)} {
		if state, ok := registry(t, d, discovery.Options{}).TLS(); ok {
			t.Errorf("%s: TLS() = %+v", name, state)
		}
	}
}

// checked is a driver of whose instances some fail their checks.
type checked struct {
	driver.Driver
	snapshot driver.Snapshot
}

func (c *checked) List(context.Context, driver.Query) (driver.Snapshot, error) {
	return c.snapshot, nil
}
func (c *checked) Close() error { return nil }

// When all start at once nobody passes yet: then those that fail are found too, until
// another passes. What the driver has registered itself is no other.
func TestLeniencyAtBoot(t *testing.T) {
	at := func(id string) driver.Instance {
		return driver.Instance{Service: "orders", InstanceID: id, Addr: "10.0.0.1:7946"}
	}
	d := &checked{}
	r := discovery.New("checked", d, discovery.Options{})
	defer r.Close()
	for n, step := range []struct {
		passing, failing []driver.Instance
		own              int
		want             string
	}{
		{nil, []driver.Instance{at("a"), at("b")}, 0, "a b"},
		{[]driver.Instance{at("own")}, []driver.Instance{at("a"), at("b")}, 1, "a b own"},
		{[]driver.Instance{at("own"), at("a")}, []driver.Instance{at("b")}, 1, "a own"},
		{[]driver.Instance{at("own")}, []driver.Instance{at("a"), at("b")}, 1, "own"},
		{nil, []driver.Instance{at("a")}, 0, ""},
	} {
		d.snapshot = driver.Snapshot{Instances: step.passing, Failing: step.failing, Own: step.own}
		for range 2 {
			s, err := r.List(t.Context(), driver.Query{Service: "orders"})
			if err != nil {
				t.Fatal(err)
			}
			var have []string
			for _, i := range snapshot.Instances(s) {
				have = append(have, i.Key())
			}
			if got := strings.Join(have, " "); got != step.want {
				t.Errorf("step %d: found are %q, want %q", n, got, step.want)
			}
		}
	}
}
