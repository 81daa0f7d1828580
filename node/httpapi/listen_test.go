package httpapi_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/secret"
	"github.com/musterhq/muster/tlsfiles"
)

// serveWith serves the API of a node as an agent does.
func serveWith(t *testing.T, o httpapi.Options, adjust func(*http.Server)) (n *node.Node, addr string) {
	t.Helper()
	registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
	n, err := node.Start(t.Context(), node.Config{Cluster: "orders", NodeID: "a", Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry}, Mastership: node.Mastership{TTL: 2 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = ln.Addr().String()
	ln = httpapi.Bounded(ln)
	if o.TLS != nil {
		ln = tls.NewListener(ln, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return o.TLS.Current(), nil }})
	}
	server := httpapi.NewServer(httpapi.NewWith(n, o), slog.New(slog.DiscardHandler))
	if adjust != nil {
		adjust(server)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
		wait.Leave(t, n.Leave)
		_ = registry.Close()
	})
	return n, addr
}

var paths = []string{
	httpapi.PathStatus, httpapi.PathMembers, httpapi.PathMaster, httpapi.PathView, httpapi.PathEvents, httpapi.PathMetrics, httpapi.PathHistory, "/", "/v1/nothing",
}

// ask reads a path with these headers, in pairs.
func ask(t *testing.T, client *http.Client, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if strings.Contains(response.Header.Get("Content-Type"), "event-stream") {
		return response, ""
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func newClient(t *testing.T, c *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: c}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

const token = "0123456789abcdef-token"

func TestOnlyWhoShowsTheTokenIsAnswered(t *testing.T) {
	n, addr := serveWith(t, httpapi.Options{Token: func() secret.String { return token }}, nil)
	client := newClient(t, nil)
	for name, headers := range map[string][]string{
		"no token":         nil,
		"another token":    {"Authorization", "Bearer 0123456789abcdef-tokem"},
		"a part of it":     {"Authorization", "Bearer " + token[:len(token)-1]},
		"an empty one":     {"Authorization", "Bearer "},
		"another scheme":   {"Authorization", "Basic " + token},
		"no scheme":        {"Authorization", token},
		"in the wrong one": {"X-Token", token},
	} {
		for _, path := range paths {
			response, body := ask(t, client, "http://"+addr+path, headers...)
			if response.StatusCode != http.StatusUnauthorized || response.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: GET %s: status %d", name, path, response.StatusCode)
			}
			if strings.Contains(body, token) || strings.Contains(body, n.InstanceID()) {
				t.Errorf("%s: GET %s tells %s", name, path, body)
			}
		}
		if response, body := ask(t, client, "http://"+addr+httpapi.PathHealth, headers...); response.StatusCode != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: %s: status %d, %q", name, httpapi.PathHealth, response.StatusCode, body)
		}
	}
	for _, path := range append(paths[:6:6], httpapi.PathHealth, httpapi.PathReady) {
		response, _ := ask(t, client, "http://"+addr+path, "Authorization", "bearer "+token)
		if response.StatusCode == http.StatusUnauthorized {
			t.Errorf("GET %s with the token: status %d", path, response.StatusCode)
		}
	}
}

// A page in a browser cannot read the API by a name that it has lead to loopback.
func TestOnlyNamesOfLoopbackAreAnswered(t *testing.T) {
	_, addr := serveWith(t, httpapi.Options{LocalNames: true}, nil)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	status := func(path, host string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		response, err := newClient(t, nil).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	for _, host := range []string{addr, "localhost:" + port, "LOCALHOST", "localhost.", "[::1]:" + port, "[::1]", "a.localhost", "10.0.0.5"} {
		if got := status(httpapi.PathStatus, host); got != http.StatusOK {
			t.Errorf("by the name %s: status %d", host, got)
		}
	}
	for _, host := range []string{"example.org", "example.org:" + port, "127.0.0.1.example.org", "notlocalhost", "localhost.example.org"} {
		if got := status(httpapi.PathStatus, host); got != http.StatusForbidden {
			t.Errorf("by the name %s: status %d", host, got)
		}
		if got := status(httpapi.PathHealth, host); got != http.StatusOK {
			t.Errorf("health by the name %s: status %d", host, got)
		}
	}
}

// Where the file of the token was never read, nobody has the right one.
func TestNoTokenIsNoToken(t *testing.T) {
	_, addr := serveWith(t, httpapi.Options{Token: httpapi.TokenOf("", filepath.Join(t.TempDir(), "none"))}, nil)
	for _, header := range []string{"Bearer", "Bearer ", "Bearer  "} {
		if response, _ := ask(t, newClient(t, nil), "http://"+addr+httpapi.PathStatus, "Authorization", header); response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%q: status %d", header, response.StatusCode)
		}
	}
}

// What a node waits for names its provider. That is not for strangers.
func TestReadinessTellsStrangersNoMore(t *testing.T) {
	registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
	defer registry.Close()
	n, err := node.Start(t.Context(), node.Config{
		Cluster: "orders", NodeID: "a", Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry}, Bootstrap: node.Bootstrap{Mode: node.JoinOnly},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Leave(t.Context())
	api := httpapi.NewWith(n, httpapi.Options{Token: func() secret.String { return token }})
	read := func(header string) string {
		r, err := http.NewRequest(http.MethodGet, httpapi.PathReady, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", header)
		var w response
		api.ServeHTTP(&w, r)
		if w.status != http.StatusServiceUnavailable {
			t.Errorf("status %d", w.status)
		}
		return strings.TrimSpace(w.body.String())
	}
	if got := read(""); got != `{"error":"not ready"}` {
		t.Errorf("a stranger is told %s", got)
	}
	if got := read("Bearer " + token); !strings.Contains(got, "not ready: ") {
		t.Errorf("who shows the token is told %s", got)
	}
}

// response is an http.ResponseWriter that keeps what it is given.
type response struct {
	header http.Header
	status int
	body   strings.Builder
}

func (r *response) Header() http.Header {
	if r.header == nil {
		r.header = make(http.Header)
	}
	return r.header
}
func (r *response) WriteHeader(status int)      { r.status = status }
func (r *response) Write(b []byte) (int, error) { return r.body.Write(b) }

func TestTokenOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		current := httpapi.TokenOf("", file)
		for _, v := range []struct {
			text string
			want secret.String
		}{{"first\n", "first"}, {"second", "second"}, {"", "second"}, {" \n", "second"}, {"third", "third"}} {
			if err := os.WriteFile(file, []byte(v.text), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if got := current(); got != v.want {
				t.Errorf("the file holds %q, the token is %q, want %q", v.text, string(got), string(v.want))
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := current(); got != "third" {
			t.Errorf("without the file the token is %q", string(got))
		}
	})
	if fixed := httpapi.TokenOf("fixed", ""); fixed() != "fixed" {
		t.Error("a token that is no file's is lost")
	}
}

// The API over TLS takes new certificates into use, reports them, and demands those
// of clients for all but health.
func TestTLSOfTheAPI(t *testing.T) {
	dir := t.TempDir()
	ca, caPair, err := pki.NewAuthority("ca", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	files := tlsfiles.Config{CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "api.pem"), KeyFile: filepath.Join(dir, "api-key.pem")}
	issue := func(name string) (certFile, keyFile string) {
		t.Helper()
		pair, err := ca.Issue(name, []string{"127.0.0.1"}, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
		if err := pair.Write(certFile, keyFile, true); err != nil {
			t.Fatal(err)
		}
		return certFile, keyFile
	}
	if err := caPair.Write(files.CAFile, filepath.Join(dir, "ca-key.pem"), false); err != nil {
		t.Fatal(err)
	}
	issue("api")
	live, err := tlsfiles.Follow(files, tlsfiles.Contents.Server)
	if err != nil {
		t.Fatal(err)
	}
	_, addr := serveWith(t, httpapi.Options{TLS: live, ClientCertificates: true}, nil)
	clientCert, clientKey := issue("client")
	known, err := tlsfiles.Config{CAFile: files.CAFile, CertFile: clientCert, KeyFile: clientKey}.Client()
	if err != nil {
		t.Fatal(err)
	}
	anonymous, err := tlsfiles.Config{CAFile: files.CAFile}.Client()
	if err != nil {
		t.Fatal(err)
	}
	if response, body := ask(t, newClient(t, anonymous), "https://"+addr+httpapi.PathStatus); response.StatusCode != http.StatusForbidden {
		t.Errorf("without a certificate: status %d, %s", response.StatusCode, body)
	}
	if response, _ := ask(t, newClient(t, anonymous), "https://"+addr+httpapi.PathHealth); response.StatusCode != http.StatusOK {
		t.Errorf("health without a certificate: status %d", response.StatusCode)
	}
	var status httpapi.Status
	_, body := ask(t, newClient(t, known), "https://"+addr+httpapi.PathStatus)
	decode(t, body, &status)
	if c := status.Certificates; len(c) != 1 || c[0].Use != "http" || time.Until(c[0].Expiry) < 50*time.Minute || c[0].Error != "" {
		t.Errorf("certificates %+v", c)
	}
	before := live.Check().Reloads
	if err := os.WriteFile(files.KeyFile, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	live.Check()
	_, metrics := ask(t, newClient(t, known), "https://"+addr+httpapi.PathMetrics)
	for _, want := range []string{`muster_certificate_reload_failing{use="http"} 1`, `muster_certificate_expiry_timestamp_seconds{use="http"}`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s among the metrics", want)
		}
	}
	issue("api")
	if state := live.Check(); state.Reloads != before+1 || state.Err != nil {
		t.Errorf("state %+v", state)
	}
	ask(t, newClient(t, known), "https://"+addr+httpapi.PathStatus)
	if got, err := tls.Dial("tcp", addr, known); err != nil {
		t.Error(err)
	} else {
		want := live.Current().Certificates[0].Certificate[0]
		if string(got.ConnectionState().PeerCertificates[0].Raw) != string(want) {
			t.Error("the old certificate is shown")
		}
		got.Close()
	}
}

// Streams of events are counted, and one that is not read is cut off while the others
// go on.
func TestStreamsOfEventsAreBounded(t *testing.T) {
	_, addr := serveWith(t, httpapi.Options{MaxStreams: 3}, func(s *http.Server) {
		s.ReadTimeout, s.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond // which are not for streams
	})
	open := func() (net.Conn, *bufio.Reader, int) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(wait.Patience))
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", httpapi.PathEvents)
		in := bufio.NewReader(c)
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c, in, response.StatusCode
	}
	var held []net.Conn
	for range 3 {
		c, _, status := open()
		if status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		held = append(held, c)
	}
	if _, _, status := open(); status != http.StatusServiceUnavailable {
		t.Errorf("one more than allowed: status %d", status)
	}
	_ = held[1].SetReadDeadline(time.Now().Add(time.Second))
	if _, err := io.Copy(io.Discard, held[1]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stream ended by itself: %v", err)
	}
	held[0].Close()
	wait.For(t, "the place of a stream that ended is free", func() bool {
		c, _, status := open()
		if status == http.StatusOK {
			c.Close()
		}
		return status == http.StatusOK
	})
}

// Connections that ask for nothing, or for half of something, keep no probe of health out, and end
// nothing that is being answered.
func TestIdleConnectionsGiveWay(t *testing.T) {
	_, addr := serveWith(t, httpapi.Options{}, func(s *http.Server) { s.ReadHeaderTimeout, s.ReadTimeout = time.Hour, time.Hour })
	dial := func(text string) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(wait.Patience))
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	stream := bufio.NewReader(dial("GET " + httpapi.PathEvents + " HTTP/1.1\r\nHost: x\r\n\r\n"))
	if response, err := http.ReadResponse(stream, nil); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("the stream: %v", err)
	}
	oldest := dial("GET /v1/st")
	for range 600 {
		dial("")
	}
	for range 10 {
		client := newClient(t, nil)
		if response, body := ask(t, client, "http://"+addr+httpapi.PathHealth); response.StatusCode != http.StatusOK {
			t.Errorf("a probe: status %d: %s", response.StatusCode, body)
		}
	}
	if _, err := io.Copy(io.Discard, oldest); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the one that has waited longest is still there")
	}
	if line, err := stream.ReadString('\n'); err != nil {
		t.Errorf("the stream has ended: %q, %v", line, err)
	}
}

// Where all are being answered, what comes is closed at once.
func TestAnsweredConnectionsStay(t *testing.T) {
	_, addr := serveWith(t, httpapi.Options{MaxStreams: 1000}, nil)
	dial := func() (*bufio.Reader, error) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(wait.Patience))
		_, _ = io.WriteString(c, "GET "+httpapi.PathEvents+" HTTP/1.1\r\nHost: x\r\n\r\n")
		in := bufio.NewReader(c)
		_, err = http.ReadResponse(in, nil)
		return in, err
	}
	first, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 511 {
		if _, err := dial(); err != nil {
			t.Fatalf("connection %d: %v", i+2, err)
		}
	}
	if _, err := dial(); err == nil {
		t.Error("one more is answered")
	}
	if _, err := first.ReadString('\n'); err != nil {
		t.Errorf("the first has ended: %v", err)
	}
}

// Who does not say what it wants, says too much, or will not stop is cut off.
func TestRequestsAreBounded(t *testing.T) {
	_, addr := serveWith(t, httpapi.Options{}, func(s *http.Server) {
		s.ReadHeaderTimeout, s.ReadTimeout = 100*time.Millisecond, 200*time.Millisecond
	})
	for name, text := range map[string]string{
		"nothing":       "",
		"half a line":   "GET /v1/st",
		"a body":        "GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nx",
		"a long header": "GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10),
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(wait.Patience))
		go io.WriteString(c, text)
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: the connection stays open", name)
		}
		c.Close()
	}
}
