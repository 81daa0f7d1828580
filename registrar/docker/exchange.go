package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// exchange is what has passed between us and the engine in one call. The library keeps
// neither the answer where its own types are stricter than the engine that wrote it,
// nor the cause where it could not connect.
type exchange struct {
	hello  bool // it asks who is there, and not for anything that might be missing
	stream bool // the answer is left to the library

	sent   bool
	status int
	date   time.Time // by the clock of the engine, zero where it did not say
	body   []byte
	err    error // no answer came
}

type exchangeKey struct{}

// with returns a context whose next request is recorded in x.
func (x *exchange) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

// maxBody bounds an answer. The list of a host with thousands of containers has a few
// megabytes.
const maxBody = 64 << 20

// recorder is the transport below the library.
type recorder struct{ next http.RoundTripper }

func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return r.next.RoundTrip(req)
	}
	*x = exchange{hello: x.hello, stream: x.stream, sent: true}
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
	resp.Body = io.NopCloser(bytes.NewReader(x.body))
	return resp, nil
}
