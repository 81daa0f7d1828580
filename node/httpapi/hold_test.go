package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// events reads a stream of mastership, until the test or the context ends. One that has just ended
// may still have its name.
func events(t *testing.T, ctx context.Context, method, url string) <-chan httpapi.Mastership {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	var response *http.Response
	wait.For(t, "the name is free", func() bool {
		if response, err = newClient(t, nil).Do(request); err != nil {
			t.Fatal(err)
		}
		if response.StatusCode == http.StatusConflict {
			response.Body.Close()
			return false
		}
		return true
	})
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s", method, url, response.Status)
	}
	out := make(chan httpapi.Mastership)
	go func() {
		defer close(out)
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		for lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			var m httpapi.Mastership
			if err := json.Unmarshal([]byte(data), &m); err != nil {
				t.Error(err)
			}
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// until reads events until one is as wanted.
func until(t *testing.T, what string, stream <-chan httpapi.Mastership, wanted func(httpapi.Mastership) bool) httpapi.Mastership {
	t.Helper()
	late := time.After(wait.Patience)
	for {
		select {
		case m, open := <-stream:
			if !open {
				t.Fatalf("the stream has ended before %s", what)
			}
			if wanted(m) {
				return m
			}
		case <-late:
			t.Fatalf("not within %v: %s", wait.Patience, what)
		}
	}
}

var operator = &httpapi.Operator{
	Leave:  func(context.Context) error { return nil },
	Reload: func(context.Context) (httpapi.Reloaded, error) { return httpapi.Reloaded{}, nil },
}

// While the work of a holder goes on, the grant is kept and renewed; when it has ended, it is
// released.
func TestHoldKeepsTheGrantUntilTheWorkHasEnded(t *testing.T) {
	n, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: operator}, nil)
	base := "http://" + addr
	hold := events(t, t.Context(), http.MethodPost, base+httpapi.PathHold+"?name=w")
	active := func(m httpapi.Mastership) bool { return m.State == "active" && m.Term > 0 }
	m := until(t, "the node is master", hold, active)
	if m.ValidNS <= 0 || m.BootNS == 0 || m.Hold == "" || m.ClusterID == "" || m.NodeID != "a" {
		t.Errorf("the first event of the term: %+v", m)
	}
	if status, body := get(t, base+httpapi.PathIsMaster); status != 200 || body != "ok\n" {
		t.Errorf("is-master of the master: status %d, %q", status, body)
	}
	if _, body := get(t, base+httpapi.PathMaster); !strings.Contains(body, `"valid_ns":`) {
		t.Errorf("/v1/master of the master itself: %s", body)
	}
	renewed := until(t, "a renewal", hold, func(r httpapi.Mastership) bool { return r.BootNS+r.ValidNS > m.BootNS+m.ValidNS })
	if renewed.Term != m.Term {
		t.Errorf("renewed %+v after %+v", renewed, m)
	}

	resigned := make(chan error, 1)
	go func() { resigned <- n.Resign(context.Background()) }()
	asked := until(t, "mastership is asked back", hold, func(m httpapi.Mastership) bool { return m.State == "releasing" })
	if asked.Term != m.Term || asked.DrainNS <= 0 || asked.ValidNS <= 0 {
		t.Errorf("asked back by %+v", asked)
	}
	if status, _ := get(t, base+httpapi.PathIsMaster); status != 503 {
		t.Errorf("is-master while the work ends: status %d", status)
	}
	select {
	case err := <-resigned:
		t.Fatalf("resigned (%v) while the work goes on", err)
	default:
	}
	url := base + httpapi.PathDone + "?term=1&hold="
	if status, _ := post(t, url+"x", "Content-Type", "application/json"); status != 404 {
		t.Errorf("done of a hold that there is not: status %d", status)
	}
	if status, body := post(t, url+asked.Hold, "Content-Type", "application/json"); status != 200 {
		t.Errorf("done: status %d: %s", status, body)
	}
	if err := <-resigned; err != nil {
		t.Errorf("after the work has ended: %v", err)
	}
	next := until(t, "the next term", hold, active)
	if next.Term <= m.Term {
		t.Errorf("term %d after %d", next.Term, m.Term)
	}
	// One who ends gives mastership up unasked.
	url = base + httpapi.PathDone + "?term=2&leave=true&hold="
	if status, body := post(t, url+asked.Hold, "Content-Type", "application/json"); status != 200 || n.IsMaster() {
		t.Errorf("left: status %d, master %v: %s", status, n.IsMaster(), body)
	}
}

// A holder that names itself is the only one of its name until its work has ended.
func TestOneHolderOfAName(t *testing.T) {
	n, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: operator}, nil)
	base := "http://" + addr
	active := func(m httpapi.Mastership) bool { return m.State == "active" && m.Term > 0 }
	ctx, hangUp := context.WithCancel(t.Context())
	first := until(t, "the node is master", events(t, ctx, http.MethodPost, base+httpapi.PathHold+"?name=w&holder=a"), active)
	second := base + httpapi.PathHold + "?name=w&holder=b"
	if status, body := post(t, second, "Content-Type", "application/json"); status != 409 || !strings.Contains(body, `another process`) {
		t.Errorf("a second holder: status %d: %s", status, body)
	}
	alive := base + httpapi.PathAlive + "?hold="
	if status, body := post(t, alive+first.Hold, "Content-Type", "application/json"); status != 200 {
		t.Errorf("alive: status %d: %s", status, body)
	}
	if status, _ := post(t, alive+"x", "Content-Type", "application/json"); status != 404 {
		t.Errorf("alive of a hold that there is not: status %d", status)
	}
	url := base + httpapi.PathDone + "?leave=true&term=" + strconv.FormatUint(first.Term, 10) + "&hold=" + first.Hold
	if status, body := post(t, url, "Content-Type", "application/json"); status != 200 || n.IsMaster() {
		t.Errorf("left: status %d, master %v: %s", status, n.IsMaster(), body)
	}
	hangUp()
	wait.For(t, "the first holder is forgotten", func() bool {
		status, _ := post(t, alive+first.Hold, "Content-Type", "application/json")
		return status == 404
	})
	next := until(t, "the second holder is master", events(t, t.Context(), http.MethodPost, second), active)
	if next.Term <= first.Term {
		t.Errorf("term %d after %d", next.Term, first.Term)
	}
	url = base + httpapi.PathDone + "?leave=true&term=" + strconv.FormatUint(next.Term, 10) + "&hold=" + next.Hold
	if status, body := post(t, url, "Content-Type", "application/json"); status != 200 {
		t.Errorf("the second has left: status %d: %s", status, body)
	}
}

// A holder that says nothing for ten seconds, as one that is stopped, costs the mastership, though
// its connection is open.
func TestHolderThatIsSilent(t *testing.T) {
	_, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: operator}, nil)
	base := "http://" + addr
	stream := events(t, t.Context(), http.MethodPost, base+httpapi.PathHold+"?name=w&holder=a")
	m := until(t, "the node is master", stream, func(m httpapi.Mastership) bool { return m.State == "active" && m.Term > 0 })
	go func() {
		for range stream {
		}
	}()
	watched := events(t, t.Context(), http.MethodGet, base+httpapi.PathMastership)
	until(t, "the mastership has ended", watched, func(now httpapi.Mastership) bool { return now.State != "active" || now.Term != m.Term })
}

// A holder that is gone without a word keeps the grant until the deadline that it knew, and then
// costs the mastership; one that has come back does not.
func TestHolderThatIsGone(t *testing.T) {
	n, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: operator}, nil)
	base := "http://" + addr
	ctx, hangUp := context.WithCancel(t.Context())
	active := func(m httpapi.Mastership) bool { return m.State == "active" && m.Term > 0 }
	first := until(t, "the node is master", events(t, ctx, http.MethodPost, base+httpapi.PathHold+"?name=w"), active)
	back, cancel := context.WithCancel(t.Context())
	again := events(t, back, http.MethodPost, base+httpapi.PathHold+"?name=w")
	same := until(t, "the term on the second stream", again, active)
	hangUp()
	watched := events(t, t.Context(), http.MethodGet, base+httpapi.PathMastership)
	past := func(deadline int64) func(httpapi.Mastership) bool {
		return func(m httpapi.Mastership) bool { return m.BootNS > deadline+int64(time.Second) }
	}
	go func() {
		for range again {
		}
	}()
	m := until(t, "the deadline of the first stream has passed", watched, past(first.BootNS+first.ValidNS))
	if m.Term != first.Term || !n.IsMaster() {
		t.Errorf("master %v, %+v after one of two streams of a holder has ended", n.IsMaster(), m)
	}
	cancel()
	lost := until(t, "the mastership has ended", watched, func(m httpapi.Mastership) bool { return m.State != "active" })
	if lost.BootNS < same.BootNS+same.ValidNS {
		t.Errorf("it ended %v before the deadline that the holder knew", time.Duration(same.BootNS+same.ValidNS-lost.BootNS))
	}
}

// A holder that comes back within a term has it with the first message: by another one its command
// would be killed.
func TestHolderThatComesBack(t *testing.T) {
	_, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: operator}, nil)
	path := "http://" + addr + httpapi.PathHold + "?name=w&holder=h"
	ctx, hangUp := context.WithCancel(t.Context())
	held := until(t, "the node is master", events(t, ctx, http.MethodPost, path), func(m httpapi.Mastership) bool { return m.Term > 0 })
	for range 20 {
		back, next := context.WithCancel(t.Context())
		stream := events(t, back, http.MethodPost, path)
		hangUp()
		hangUp = next
		if m := <-stream; m.Term != held.Term {
			t.Fatalf("the first message is %+v, and the term was %d", m, held.Term)
		}
	}
	hangUp()
	watched := events(t, t.Context(), http.MethodGet, "http://"+addr+httpapi.PathMastership)
	until(t, "nobody does the work", watched, func(m httpapi.Mastership) bool { return m.Term > held.Term || m.State != "active" })
}
