package httpapi_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// A call is made as it was asked for, a request that is wrong makes none, and one for which nobody
// waits ends.
func TestCall(t *testing.T) {
	made := make(chan httpapi.Call, 1)
	cancelled := make(chan struct{}, 1)
	_, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{
		Call: func(ctx context.Context, q httpapi.Call) ([]httpapi.CallReply, error) {
			made <- q
			switch q.Method {
			case "bad":
				return nil, fmt.Errorf("method: %w", driver.ErrInvalid)
			case "hang":
				<-ctx.Done()
				cancelled <- struct{}{}
			}
			return []httpapi.CallReply{{NodeID: "a", State: httpapi.CallAnswered, Answer: q.Request}}, nil
		},
	}}, nil)
	send := func(ctx context.Context, query, body string) (int, string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+httpapi.PathCall+query, strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := newClient(t, nil).Do(request)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return response.StatusCode, string(text), err
	}
	for _, v := range []struct {
		query, body string
		status      int
		want        string
		call        httpapi.Call
	}{
		{"?method=m", `{"a":1}`, 200, `[{"node_id":"a","state":"answered","answer":{"a":1}}]`, httpapi.Call{Method: "m", To: "master", Timeout: 5 * time.Second}},
		{"?method=m&to=node-2&timeout=90s", "", 200, `"answer":null`, httpapi.Call{Method: "m", To: "node-2", Timeout: 90 * time.Second}},
		{"?method=bad&to=all", "1", 400, "method: ", httpapi.Call{Method: "bad", To: "all", Timeout: 5 * time.Second}},
		{"", "", 400, `method: \"\": missing`, httpapi.Call{}},
		{"?method=m", "{", 400, "is not JSON", httpapi.Call{}},
		{"?method=m", `"` + strings.Repeat("x", 5<<20) + `"`, 400, "cannot be read", httpapi.Call{}},
		{"?method=m&timeout=0s", "", 400, `timeout: \"0s\": not how long`, httpapi.Call{}},
		{"?method=m&timeout=2h", "", 400, `timeout: \"2h\"`, httpapi.Call{}},
		{"?method=m&timeout=x", "", 400, `timeout: \"x\"`, httpapi.Call{}},
	} {
		status, text, err := send(t.Context(), v.query, v.body)
		if err != nil || status != v.status || !strings.Contains(text, v.want) {
			t.Errorf("%s: status %d, %.200s, %v", v.query, status, text, err)
		}
		select {
		case q := <-made:
			if q.Request = nil; fmt.Sprint(q) != fmt.Sprint(v.call) {
				t.Errorf("%s: made %+v, want %+v", v.query, q, v.call)
			}
		default:
			if v.call.Method != "" {
				t.Errorf("%s: no call was made", v.query)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, _, err := send(ctx, "?method=hang&timeout=1h", "1")
		ended <- err
	}()
	<-made
	cancel()
	wait.For(t, "the call is cancelled with its client", func() bool {
		select {
		case <-cancelled:
			return true
		default:
			return false
		}
	})
	<-ended
}

// A connection of gRPC is for who may change something, asks for it, and names what is called.
func TestConnect(t *testing.T) {
	connected := make(chan string, 1)
	_, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{
		Connect: func(to string, c net.Conn) {
			connected <- to
			_, _ = io.Copy(c, c)
		},
	}}, nil)
	kind := []string{"Content-Type", "application/json"}
	upgrade := append(kind, "Connection", "Upgrade", "Upgrade", httpapi.CallProtocol)
	for _, v := range []struct {
		query   string
		headers []string
		want    int
	}{
		{"?to=master", kind, 426},
		{"?to=master", append(kind, "Connection", "Upgrade", "Upgrade", "websocket"), 426},
		{"?to=master", append(upgrade, "Origin", "https://example.org"), 403},
		{"?to=master", upgrade[2:], 415},
		{"?to=all", upgrade, 400},
		{"", upgrade, 400},
	} {
		if status, body := post(t, "http://"+addr+httpapi.PathCallConnect+v.query, v.headers...); status != v.want {
			t.Errorf("%s with %q: status %d, want %d: %s", v.query, v.headers, status, v.want, body)
		}
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait.Patience))
	// What is sent right behind the request is not lost.
	_, err = fmt.Fprintf(c, "POST %s?to=node-2 HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 0\r\n\r\nearly",
		httpapi.PathCallConnect, addr, httpapi.CallProtocol)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", response, err)
	}
	response.Body.Close()
	if to := <-connected; to != "node-2" {
		t.Errorf("to %q", to)
	}
	back := make([]byte, len("early"))
	if _, err := io.ReadFull(r, back); err != nil || string(back) != "early" {
		t.Errorf("%q, %v", back, err)
	}
}
