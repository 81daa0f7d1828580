package testdocker

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"regexp"
)

// apiVersion begins the paths of an engine's API.
var apiVersion = regexp.MustCompile(`^/v[0-9.]+`)

// Proxy serves the engine's socket as a filtering proxy does, until the test ends, and
// returns its address. What open does not report, by its path without a version, is
// answered with 403.
func (e *Engine) Proxy(open func(path string) bool) string {
	e.t.Helper()
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine"
		},
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket())
		}},
		FlushInterval: -1, // events come one by one
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead || !open(apiVersion.ReplaceAllString(r.URL.Path, "")) {
			http.Error(w, "<html><body><h1>403 Forbidden</h1></body></html>", http.StatusForbidden)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	e.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		forward.Transport.(*http.Transport).CloseIdleConnections()
	})
	return "tcp://" + server.Listener.Addr().String()
}
