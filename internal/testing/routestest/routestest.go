// Package routestest holds every route of an API to what package routes promises.
package routestest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/routes"
)

// bound is how long an answer may take, on a machine that has other work.
const bound = 5 * time.Second

// methods are all that HTTP knows, those of WebDAV for an example, and one that nobody knows.
var methods = []string{
	"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "NONSENSE",
}

// Run asks api, which serves the routes of t, for each of them with every method that
// changes nothing, header names and values in pairs: each is answered, in full, on a
// connection that serves the next request. A method that the route does not have is
// answered with status 405 and the header Allow.
func Run(t *testing.T, table routes.Table, api http.Handler, header ...string) {
	t.Helper()
	if len(table) < 4 {
		t.Fatalf("%d routes", len(table))
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := httptest.NewUnstartedServer(api)
	server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	server.Start()
	t.Cleanup(func() {
		cancel() // an answer that does not end by itself is not waited for
		server.CloseClientConnections()
		server.Close()
	})
	var paths []string
	for _, r := range table {
		if slices.Contains(paths, r.Path) {
			t.Errorf("%s has two routes", r.Path)
		}
		paths = append(paths, r.Path)
		for _, method := range methods {
			if method == r.Method && (r.Stream || method == http.MethodPost) {
				continue
			}
			t.Run(method+" "+r.Path, func(t *testing.T) {
				ask(t, server.Listener.Addr().String(), r, method, header)
			})
		}
	}
}

func ask(t *testing.T, addr string, r routes.Route, method string, header []string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(bound))
	in := bufio.NewReader(c)
	own := method == r.Method || method == http.MethodHead && r.Method == http.MethodGet
	for range 2 { // the second shows that the connection is free
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n", method, r.Path)
		for i := 0; i < len(header); i += 2 {
			fmt.Fprintf(c, "%s: %s\r\n", header[i], header[i+1])
		}
		fmt.Fprint(c, "\r\n")
		response, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Fatalf("the answer does not end: %v", err)
		}
		allow := response.Header.Get("Allow")
		switch {
		case own && response.StatusCode == http.StatusMethodNotAllowed:
			t.Errorf("status %d", response.StatusCode)
		case !own && response.StatusCode != http.StatusMethodNotAllowed:
			t.Errorf("status %d, want 405", response.StatusCode)
		case !own && !slices.Contains(strings.Split(allow, ", "), r.Method):
			t.Errorf("Allow: %q, want %s in it", allow, r.Method)
		case !own && slices.Contains(strings.Split(allow, ", "), method):
			t.Errorf("Allow: %q, which was refused", allow)
		}
		if method == http.MethodHead && r.Stream && response.Header.Get("Content-Type") != r.ContentType {
			t.Errorf("Content-Type: %q, want %q", response.Header.Get("Content-Type"), r.ContentType)
		}
	}
}
