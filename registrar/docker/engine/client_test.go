package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/fakeengine"
	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/tlsfiles"
)

const whereami = "github.com/musterhq/muster/internal/testing/images/whereami"

// newTestClient returns a client that the test closes.
func newTestClient(t testing.TB, c Config) *Client {
	t.Helper()
	cl, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

func TestClientOfARealEngine(t *testing.T) {
	engine := testdocker.Require(t)
	image := engine.Build(whereami)
	network := engine.Network()
	cl := newTestClient(t, Config{})
	ctx := t.Context()

	c := engine.Run(testdocker.Options{
		Image:  image,
		Flags:  []string{"-p", "0:7946", "--network", network},
		Labels: map[string]string{"a": "b"},
	}, "wait")
	ids, err := cl.Running(ctx)
	if err != nil || !slices.Contains(ids, c.ID) {
		t.Fatalf("Running() = %v, %v, want %s among them", ids, err, c.ID)
	}
	for _, name := range []string{c.ID, c.Name, c.ID[:12]} {
		got, err := cl.Inspect(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		bindings := got.NetworkSettings.Ports["7946/tcp"]
		if got.ID != c.ID || got.ShortName() != c.Name || got.Config.Labels["a"] != "b" || !got.State.Running || len(bindings) == 0 {
			t.Fatalf("Inspect(%s) = %+v", name, got)
		}
		if want := c.Port("7946/tcp"); "0.0.0.0:"+bindings[0].HostPort != want {
			t.Errorf("binding %+v, docker port says %s", bindings[0], want)
		}
		n, err := cl.Network(ctx, got.NetworkSettings.Networks[network].NetworkID)
		if err != nil || n.Name != network || n.Driver != "bridge" {
			t.Errorf("Network() = %+v, %v", n, err)
		}
	}
	if _, err := cl.Inspect(ctx, "no-such-container"); !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("Inspect of none: %v, want ErrNotFound", err)
	}
	if _, err := cl.Info(ctx); err != nil {
		t.Error(err)
	}
	if got := cl.Host(); !strings.HasPrefix(got, "unix:///") || strings.Contains(got, ",") {
		t.Errorf("Host() = %q, want one socket", got)
	}
}

func TestClientMissesNoEventAfterTheFirst(t *testing.T) {
	engine := testdocker.Require(t)
	image := engine.Build(whereami)
	cl := newTestClient(t, Config{})
	c := engine.Create(testdocker.Options{Image: image}, "wait")

	var seen []string
	for event, err := range cl.Events(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if event == (Event{}) {
			c.Start()
			c.Kill()
			continue
		}
		if event.ID == c.ID {
			seen = append(seen, event.Action)
		}
		if event.ID == c.ID && event.Action == "die" {
			break
		}
	}
	if !slices.Contains(seen, "start") || !slices.Contains(seen, "kill") {
		t.Errorf("saw %v, want start, kill and die", seen)
	}
}

func TestEventsEndWithTheirContext(t *testing.T) {
	testdocker.Require(t)
	cl := newTestClient(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for event, err := range cl.Events(ctx) {
		if err != nil {
			t.Fatalf("event %+v, %v, want the sequence to end without an error", event, err)
		}
		cancel()
	}
}

func TestPathsAsAProxyHasThem(t *testing.T) {
	for path, want := range map[string]string{
		"/_ping":                            "/_ping",
		"/engine/_ping":                     "/_ping",
		"/v1.41/_ping":                      "/_ping",
		"/v1.41/events":                     "/events",
		"/v1.41/containers/json":            "/containers/json",
		"/v1.41/containers/abc/json":        "/containers/*/json",
		"/engine/v1.52/containers/abc/json": "/containers/*/json",
		"/v1.41/networks/abc":               "/networks/*",
		"/v1.41/info":                       "/info",
	} {
		if have := pathOf(path); have != want {
			t.Errorf("pathOf(%q) = %q; want %q", path, have, want)
		}
	}
}

func TestClientErrors(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone.sock")
	dir := t.TempDir()
	left := filepath.Join(t.TempDir(), "s") // a file that nobody listens on any more
	if l, err := net.Listen("unix", left); err == nil {
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	at := func(paths map[string]http.HandlerFunc) string {
		return "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(paths))
	}
	plain := httptest.NewServer(fakeengine.Handler(nil))
	defer plain.Close()
	secure := httptest.NewTLSServer(fakeengine.Handler(nil))
	defer secure.Close()
	port := func(s *httptest.Server) string { return s.Listener.Addr().String() }

	for _, tc := range []struct {
		name string
		host string
		kind error
		want []string
	}{
		{"no socket", "unix://" + gone, driver.ErrUnavailable, []string{gone, "no such socket", "-v /var/run/docker.sock"}},
		{"a directory in place of the socket", "unix://" + dir, driver.ErrUnavailable, []string{dir, "is a directory"}},
		{"nobody listens", "unix://" + left, driver.ErrUnavailable, []string{"connection refused", "start the engine"}},
		{"it hangs at once", at(map[string]http.HandlerFunc{"/_ping": fakeengine.Hang}), driver.ErrUnavailable, []string{"no answer within 300ms"}},
		{"it hangs later", at(map[string]http.HandlerFunc{"/v1.41/containers/x/json": fakeengine.Hang}), driver.ErrUnavailable, []string{"no answer within 300ms"}},
		{"it hangs within the answer", at(map[string]http.HandlerFunc{"/v1.41/containers/x/json": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"Id": "x"`)
			w.(http.Flusher).Flush()
			fakeengine.Hang(w, r)
		}}), driver.ErrUnavailable, []string{"no answer within 300ms"}},
		{"no such container", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(404, `{"message": "No such container: x"}`)}), driver.ErrNotFound, []string{"No such container: x", `"x"`}},
		{"a proxy forbids it", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(403, `forbidden`)}), driver.ErrDenied, []string{"status 403 for /containers/*/json; let GET /containers/*/json through the proxy before the engine (CONTAINERS=1"}},
		{"a proxy says that there is no such path", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(404, "404 page not found")}), driver.ErrDenied, []string{"let GET /containers/*/json through"}},
		{"a proxy says so in JSON", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(404, `{"message": "page not found"}`)}), driver.ErrDenied, []string{"let GET /containers/*/json through"}},
		{"a proxy says that no method is allowed", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(405, "<html>no</html>")}), driver.ErrDenied, []string{"let GET /containers/*/json through"}},
		{"a plug-in forbids it", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(403, `{"message": "authorization denied by plugin x"}`)}), driver.ErrDenied, []string{"authorization denied by plugin x (status 403"}},
		{"a proxy forbids all", at(map[string]http.HandlerFunc{"/_ping": fakeengine.Answer(403, `forbidden`)}), driver.ErrDenied, []string{"let GET /_ping through", "PING=1"}},
		{"it fails", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(500, `{"message": "disk is\nfull"}`)}), driver.ErrUnavailable, []string{"disk is full"}},
		{"a bad request", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(400, `{"message": "no"}`)}), driver.ErrInvalid, []string{"no"}},
		{"garbage", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(200, `<html>`)}), driver.ErrInvalid, []string{"not that of an engine"}},
		{"not a container", at(map[string]http.HandlerFunc{"/": fakeengine.Answer(200, `{}`)}), driver.ErrInvalid, []string{"not that of an engine", `"Id"`}},
		{"no engine", at(map[string]http.HandlerFunc{"/_ping": http.NotFound}), driver.ErrUnavailable, []string{"not that of an engine"}},
		{"too old", at(map[string]http.HandlerFunc{"/_ping": fakeengine.Ping("1.24")}), driver.ErrInvalid, []string{"1.24", "1.40"}},
		{"it speaks no TLS", "https://" + port(plain), driver.ErrUnavailable, []string{"does not speak TLS"}},
		{"it speaks TLS", "tcp://" + port(secure), driver.ErrUnavailable, []string{"demands TLS"}},
		{"unknown authority", "https://" + port(secure), driver.ErrUnavailable, []string{"tls.ca_file"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// Only who is to wait for its end has a short one: what answers may be slow here.
			timeout := time.Minute
			if slices.Contains(tc.want, "no answer within 300ms") {
				timeout = 300 * time.Millisecond
			}
			cl := newTestClient(t, Config{Host: tc.host, Timeout: timeout})
			_, err := cl.Inspect(t.Context(), "x")
			if !errors.Is(err, tc.kind) {
				t.Errorf("error %v, want %v", err, tc.kind)
			}
			addr := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(tc.host, "unix"), "https"), "tcp")
			for _, want := range append(tc.want, addr) {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("error %q, want it to have %q", err, want)
				}
			}
			if strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("error %q has several lines", err)
			}
		})
	}
}

func TestClientWithoutPermission(t *testing.T) {
	if os.Getuid() == 0 {
		// Root may open everything; what the kernel would say is tried below.
		text, how, kind := unreachable(host{network: "unix", addr: "/"}, &os.SyscallError{Syscall: "connect", Err: os.ErrPermission})
		if kind != driver.ErrDenied || !strings.Contains(how, "group-add 0") {
			t.Errorf("got %v: %s; %s", kind, text, how)
		}
		return
	}
	path := fakeengine.ServeUnix(t, fakeengine.Handler(nil))
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	_, err := newTestClient(t, Config{Host: "unix://" + path}).Running(t.Context())
	if !errors.Is(err, driver.ErrDenied) || !strings.Contains(err.Error(), "--group-add") {
		t.Errorf("error %v, want ErrDenied with the hint", err)
	}
}

func TestClientDistinguishesTheCallersEndFromItsOwn(t *testing.T) {
	cl := newTestClient(t, Config{Host: "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{"/": fakeengine.Hang}))})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cl.Running(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("error %v, want context.Canceled and ErrUnavailable", err)
	}
	cl.Close()
	if _, err := cl.Running(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestClientIsSafeForConcurrentUse(t *testing.T) {
	cl := newTestClient(t, Config{Host: "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{"/v1.41/containers/json": fakeengine.Answer(200, "[]")}))})
	errs := make(chan error)
	const callers = 20
	for range callers {
		go func() { _, err := cl.Running(t.Context()); errs <- err }()
	}
	for range callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestClientReadsWhatTheLibraryRefuses(t *testing.T) {
	const odd = `{"Id": "x", "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "nowhere", "HostPort": 8080}]}, "Networks": {"n": {"IPAddress": "also nowhere", "IPPrefixLen": 24}}}}`
	cl := newTestClient(t, Config{Host: "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{
		"/v1.41/containers/x/json": fakeengine.Answer(200, odd),
		"/v1.41/containers/json":   fakeengine.Answer(200, `[{"Id": "x", "Ports": [{"IP": "nowhere", "PrivatePort": 80}]}]`),
	}))})
	got, err := cl.Inspect(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Binding{{HostIP: "nowhere", HostPort: "8080"}}, got.NetworkSettings.Ports["80/tcp"]); d != "" {
		t.Error(d)
	}
	if ids, err := cl.Running(t.Context()); err != nil || len(ids) != 1 {
		t.Errorf("Running() = %v, %v", ids, err)
	}
}

func TestClientAgreesAnewWithAnEngineThatWasUpgraded(t *testing.T) {
	var upgraded atomic.Bool
	cl := newTestClient(t, Config{Host: "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{
		"/_ping": func(w http.ResponseWriter, r *http.Request) {
			version := "1.41"
			if upgraded.Load() {
				version = "1.52"
			}
			fakeengine.Ping(version)(w, r)
		},
		"/v1.41/containers/json": func(w http.ResponseWriter, r *http.Request) {
			if upgraded.Load() {
				fakeengine.Answer(400, `{"message": "client version 1.41 is too old. Minimum supported API version is 1.44"}`)(w, r)
				return
			}
			fakeengine.Answer(200, `[]`)(w, r)
		},
		"/v1.52/containers/json": fakeengine.Answer(200, `[]`),
	}))})
	if _, err := cl.Running(t.Context()); err != nil {
		t.Fatal(err)
	}
	upgraded.Store(true)
	if _, err := cl.Running(t.Context()); !driver.Retryable(err) {
		t.Fatalf("error %v, want one that another try may fix", err)
	}
	if _, err := cl.Running(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestEventsOfABrokenEngine(t *testing.T) {
	const one = `{"Type": "container", "Action": "start", "Actor": {"ID": "x"}}`
	for _, tc := range []struct {
		name   string
		events http.HandlerFunc
		want   []Event
		err    string
	}{
		{"it never begins", fakeengine.Hang, nil, "no answer within 300ms"},
		{"it refuses", fakeengine.Answer(500, `{"message": "no"}`), nil, "no"},
		{"it ends", fakeengine.Answer(200, one+"\n"), []Event{{}, {"x", "start"}}, "ended the stream"},
		{"garbage", fakeengine.Answer(200, one+"\n<html>"), []Event{{}, {"x", "start"}}, "invalid character"},
		{"others than of containers", fakeengine.Answer(200, `{"Type": "network", "Action": "connect", "Actor": {"ID": "n"}}`+one), []Event{{}, {"x", "start"}}, "ended the stream"},
		{"it stays silent for longer than a call may take", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			select {
			case <-time.After(700 * time.Millisecond):
			case <-r.Context().Done():
			}
			io.WriteString(w, one)
		}, []Event{{}, {"x", "start"}}, "ended the stream"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cl := newTestClient(t, Config{Timeout: 300 * time.Millisecond, Host: "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{"/v1.41/events": tc.events}))})
			var got []Event
			var last error
			for event, err := range cl.Events(t.Context()) {
				if err != nil {
					last = err
					continue
				}
				got = append(got, event)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("events (-want +got):\n%s", d)
			}
			if !errors.Is(last, driver.ErrUnavailable) || !strings.Contains(last.Error(), tc.err) {
				t.Errorf("error %v, want ErrUnavailable with %q", last, tc.err)
			}
		})
	}
}

func TestEventsAreAskedForSinceTheEngineWasLastHeard(t *testing.T) {
	asked := make(chan string, 1)
	then := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC) // the engine's clock is not ours
	cl := newTestClient(t, Config{Host: "unix://" + fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{
		"/_ping": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", then.Format(http.TimeFormat))
			fakeengine.Ping("1.41")(w, r)
		},
		"/v1.41/events": func(w http.ResponseWriter, r *http.Request) { asked <- r.URL.Query().Get("since") },
	}))})
	for range cl.Events(t.Context()) {
	}
	if got := strings.TrimSuffix(<-asked, ".000000000"); got != fmt.Sprint(then.Unix()) {
		t.Errorf("asked for events since %s, want %d", got, then.Unix())
	}
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestClientOverTLS(t *testing.T) {
	ca := testserver.NewCA(t)
	certFile, keyFile := ca.Issue(t, "engine", testserver.PKCS8)
	files := tlsfiles.Config{CAFile: ca.CAFile, CertFile: certFile, KeyFile: keyFile}
	secure, err := files.Mutual()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(fakeengine.Handler(map[string]http.HandlerFunc{"/v1.41/containers/json": fakeengine.Answer(200, "[]")}))
	s.TLS = secure
	s.StartTLS()
	defer s.Close()
	host := "tcp://" + s.Listener.Addr().String()

	if _, err := newTestClient(t, Config{Host: host, TLS: files}).Running(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = newTestClient(t, Config{Host: host, TLS: tlsfiles.Config{CAFile: ca.CAFile}}).Running(t.Context())
	if !errors.Is(err, driver.ErrDenied) || !strings.Contains(err.Error(), "tls.cert_file") {
		t.Errorf("without a certificate: %v, want ErrDenied with the hint", err)
	}

	// What is written to the files is in force with the next connection.
	own := tlsfiles.Config{CAFile: filepath.Join(t.TempDir(), "ca.pem"), CertFile: certFile, KeyFile: keyFile}
	copyFile(t, own.CAFile, testserver.NewCA(t).CAFile)
	followed := newTestClient(t, Config{Host: host, TLS: own})
	if _, err := followed.Running(t.Context()); err == nil || !strings.Contains(err.Error(), "tls.ca_file") {
		t.Errorf("with another authority: %v", err)
	}
	copyFile(t, own.CAFile, ca.CAFile)
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := followed.Running(t.Context())
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new authority is not taken into use: %v", err)
		}
	}

	// The files as the docker command wants them.
	dir := t.TempDir()
	for name, file := range map[string]string{"ca.pem": ca.CAFile, "cert.pem": certFile, "key.pem": keyFile} {
		if err := os.Symlink(file, filepath.Join(dir, name)); err != nil {
			t.Skip(err)
		}
	}
	env := map[string]string{"DOCKER_HOST": host, "DOCKER_CERT_PATH": dir}
	cl, err := newClient(Config{}, func(key string) (string, bool) { v, ok := env[key]; return v, ok })
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := cl.Running(t.Context()); err != nil {
		t.Errorf("from the environment: %v", err)
	}
}

func TestHosts(t *testing.T) {
	for _, tc := range []struct {
		c    Config
		env  map[string]string
		want []string
		err  string
	}{
		{c: Config{Host: "unix:///x.sock"}, env: map[string]string{"DOCKER_HOST": "tcp://other"}, want: []string{"unix:///x.sock"}},
		{env: map[string]string{"DOCKER_HOST": "tcp://10.0.0.5"}, want: []string{"tcp://10.0.0.5:2375"}},
		{c: Config{Host: "https://engine"}, want: []string{"tcp://engine:2376"}},
		{c: Config{Host: "tcp://[2001:db8::5]:99/docker/"}, want: []string{"tcp://[2001:db8::5]:99/docker"}},
		{env: map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}, want: []string{"unix:///var/run/docker.sock", "unix:///run/podman/podman.sock", "unix:///run/user/7/docker.sock", "unix:///run/user/7/podman/podman.sock"}},
		{want: []string{"unix:///var/run/docker.sock", "unix:///run/podman/podman.sock"}},
		{c: Config{Host: "/var/run/docker.sock"}, err: `host: "/var/run/docker.sock": is no address of an engine; write unix:///PATH`},
		{c: Config{Host: "unix://docker.sock"}, err: "absolute path"},
		{env: map[string]string{"DOCKER_HOST": "ssh://me@there"}, err: `DOCKER_HOST: "ssh://me@there": ssh`},
		{env: map[string]string{"DOCKER_HOST": "fd://"}, err: "DOCKER_HOST"},
		{c: Config{Host: "tcp://:2375"}, err: "no address of an engine"},
		{c: Config{Host: "npipe:////./pipe/docker_engine"}, err: "only Windows"},
		{c: Config{Timeout: -time.Second}, err: "timeout"},
		{c: Config{TLS: tlsfiles.Config{CAFile: "/ca.pem"}}, err: "host"},
		{c: Config{Host: "unix:///x", TLS: tlsfiles.Config{CAFile: "/ca.pem"}}, err: "tls is for tcp"},
		{c: Config{Host: "tcp://x", TLS: tlsfiles.Config{CAFile: "/no/such/ca.pem"}}, err: "tls.ca_file"},
		{env: map[string]string{"DOCKER_HOST": "tcp://x", "DOCKER_CERT_PATH": "/no/such"}, err: "/no/such/ca.pem"},
		{env: map[string]string{"DOCKER_HOST": "tcp://x", "DOCKER_TLS_VERIFY": "1"}, err: ".docker/ca.pem"},
	} {
		cl, err := newClient(tc.c, func(key string) (string, bool) { v, ok := tc.env[key]; return v, ok })
		if tc.err != "" {
			if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%+v %v: error %v, want ErrInvalid with %q", tc.c, tc.env, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v %v: %v", tc.c, tc.env, err)
			continue
		}
		if got := cl.Host(); got != strings.Join(tc.want, ", ") {
			t.Errorf("%+v %v: hosts %v, want %v", tc.c, tc.env, got, tc.want)
		}
	}
}

func TestTheFirstSocketThatLetsUsInIsTaken(t *testing.T) {
	gone := host{network: "unix", addr: filepath.Join(t.TempDir(), "gone")}
	broken := host{network: "unix", addr: fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{"/_ping": fakeengine.Answer(403, "no")}))}
	good := host{network: "unix", addr: fakeengine.ServeUnix(t, fakeengine.Handler(map[string]http.HandlerFunc{"/v1.41/containers/json": fakeengine.Answer(200, "[]")}))}

	cl := &Client{hosts: []host{gone, broken, good}, timeout: time.Second}
	defer cl.Close()
	if _, err := cl.Running(t.Context()); err != nil || cl.Host() != good.String() {
		t.Errorf("error %v, host %s, want %v", err, cl.Host(), good)
	}
	cl = &Client{hosts: []host{gone, broken}, timeout: time.Second}
	defer cl.Close()
	if _, err := cl.Running(t.Context()); !errors.Is(err, driver.ErrDenied) || errors.Is(err, ErrNoEngine) {
		t.Errorf("error %v, want that of the one that is there", err)
	}

	// An engine that is still starting is waited for, however ready another is.
	starting := host{network: "unix", addr: filepath.Join(t.TempDir(), "starting")}
	listener, err := net.Listen("unix", starting.addr)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	listener.Close()
	cl = &Client{hosts: []host{starting, good}, timeout: 10 * time.Second}
	defer cl.Close()
	if _, err := cl.Running(t.Context()); !errors.Is(err, driver.ErrUnavailable) || errors.Is(err, ErrNoEngine) ||
		!strings.Contains(err.Error(), starting.addr) || !strings.Contains(err.Error(), "docker.host") {
		t.Errorf("error %v, want that of the engine that does not answer", err)
	}
	if err := os.Remove(starting.addr); err != nil {
		t.Fatal(err)
	}
	if listener, err = net.Listen("unix", starting.addr); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: fakeengine.Handler(map[string]http.HandlerFunc{"/v1.41/containers/json": fakeengine.Answer(200, "[]")})}
	go server.Serve(listener)
	defer server.Close()
	if _, err := cl.Running(t.Context()); err != nil || cl.Host() != starting.String() {
		t.Errorf("error %v, host %s, want %v", err, cl.Host(), starting)
	}

	cl = &Client{hosts: []host{gone}, timeout: time.Second}
	defer cl.Close()
	if _, err := cl.Running(t.Context()); !errors.Is(err, ErrNoEngine) || !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("error %v, want ErrNoEngine", err)
	}
}

// The library decodes what it gets into its own types. It gets an answer only where it makes the
// error of it.
func TestOnlyWeDecodeAnAnswer(t *testing.T) {
	for _, test := range []struct {
		name, body, left string
		status           int
		capture          responseCapture
	}{
		{name: "an answer", status: http.StatusOK, body: `{"Id": "x"}`, left: "null"},
		{name: "a greeting", status: http.StatusOK, capture: responseCapture{hello: true}, body: "OK", left: "OK"},
		{name: "an error", status: http.StatusNotFound, body: `{"message": "none"}`, left: `{"message": "none"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}))
			defer server.Close()
			req, err := http.NewRequestWithContext(test.capture.with(t.Context()), http.MethodGet, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := capturingTransport{server.Client().Transport}.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			left, err := io.ReadAll(resp.Body)
			if err != nil || string(left) != test.left || string(test.capture.body) != test.body {
				t.Errorf("the library gets %q, %v, and we %q; want %q and %q", left, err, test.capture.body, test.left, test.body)
			}
			_ = resp.Body.Close()
		})
	}
}
