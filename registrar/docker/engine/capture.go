package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// responseCapture is what has passed between us and the engine in one call. We decode the
// answer, because the types of the library are stricter than the engines are. The library does
// not return why it could not connect, so that is captured, too.
type responseCapture struct {
	hello  bool // it asks who is there, and not for anything that might be missing
	stream bool // the library decodes the answer

	sent   bool
	path   string // of the request, without the version
	status int
	date   time.Time // by the clock of the engine, zero if it did not say
	body   []byte
	err    error // no answer came
}

type captureKey struct{}

// with returns a context whose next request is captured in x.
func (x *responseCapture) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, captureKey{}, x)
}

// maxBody bounds an answer. The list of a host with thousands of containers has a few
// megabytes.
const maxBody = 64 << 20

// capturingTransport is the transport below the library.
type capturingTransport struct{ next http.RoundTripper }

func (r capturingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(captureKey{}).(*responseCapture)
	if !ok {
		return r.next.RoundTrip(req)
	}
	*x = responseCapture{hello: x.hello, stream: x.stream, sent: true, path: pathOf(req.URL.Path)}
	resp, err := r.next.RoundTrip(req)
	if err != nil {
		x.err = err
		return nil, err
	}
	x.status = resp.StatusCode
	x.date, _ = http.ParseTime(resp.Header.Get("Date"))
	if x.stream && resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	x.body, x.err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	x.err = errors.Join(x.err, resp.Body.Close())
	if x.err == nil && len(x.body) > maxBody {
		x.err = fmt.Errorf("the answer has more than %d MB", maxBody>>20)
	}
	if x.err != nil {
		return nil, x.err
	}
	left := x.body
	if !x.hello && resp.StatusCode >= 200 && resp.StatusCode < 300 {
		left = []byte("null") // the library has nothing to decode
	}
	resp.Body = io.NopCloser(bytes.NewReader(left))
	return resp, nil
}

// version begins a path of the API.
var version = regexp.MustCompile(`^.*?/v[0-9]+\.[0-9]+/`)

// pathOf returns the path of a request as a proxy's rules have it: without what stands in
// front, and with a star for what it names.
func pathOf(path string) string {
	path = "/" + strings.TrimPrefix(version.ReplaceAllString(path, ""), "/")
	parts := strings.Split(path, "/")
	switch {
	case strings.HasSuffix(path, "/_ping"):
		return "/_ping"
	case len(parts) == 4 && parts[1] == "containers", len(parts) == 3 && parts[1] == "networks":
		parts[2] = "*"
	}
	return strings.Join(parts, "/")
}
