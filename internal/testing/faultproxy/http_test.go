package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
)

// startServer starts a server that answers each request with its method and path, and
// counts those that it has carried out.
func startServer(t testing.TB) (addr string, served *Hits) {
	t.Helper()
	served = new(Hits)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.add()
		fmt.Fprintf(w, "%s %s", r.Method, r.URL)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), served
}

// caller makes calls by way of a proxy.
type caller struct {
	client *http.Client
	base   string
}

func newCaller(t testing.TB, addr string) caller {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return caller{&http.Client{Transport: transport}, "http://" + addr}
}

func (c caller) call(ctx context.Context, method, path string) (status int, body string, err error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return 0, "", err
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(b), err
}

// works wants a call to be answered by the server.
func (c caller) works(t testing.TB, method, path string) {
	t.Helper()
	status, body, err := c.call(wait.Context(t), method, path)
	if want := method + " " + path; err != nil || status != http.StatusOK || body != want {
		t.Fatalf("%s: status %d, %q, %v", want, status, body, err)
	}
}

func TestCounts(t *testing.T) {
	target, _ := startServer(t)
	h := NewHTTP(t, target)
	c := newCaller(t, h.Addr())
	c.works(t, "GET", "/v1/kv/a?index=1")
	before := h.Counts()
	c.works(t, "GET", "/v1/kv/a?index=2")
	c.works(t, "PUT", "/v1/kv/b")
	h.Inject(Fault{Outcome: Refuse})
	if status, _, err := c.call(wait.Context(t), "GET", "/v1/kv/a"); status != http.StatusServiceUnavailable {
		t.Errorf("status %d, %v", status, err)
	}
	counts := h.Counts()
	if want := "GET /v1/kv/a: 3 calls, 3 requests, 2 answers\nPUT /v1/kv/b: 1 calls, 1 requests, 1 answers\n"; counts.String() != want {
		t.Errorf("counted\n%swant\n%s", counts, want)
	}
	if since := counts.Since(before); since.Sum() != (Count{3, 3, 2}) || since.Sum("GET ") != (Count{2, 2, 1}) || since.Sum("PUT /v1/kv/a", "DELETE") != (Count{}) {
		t.Errorf("counted since\n%s", since)
	}
	if since := counts.Since(counts); len(since) > 0 {
		t.Errorf("counted since now\n%s", since)
	}
}

// Each outcome hits the second PUT alone.
func TestOutcomes(t *testing.T) {
	for _, v := range []struct {
		outcome Outcome
		served  int // of the request that is hit
		check   func(status int, body string, err error) bool
	}{
		{Refuse, 0, func(status int, _ string, err error) bool {
			return err == nil && status == http.StatusServiceUnavailable
		}},
		{Break, 1, func(_ int, _ string, err error) bool { return errors.Is(err, io.EOF) }},
		{Silence, 1, func(_ int, _ string, err error) bool { return errors.Is(err, context.Canceled) }},
		{Garbage, 1, func(status int, body string, err error) bool {
			return err == nil && status == http.StatusOK && len(body) == len("PUT /b") && body[0] == 0xff
		}},
	} {
		target, served := startServer(t)
		h := NewHTTP(t, target)
		c := newCaller(t, h.Addr())
		hits := h.Inject(Fault{Outcome: v.outcome, Calls: "PUT /", Nth: 2})
		c.works(t, "PUT", "/a")
		c.works(t, "GET", "/a")
		ctx, giveUp := context.WithCancel(wait.Context(t))
		if v.outcome == Silence {
			go func() {
				if hits.Wait(ctx, 1) == nil {
					giveUp()
				}
			}()
		}
		status, body, err := c.call(ctx, "PUT", "/b")
		giveUp()
		if !v.check(status, body, err) {
			t.Errorf("outcome %d: status %d, %q, %v", v.outcome, status, body, err)
		}
		if got := served.Count(); got != 2+v.served || hits.Count() != 1 {
			t.Errorf("outcome %d: the server has carried out %d requests, want %d; %d hits", v.outcome, got, 2+v.served, hits.Count())
		}
		c.works(t, "PUT", "/c")
	}
}

func TestSilenceEndsWithRestore(t *testing.T) {
	target, _ := startServer(t)
	h := NewHTTP(t, target)
	hits := h.Inject(Fault{Outcome: Silence})
	go func() {
		if hits.Wait(t.Context(), 1) == nil {
			h.Restore()
		}
	}()
	c := newCaller(t, h.Addr())
	if status, body, err := c.call(wait.Context(t), "PUT", "/a"); !errors.Is(err, io.EOF) {
		t.Errorf("status %d, %q, %v, want a broken connection", status, body, err)
	}
	c.works(t, "PUT", "/a")
}

func TestFraction(t *testing.T) {
	target, served := startServer(t)
	h := NewHTTP(t, target)
	c := newCaller(t, h.Addr())
	const calls = 100
	refused := func(seed uint64) (which []int) {
		hits := h.Inject(Fault{Outcome: Refuse, Fraction: 0.3, Seed: seed})
		defer h.Restore()
		for n := range calls {
			if status, _, err := c.call(wait.Context(t), "GET", "/"); err != nil {
				t.Fatal(err)
			} else if status != http.StatusOK {
				which = append(which, n)
			}
		}
		if hits.Count() != len(which) {
			t.Errorf("%d hits, and %d calls that failed", hits.Count(), len(which))
		}
		return which
	}
	first, again, other := refused(1), refused(1), refused(2)
	if !slices.Equal(first, again) || slices.Equal(first, other) || len(first) < calls/10 || len(first) > calls/2 {
		t.Errorf("seed 1 hits %v and then %v, seed 2 %v", first, again, other)
	}
	if want := 3*calls - len(first) - len(again) - len(other); served.Count() != want {
		t.Errorf("the server has carried out %d requests, want %d", served.Count(), want)
	}
}

// The first fault that a request is chosen for hits it, and the others count it.
func TestFaultsAddUp(t *testing.T) {
	target, _ := startServer(t)
	h := NewHTTP(t, target)
	c := newCaller(t, h.Addr())
	first := h.Inject(Fault{Outcome: Refuse, Calls: "GET /", Nth: 1})
	second := h.Inject(Fault{Outcome: Garbage, Calls: "GET /a", Nth: 2})
	var got []string
	for range 3 {
		status, body, err := c.call(wait.Context(t), "GET", "/a")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(status, " ", strings.ToValidUTF8(body, "?")))
	}
	if want := []string{"503 ", "200 ?", "200 GET /a"}; !slices.Equal(got, want) || first.Count() != 1 || second.Count() != 1 {
		t.Errorf("answers %q, want %q", got, want)
	}
}

func TestStreamIsPassedOnAtOnce(t *testing.T) {
	next, done := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "a")
		http.NewResponseController(w).Flush()
		select {
		case <-next:
			fmt.Fprint(w, "b")
		case <-r.Context().Done():
		}
		close(done)
	}))
	t.Cleanup(s.Close)
	h := NewHTTP(t, s.Listener.Addr().String())
	r, err := http.NewRequestWithContext(wait.Context(t), "GET", "http://"+h.Addr()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := newCaller(t, h.Addr()).client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b := make([]byte, 1)
	if _, err := io.ReadFull(answer.Body, b); err != nil || string(b) != "a" {
		t.Fatalf("received %q, %v", b, err)
	}
	close(next)
	if rest, err := io.ReadAll(answer.Body); err != nil || string(rest) != "b" {
		t.Errorf("received %q, %v", rest, err)
	}
	<-done
}

// A client that gives up ends the request at the server; a server that is gone breaks
// the client's connection.
func TestEitherEndGoes(t *testing.T) {
	gone, released := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(gone)
		<-r.Context().Done()
		close(released)
	}))
	h := NewHTTP(t, s.Listener.Addr().String())
	c := newCaller(t, h.Addr())
	ctx, cancel := context.WithCancel(wait.Context(t))
	go func() {
		<-gone
		cancel()
	}()
	if _, _, err := c.call(ctx, "GET", "/"); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was given up: %v", err)
	}
	select {
	case <-released:
	case <-time.After(wait.Patience):
		t.Error("the server waits for a client that has gone")
	}
	s.Close()
	if status, _, err := c.call(wait.Context(t), "GET", "/"); !errors.Is(err, io.EOF) {
		t.Errorf("status %d, %v, want a broken connection where no server is", status, err)
	}
}
