package check

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/secret"
)

// probe makes one attempt and returns what it says.
func probe(t *testing.T, c declared.Check, addr string) string {
	t.Helper()
	p, err := NewProbe(c, addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	if err := p(ctx); err != nil {
		return err.Error()
	}
	return ""
}

// says wants a failure to be one short line with these words in it.
func says(t *testing.T, failure string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(failure, w) {
			t.Errorf("%q does not say %q", failure, w)
		}
	}
	if failure == "" || strings.Contains(failure, "\n") || len(failure) > 2*maxReason {
		t.Errorf("%q is not one short line", failure)
	}
}

func TestHTTP(t *testing.T) {
	handler := http.NewServeMux()
	handler.HandleFunc("GET /ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "127.0.0.1" || r.Host != "web.example" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	handler.HandleFunc("HEAD /head", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
	})
	handler.HandleFunc("/bad", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, "\n\n  the database\x00 is away \nmore")
		io.WriteString(w, strings.Repeat("x", 1<<20))
	})
	handler.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("y", 1<<16)); err != nil {
				return
			}
		}
	})
	plain := httptest.NewServer(handler)
	defer plain.Close()
	secure := httptest.NewUnstartedServer(handler)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	addr := plain.Listener.Addr().String()
	header := map[string]secret.String{"X-Key": "#MYIP", "Host": "web.example"}

	for _, c := range []declared.Check{
		{HTTP: "/ok", Header: header},
		{HTTP: "http://#MYIP:#MYPORT/ok", Header: header},
		{HTTP: "http://$SERVICE_IP:$SERVICE_PORT/ok", Header: header},
		{HTTP: "/head", Method: "HEAD"},
	} {
		if failure := probe(t, c, addr); failure != "" {
			t.Errorf("%+v: %s", c, failure)
		}
	}
	says(t, probe(t, declared.Check{HTTP: "/ok"}, addr), "403")
	says(t, probe(t, declared.Check{HTTP: "/head", Method: "POST"}, addr), "405")
	says(t, probe(t, declared.Check{HTTP: "/bad"}, addr), "503", "the database is away")
	says(t, probe(t, declared.Check{HTTP: "/endless"}, addr), "500")
	says(t, probe(t, declared.Check{HTTPS: "/ok", Header: header}, secure.Listener.Addr().String()), "certificate")
	if failure := probe(t, declared.Check{HTTPS: "/ok", Header: header, TLSSkipVerify: true}, secure.Listener.Addr().String()); failure != "" {
		t.Error(failure)
	}
	says(t, probe(t, declared.Check{HTTP: "/ok"}, closedPort(t)), "refused")
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if failure := probe(t, declared.Check{TCP: "true"}, l.Addr().String()); failure != "" {
		t.Error(failure)
	}
	if failure := probe(t, declared.Check{TCP: l.Addr().String()}, "10.9.9.9:1"); failure != "" {
		t.Error(failure)
	}
	says(t, probe(t, declared.Check{TCP: "true"}, closedPort(t)), "refused")
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answers := health.NewServer()
	answers.SetServingStatus("orders", healthpb.HealthCheckResponse_NOT_SERVING)
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, answers)
	go server.Serve(l)
	defer server.Stop()
	addr := l.Addr().String()
	for _, c := range []declared.Check{{GRPC: "true"}, {GRPC: "#MYIP:#MYPORT"}} {
		if failure := probe(t, c, addr); failure != "" {
			t.Errorf("%+v: %s", c, failure)
		}
	}
	says(t, probe(t, declared.Check{GRPC: addr + "/orders"}, addr), "NOT_SERVING")
	says(t, probe(t, declared.Check{GRPC: addr + "/unknown"}, addr), "unknown service")
	says(t, probe(t, declared.Check{GRPC: "true", GRPCTLS: true}, addr), "tls")
	says(t, probe(t, declared.Check{GRPC: "true"}, closedPort(t)), "refused")
}

func TestScript(t *testing.T) {
	self := os.Args[0]
	if failure := probe(t, declared.Check{Script: []string{self, "-test.run=^$"}}, "10.0.0.5:80"); failure != "" {
		t.Error(failure)
	}
	t.Setenv(childEnv, "say")
	says(t, probe(t, declared.Check{Script: []string{self, "at=#MYIP:$SERVICE_PORT"}}, "[2001:db8::1]:80"),
		"exit status 1", "at=[2001:db8::1]:80 2001:db8::1 80")
	t.Setenv(childEnv, "flood")
	says(t, probe(t, declared.Check{Script: []string{self}}, "10.0.0.5:80"), "exit status 2", "xxx...")
	says(t, probe(t, declared.Check{Script: []string{"/no/such/program"}}, "10.0.0.5:80"), "no such file")
}

// A program that takes too long is killed, and with it what it has started.
func TestScriptThatHangs(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil || runtime.GOOS == "windows" {
		t.Skip("no shell")
	}
	t.Setenv(childEnv, "hang")
	file := filepath.Join(t.TempDir(), "pid")
	p, err := NewProbe(declared.Check{Script: []string{sh, "-c", "$0 & echo $! > $1.new; mv $1.new $1; wait", os.Args[0], file}}, "10.0.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() { ended <- p(ctx) }()
	started := func() bool { _, err := os.Stat(file); return err == nil }
	wait.For(t, "the program is started", started)
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it returned %v", err)
		}
	case <-time.After(wait.Patience):
		t.Fatal("the attempt does not end")
	}
	if runtime.GOOS != "linux" {
		return
	}
	pid, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lives := func() bool {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return err == nil && !strings.Contains(string(stat), ") Z ") // nobody may be there to reap it
	}
	wait.For(t, "what the program has started ends with it", func() bool { return !lives() })
}

func TestProbeOfNothing(t *testing.T) {
	for _, tt := range []struct {
		config declared.Check
		addr   string
	}{{declared.Check{}, "10.0.0.5:80"}, {declared.Check{TCP: "true"}, "10.0.0.5"}} {
		if _, err := NewProbe(tt.config, tt.addr); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%+v at %s: %v", tt.config, tt.addr, err)
		}
	}
}
