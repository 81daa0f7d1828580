// Package fakeengine answers as a container engine does, for what no real one can be made to do.
package fakeengine

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// Handler answers as an engine does, as far as the test says. It is for what no
// real one can be made to do.
func Handler(paths map[string]http.HandlerFunc) http.Handler {
	mux := http.NewServeMux()
	if paths["/_ping"] == nil {
		mux.HandleFunc("/_ping", Ping("1.41"))
	}
	for path, handler := range paths {
		mux.HandleFunc(path, handler)
	}
	return mux
}

// Ping answers with a version of the API.
func Ping(version string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Api-Version", version) }
}

// Answer answers with a status and a JSON body.
func Answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// Hang answers when the client has gone.
func Hang(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// ServeUnix serves at a socket and returns its path.
func ServeUnix(t testing.TB, h http.Handler) string {
	t.Helper()
	// Not t.TempDir: the path of a socket may be no longer than a hundred bytes.
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return path
}
