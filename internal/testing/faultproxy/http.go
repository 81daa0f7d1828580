package faultproxy

import (
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/loopback"
)

// Outcome is what becomes of a request.
type Outcome int

// What may become of a request.
const (
	// Refuse answers that the server is not there, status 503, and does nothing.
	Refuse Outcome = iota
	// Break has the request carried out, and breaks the connection, or the stream
	// where the connection has several, in place of the answer.
	Break
	// Silence has the request carried out and never answers, until the client gives
	// up or the proxy is restored.
	Silence
	// Garbage has the request carried out, and puts garbage in place of what the
	// answer says. Its head is what it was.
	Garbage
)

// Fault says what becomes of which requests.
type Fault struct {
	Outcome Outcome
	// Calls is the beginning of the method and path of those that may be hit, such as
	// "PUT /v1/txn" or "POST /etcdserverpb.KV/Txn". Empty: all.
	Calls string
	// Nth hits one of them alone, counted from 1. 0: each.
	Nth int
	// Fraction hits so many of them, chosen by chance from Seed. 0: all.
	Fraction float64
	Seed     uint64
}

// HTTP is a proxy before a server that speaks HTTP/1.1 or, without TLS as gRPC does it,
// HTTP/2. Where the server cannot be reached, the client's connection is broken. Its
// methods are safe for concurrent use.
type HTTP struct {
	addr    string
	forward http.Handler
	running context.Context // ends with the test
	serving sync.WaitGroup

	mu     sync.Mutex
	ended  bool // nothing is added to serving any more
	counts Counts
	faults []*fault
}

// fault is one in force.
type fault struct {
	Fault
	hits   *Hits
	over   chan struct{} // closed by Restore
	random *rand.Rand
	seen   int
}

// exchange is what is known of a request when it is answered. It is in its context.
type exchange struct {
	fault *fault // that hits it, or nil
	// hangUp ends the reading of the request.
	hangUp func()
}

type exchangeKey struct{}

// errLost is why an answer is not passed on.
var errLost = errors.New("the answer is lost")

// NewHTTP starts a proxy to the HOST:PORT target on a port of its own. The target need
// not be there yet.
func NewHTTP(t testing.TB, target string) *HTTP {
	t.Helper()
	l, err := loopback.Listen()
	if err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	running, end := context.WithCancel(context.Background())
	h := &HTTP{addr: l.Addr().String(), running: running, counts: make(Counts)}
	upstream := newTransports()
	h.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: target})
			r.Out.Host = r.In.Host
		},
		Transport:      upstream,
		ModifyResponse: h.answer,
		// As if nobody had stood between: no answer of the server is none.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	server := &http.Server{
		Handler:   http.HandlerFunc(h.request),
		Protocols: protocols(true, true),
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	h.serving.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("proxy to %s: %v", target, err)
		}
	})
	t.Cleanup(func() {
		h.mu.Lock()
		h.ended = true
		h.mu.Unlock()
		end()
		server.Close()
		h.serving.Wait()
		upstream.close()
	})
	return h
}

// transports speaks to the server what the client spoke to the proxy.
type transports struct{ one, two *http.Transport }

func newTransports() transports {
	return transports{
		one: &http.Transport{Protocols: protocols(true, false), DisableCompression: true, MaxIdleConnsPerHost: 1000},
		two: &http.Transport{Protocols: protocols(false, true), DisableCompression: true, DialContext: dialUpstream},
	}
}

// upstream is a connection that tells when the server has ended it.
type upstream struct {
	net.Conn
	once  sync.Once
	ended chan struct{}
}

func dialUpstream(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &upstream{Conn: c, ended: make(chan struct{})}, nil
}

func (u *upstream) Read(p []byte) (int, error) {
	n, err := u.Conn.Read(p)
	if err != nil {
		u.once.Do(func() { close(u.ended) })
	}
	return n, err
}

// follow hangs up on the client when the connection ends that its request went out
// on. The transport would report it only when it has read the whole request, which
// a stream that has nothing to say never ends.
func follow(ctx context.Context, hangUp func()) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if u, ok := info.Conn.(*upstream); ok {
			go func() {
				select {
				case <-u.ended:
					hangUp()
				case <-ctx.Done():
				}
			}()
		}
	}})
}

func protocols(one, two bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(one)
	p.SetUnencryptedHTTP2(two)
	return p
}

func (t transports) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.ProtoMajor == 2 {
		return t.two.RoundTrip(r)
	}
	return t.one.RoundTrip(r)
}

func (t transports) close() {
	t.one.CloseIdleConnections()
	t.two.CloseIdleConnections()
}

// Addr is the HOST:PORT to dial.
func (h *HTTP) Addr() string { return h.addr }

// Counts returns what has come so far, faults included.
func (h *HTTP) Counts() Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.counts)
}

// Inject adds a fault to those in force. A request is hit by the first one that it is
// chosen for, and still counts for the others. A hit counts when the answer has been
// lost or garbled, so that the request is carried out by then.
func (h *HTTP) Inject(f Fault) *Hits {
	h.mu.Lock()
	defer h.mu.Unlock()
	hits := new(Hits)
	h.faults = append(h.faults, &fault{
		Fault: f, hits: hits, over: make(chan struct{}),
		random: rand.New(rand.NewPCG(f.Seed, f.Seed)),
	})
	return hits
}

// Restore ends all faults.
func (h *HTTP) Restore() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.faults {
		close(f.over)
	}
	h.faults = nil
}

func nameOf(r *http.Request) string { return r.Method + " " + r.URL.Path }

func isGRPC(head http.Header) bool {
	return strings.HasPrefix(head.Get("Content-Type"), "application/grpc")
}

func (h *HTTP) request(w http.ResponseWriter, r *http.Request) {
	if !h.begin() {
		panic(http.ErrAbortHandler)
	}
	defer h.serving.Done()
	name := nameOf(r)
	if isGRPC(r.Header) {
		h.count(name, Count{Calls: 1})
		r.Body = &messages{ReadCloser: r.Body, count: func() { h.count(name, Count{Requests: 1}) }}
	} else {
		h.count(name, Count{Calls: 1, Requests: 1})
	}
	f := h.choose(name)
	if f != nil && f.Outcome == Refuse {
		f.hits.add()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	e := &exchange{fault: f, hangUp: func() {}}
	if r.ProtoMajor == 2 {
		e.hangUp = func() { _ = http.NewResponseController(w).SetReadDeadline(time.Now()) }
	}
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), exchangeKey{}, e))
	defer cancel()
	defer context.AfterFunc(h.running, cancel)()
	h.forward.ServeHTTP(w, r.WithContext(follow(ctx, e.hangUp)))
}

// begin makes the end of the test wait for one request. The server does not wait for
// any when it is closed.
func (h *HTTP) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.serving.Add(1)
	return true
}

func (h *HTTP) count(name string, more Count) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.counts[name]
	h.counts[name] = Count{c.Calls + more.Calls, c.Requests + more.Requests, c.Answers + more.Answers}
}

// choose returns the fault that hits a request, or nil.
func (h *HTTP) choose(name string) *fault {
	h.mu.Lock()
	defer h.mu.Unlock()
	var chosen *fault
	for _, f := range h.faults {
		if f.strikes(name) && chosen == nil {
			chosen = f
		}
	}
	return chosen
}

func (f *fault) strikes(name string) bool {
	if !strings.HasPrefix(name, f.Calls) {
		return false
	}
	f.seen++
	if f.Nth > 0 && f.seen != f.Nth {
		return false
	}
	return f.Fraction == 0 || f.random.Float64() < f.Fraction
}

// answer is called when the server has begun to answer. An error breaks the call.
func (h *HTTP) answer(r *http.Response) error {
	e := r.Request.Context().Value(exchangeKey{}).(*exchange)
	f, garbage := e.fault, false
	if f != nil {
		f.hits.add()
		switch f.Outcome {
		case Break:
			return errLost
		case Silence:
			select {
			case <-r.Request.Context().Done():
			case <-f.over:
			}
			return errLost
		case Garbage:
			garbage = true
		}
	}
	name := nameOf(r.Request)
	switch {
	case isGRPC(r.Header):
		r.Body = &messages{ReadCloser: r.Body, garble: garbage, count: func() { h.count(name, Count{Answers: 1}) }}
	case garbage:
		r.Body = garbled{r.Body}
		fallthrough
	default:
		h.count(name, Count{Answers: 1})
	}
	r.Body = lastWord{r.Body, e.hangUp}
	return nil
}

// lastWord hangs up when the server has said all that it will. Otherwise a stream that
// the server has ended would go on until the client says something.
type lastWord struct {
	io.ReadCloser
	hangUp func()
}

func (l lastWord) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if err != nil {
		l.hangUp()
	}
	return n, err
}
