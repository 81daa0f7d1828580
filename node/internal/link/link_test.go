package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/musterhq/muster/internal/testing/wait"
)

func TestDialReachesTheListenerOfItsProtocol(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a, b := w.link(t), w.link(t)
		echo(t, b, "one")
		two, err := b.Listen("two")
		if err != nil {
			t.Fatal(err)
		}
		c, err := a.Dial(wait.Context(t), "one", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c)
		d, err := a.Dial(wait.Context(t), "two", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		e, err := two.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := e.LocalAddr().String(), b.Addr().String(); got != want {
			t.Errorf("accepted at %s, want %s", got, want)
		}
		if got, want := two.Addr().String(), b.Addr().String(); got != want {
			t.Errorf("listener's address %s, want %s", got, want)
		}

		in, out := b.Stats(), a.Stats()
		if in.Inbound != 2 || in.Accepted["one"] != 1 || in.Accepted["two"] != 1 {
			t.Errorf("accepting end: %+v, want 2 inbound, one of each protocol", in)
		}
		if out.Outbound != 2 || out.Dials != 2 || out.DialFailures != 0 {
			t.Errorf("dialling end: %+v, want 2 outbound of 2 dials", out)
		}
		for _, x := range []net.Conn{c, d, e} {
			x.Close()
			x.Close()
		}
		wait.For(t, "closed connections leave the account", func() bool { return a.Stats().Outbound == 0 && b.Stats().Inbound == 0 })
	})
}

func TestDeadlinesWork(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a := w.link(t)
		echo(t, a, "echo")
		c, err := a.Dial(wait.Context(t), "echo", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		var timeout net.Error
		if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("Read past its deadline: %v, want a timeout", err)
		}
	})
}

func TestHTTPOverTheLink(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a, b := w.link(t), w.link(t)
		ln, err := b.Listen("http")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			rw.Write(body)
		})}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		tr := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return a.Dial(ctx, "http", addr)
		}}
		body := strings.Repeat("0123456789", 100_000)
		for range 3 {
			resp, err := (&http.Client{Transport: tr, Timeout: wait.Patience}).Post("http://"+b.Addr().String(), "text/plain", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(got) != body {
				t.Fatalf("answer of %d bytes, %v; want %d", len(got), err, len(body))
			}
		}
		if n := b.Stats().Accepted["http"]; n != 1 {
			t.Errorf("%d connections for three requests, want 1 kept alive", n)
		}
		tr.CloseIdleConnections()
		srv.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
}

func TestGRPCOverTheLink(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a, b := w.link(t), w.link(t)
		ln, err := b.Listen("grpc")
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer()
		healthpb.RegisterHealthServer(srv, health.NewServer())
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		cc, err := grpc.NewClient("passthrough:///"+b.Addr().String(),
			grpc.WithTransportCredentials(insecure.NewCredentials()), // the link has its own
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				return a.Dial(ctx, "grpc", addr)
			}))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := healthpb.NewHealthClient(cc).Check(wait.Context(t), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("Check = %v, %v", resp, err)
		}
		cc.Close()
		srv.Stop()
		<-served
	})
}

func TestListenNames(t *testing.T) {
	l := (&world{}).link(t)
	for _, bad := range []string{"", "a/b", "Raft", "a b", protocolPackets, protocolStreams, strings.Repeat("x", MaxProtocol+1)} {
		if ln, err := l.Listen(bad); err == nil {
			ln.Close()
			t.Errorf("Listen(%q) succeeded", bad)
		}
		if c, err := l.Dial(wait.Context(t), bad, l.Addr().String()); err == nil {
			c.Close()
			t.Errorf("Dial(%q) succeeded", bad)
		}
	}
	longest := strings.Repeat("x", MaxProtocol)
	ln, err := l.Listen(longest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Listen(longest); err == nil {
		t.Error("two listeners for one protocol")
	}
	ln.Close()
	ln, err = l.Listen(longest)
	if err != nil {
		t.Errorf("the name is not free after Close: %v", err)
	}
	ln.Close()
}

func TestLongestNamesFitIntoTheHandshake(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		l := w.link(t, func(c *Config) { c.Cluster = strings.Repeat("ü", MaxCluster/2) })
		protocol := strings.Repeat("x", MaxProtocol)
		echo(t, l, protocol)
		c, err := l.Dial(wait.Context(t), protocol, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c)
		c.Close()
	})
}

func TestListenerCloseEndsAcceptAndWhatNobodyAccepted(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		l := w.link(t)
		ln, err := l.Listen("x")
		if err != nil {
			t.Fatal(err)
		}
		waiting, err := l.Dial(wait.Context(t), "x", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		unaccepted, err := l.Dial(wait.Context(t), "x", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer unaccepted.Close()
		defer waiting.Close()

		ended := make(chan error, 8)
		var wg sync.WaitGroup
		ln.Close()
		for range cap(ended) {
			wg.Go(func() {
				_, err := ln.Accept()
				ended <- err
			})
		}
		wg.Wait()
		for range cap(ended) {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept after Close: %v, want net.ErrClosed", err)
			}
		}
		ln.Close()
		unaccepted.SetReadDeadline(time.Now().Add(wait.Patience))
		var timeout net.Error
		if _, err := unaccepted.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("the connection that nobody accepted is still open: %v", err)
		}
		fmt.Fprint(accepted, "y")
		waiting.SetReadDeadline(time.Now().Add(wait.Patience))
		if _, err := waiting.Read(make([]byte, 1)); err != nil {
			t.Errorf("the accepted connection did not outlive its listener: %v", err)
		}
	})
}

func TestAcceptUnblocksWhenTheListenerCloses(t *testing.T) {
	l := (&world{}).link(t)
	ln, err := l.Listen("x")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := ln.Accept()
		ended <- err
	}()
	l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v, want net.ErrClosed", err)
	}
	if _, err := l.Listen("y"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after Close = %v, want net.ErrClosed", err)
	}
	if _, err := l.Dial(t.Context(), "y", "127.0.0.1:1"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial after Close = %v, want net.ErrClosed", err)
	}
	if _, err := l.Transport(l.Addr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Transport after Close = %v, want net.ErrClosed", err)
	}
}

func TestAFullBacklogRefuses(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		l := w.link(t, func(c *Config) { c.Backlog = 2 })
		ln, err := l.Listen("x")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			c, err := l.Dial(wait.Context(t), "x", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		_, err = l.Dial(wait.Context(t), "x", l.Addr().String())
		wantRefused(t, err, ReasonBusy)
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		c, err = l.Dial(wait.Context(t), "x", l.Addr().String())
		if err != nil {
			t.Fatalf("after an Accept there is room again: %v", err)
		}
		c.Close()
	})
}

func wantRefused(t *testing.T, err error, want Reason) {
	t.Helper()
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != want {
		t.Errorf("error %v; want a *RefusedError with reason %q", err, want)
		return
	}
	if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), refused.Addr) {
		t.Errorf("%q: want one line that names the address", err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		l := w.link(t)
		silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			wait.For(t, "the dial has begun", func() bool { return l.Stats().Dials == 1 })
			cancel()
		}()
		if _, err := l.Dial(ctx, "x", silent.Addr().String()); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v, want context.Canceled", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err = l.Dial(ctx, "x", silent.Addr().String())
		wantRefused(t, err, ReasonTimeout)

		short := w.link(t, func(c *Config) { c.DialTimeout = 20 * time.Millisecond })
		_, err = short.Dial(t.Context(), "x", silent.Addr().String())
		wantRefused(t, err, ReasonTimeout)

		ended := make(chan error)
		go func() {
			_, err := l.Dial(t.Context(), "x", silent.Addr().String())
			ended <- err
		}()
		wait.For(t, "the dial has begun", func() bool { return l.Stats().Dials == 3 })
		l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed during a dial: %v, want net.ErrClosed", err)
		}
	})
}

func TestPortInUse(t *testing.T) {
	l := (&world{}).link(t)
	_, err := Listen(Config{Bind: l.Addr().String(), Cluster: "orders", NodeID: "a", InstanceID: "a"})
	if err == nil {
		t.Fatal("two links on one port")
	}
	for _, want := range []string{l.Addr().String(), "in use", "another port"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	_, err = Listen(Config{Bind: "192.0.2.1:0", Cluster: "orders", NodeID: "a", InstanceID: "a"})
	if err == nil || !strings.Contains(err.Error(), "no such address") {
		t.Errorf("an address of another host: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	ca := newAuthority(t)
	noCAs := ca.mutual(t)
	noCAs.ClientCAs = nil
	noCert := ca.mutual(t)
	noCert.Certificates = nil
	for name, cfg := range map[string]Config{
		"cluster: missing":  {},
		"at most 200":       {Cluster: strings.Repeat("x", MaxCluster+1)},
		"UTF-8":             {Cluster: "a\xff"},
		"control":           {Cluster: "a\nb"},
		`bind "7946"`:       {Cluster: "x", Bind: "7946"},
		`bind "h:70000"`:    {Cluster: "x", Bind: "h:70000"},
		`bind "::1:7946"`:   {Cluster: "x", Bind: "::1:7946"},
		"public":            {Cluster: "x", TLS: noCAs},
		"a certificate":     {Cluster: "x", TLS: noCert},
		"DialTimeout -1s":   {Cluster: "x", DialTimeout: -time.Second},
		"MaxPeers -1":       {Cluster: "x", MaxPeers: -1},
		`node id ""`:        {Cluster: "x", InstanceID: "a"},
		`node id "a\nb"`:    {Cluster: "x", InstanceID: "a", NodeID: "a\nb"},
		`instance id "a b"`: {Cluster: "x", NodeID: "a", InstanceID: "a b"},
		`feature "A"`:       {Cluster: "x", Features: []string{"A"}},
		"17 are named":      {Cluster: "x", Features: make([]string, 17)},
		"without TLS":       {Cluster: "x", VerifyNodeID: true},
	} {
		l, err := Listen(cfg)
		if err == nil {
			l.Close()
			t.Errorf("want an error that says %q", name)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("%q does not say %q", err, name)
		}
	}
}

func TestIPv6(t *testing.T) {
	if !hasIPv6() {
		t.Skip("no IPv6 on this host")
	}
	worlds(t, func(t *testing.T, w *world) {
		on6 := func(c *Config) { c.Bind = "[::1]:0" }
		a, b := w.station(t, on6), w.station(t, on6)
		a.send(t, b.name(), "six")
		if p := b.receive(t); p.From.String() != a.name() {
			t.Errorf("from %s, want %s", p.From, a.name())
		}
		ip, port, err := a.tr.FinalAdvertiseAddr("", 0)
		if err != nil || !ip.Equal(net.IPv6loopback) || port != int(a.Addr().Port()) {
			t.Errorf("FinalAdvertiseAddr = %v, %d, %v", ip, port, err)
		}
	})
}

func TestUnspecifiedBindServesBothFamilies(t *testing.T) {
	if !hasIPv6() {
		t.Skip("no IPv6 on this host")
	}
	l := (&world{}).link(t, func(c *Config) { c.Bind = "0.0.0.0:0" })
	echo(t, l, "x")
	for _, host := range []string{"127.0.0.1", "::1"} {
		addr := netip.AddrPortFrom(netip.MustParseAddr(host), l.Addr().Port())
		c, err := l.Dial(wait.Context(t), "x", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c)
		c.Close()
	}
}

func TestCloseIsIdempotentAndClosesWhatIsOpen(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		a, b := w.link(t), w.link(t)
		ln, err := b.Listen("x")
		if err != nil {
			t.Fatal(err)
		}
		c, err := a.Dial(wait.Context(t), "x", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		d, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { b.Close() })
		}
		wg.Wait()
		if _, err := d.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after the link closed: %v, want net.ErrClosed", err)
		}
		c.SetReadDeadline(time.Now().Add(wait.Patience))
		var timeout net.Error
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("the other end did not notice: %v", err)
		}
		if s := b.Stats(); s.Inbound+s.Outbound+s.Handshakes != 0 {
			t.Errorf("after Close: %+v, want nothing open", s)
		}
	})
}

// A configuration of TLS that is renewed while the link runs.
func TestCertificateRotation(t *testing.T) {
	w := &world{newAuthority(t)}
	old := w.ca
	fresh := newAuthority(t)
	var mu sync.Mutex
	current := old.mutual(t)
	b := w.link(t, func(c *Config) {
		c.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			mu.Lock()
			defer mu.Unlock()
			return current.Clone(), nil
		}
	})
	echo(t, b, "x")
	a := w.link(t)
	c, err := a.Dial(wait.Context(t), "x", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	mu.Lock()
	current = fresh.mutual(t)
	mu.Unlock()
	if _, err := a.Dial(wait.Context(t), "x", b.Addr().String()); err == nil {
		t.Error("the old authority is still accepted")
	}
	a = (&world{fresh}).link(t)
	c, err = a.Dial(wait.Context(t), "x", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
