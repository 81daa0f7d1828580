// Package routes serves the routes of an HTTP API from one table, so that what holds for
// every route is said, and tested, in one place: the answer to a method that a route does
// not have, and to HEAD.
package routes

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Route is one path with one method.
type Route struct {
	// Method is GET or POST. A route of GET answers HEAD as well.
	Method string
	Path   string
	// Stream says that the answer to GET ends only with the client. HEAD gets its header
	// and does not call Serve.
	Stream bool
	// ContentType is that of a stream.
	ContentType string
	Serve       http.HandlerFunc
}

// Table is the routes of an API. A path has one route.
type Table []Route

// Handler returns the handler of all routes. Every request gets an answer at once unless
// its route is a stream: a path that no route has 404, and a method that the route of the
// path does not have 405 with the header Allow, OPTIONS among them.
func (t Table) Handler() http.Handler {
	byPath := make(map[string]Route, len(t))
	for _, r := range t {
		byPath[r.Path] = r
	}
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r, ok := byPath[request.URL.Path]
		switch {
		case !ok:
			WriteError(w, http.StatusNotFound, fmt.Errorf("no such path: %s %s", request.Method, request.URL.Path))
		case request.Method == http.MethodHead && r.Method == http.MethodGet && r.Stream:
			w.Header().Set("Content-Type", r.ContentType)
			w.WriteHeader(http.StatusOK)
		case request.Method == r.Method, request.Method == http.MethodHead && r.Method == http.MethodGet:
			r.Serve(w, request)
		default:
			w.Header().Set("Allow", r.allow())
			WriteError(w, http.StatusMethodNotAllowed, fmt.Errorf("%s %s: no such method; use %s", request.Method, r.Path, r.Method))
		}
	})
}

func (r Route) allow() string {
	if r.Method == http.MethodGet {
		return "GET, HEAD"
	}
	return r.Method
}

// WriteJSON answers with value.
func WriteJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // the client may be gone
}

// WriteError answers with an object whose field error is one line for a person.
func WriteError(w http.ResponseWriter, status int, err error) {
	WriteJSON(w, status, map[string]string{"error": err.Error()})
}
