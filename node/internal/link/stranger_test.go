package link

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
)

func rawDial(t testing.TB, l *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(wait.Patience))
	return c
}

// answer reads until the other end hangs up.
func answer(c net.Conn) string {
	b, _ := io.ReadAll(c)
	return string(b)
}

// sayRaw sends text and returns all that comes back.
func sayRaw(text string) func(*testing.T, *world, *Link) string {
	return func(t *testing.T, _ *world, l *Link) string {
		c := rawDial(t, l)
		io.WriteString(c, text)
		return answer(c)
	}
}

// dialFrom dials with a link of its own, adjusted, and returns the reason of the
// refusal.
func dialFrom(protocol string, adjust func(t *testing.T, w *world, c *Config)) func(*testing.T, *world, *Link) string {
	return func(t *testing.T, w *world, l *Link) string {
		other := w.link(t, func(c *Config) { adjust(t, w, c) })
		defer other.Close()
		c, err := other.Dial(wait.Context(t), protocol, l.Addr().String())
		if err == nil {
			c.Close()
			return "accepted"
		}
		refused, ok := err.(*RefusedError)
		if !ok {
			return err.Error()
		}
		t.Log(err)
		return string(refused.Reason)
	}
}

// sayTLS makes the handshake of a node, says b and no more, and returns all that comes back.
func sayTLS(t *testing.T, w *world, l *Link, b []byte) string {
	cfg := w.ca.mutual(t)
	cfg.ServerName = "127.0.0.1"
	cfg.NextProtos = []string{alpn(wireVersion, "orders")}
	c := tls.Client(rawDial(t, l), cfg)
	if err := c.Handshake(); err != nil {
		return err.Error()
	}
	c.Write(b)
	c.CloseWrite()
	return answer(c)
}

// dialTLS dials with a TLS client that is not a link.
func dialTLS(adjust func(t *testing.T, w *world, c *tls.Config)) func(*testing.T, *world, *Link) string {
	return func(t *testing.T, w *world, l *Link) string {
		cfg := w.ca.mutual(t)
		cfg.ServerName = "127.0.0.1"
		cfg.NextProtos = []string{alpn(wireVersion, "orders")}
		adjust(t, w, cfg)
		c := tls.Client(rawDial(t, l), cfg)
		if err := c.Handshake(); err != nil {
			return "failed"
		}
		if b := answer(c); b != "" {
			return fmt.Sprintf("%x", b)
		}
		return "failed"
	}
}

func TestStrangersAreTurnedAwayWithAReason(t *testing.T) {
	type stranger struct {
		name string
		// meet returns what the stranger was told, compared with told unless that is "*".
		meet     func(*testing.T, *world, *Link) string
		reported string
		reason   Reason
	}
	same := func(*testing.T, *world, *Config) {}
	otherCluster := func(_ *testing.T, _ *world, c *Config) { c.Cluster = "invoices" }
	portScan := func(t *testing.T, _ *world, l *Link) string { rawDial(t, l).Close(); return "" }

	plain := []stranger{
		{"port scan", portScan, "", ReasonNoHello},
		{"HTTP", sayRaw("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "*", ReasonGarbage},
		{"noise", sayRaw(strings.Repeat("\xff\x00", 1000)), "*", ReasonGarbage},
		{"part of a hello", func(t *testing.T, _ *world, l *Link) string {
			c := rawDial(t, l)
			io.WriteString(c, "MSTR\x02\x00\x20\x01\x06ord")
			c.(*net.TCPConn).CloseWrite()
			return answer(c)
		}, "", ReasonAborted},
		{"a hello of nobody", sayRaw("MSTR\x02\x00\x00"), "", ReasonGarbage},
		{"a hello that is too long", sayRaw("MSTR\x02\xff\xff"), "", ReasonGarbage},
		{"the first version", sayRaw("MSTR\x01\x01x\x06orders"), "\x02", ReasonVersion},
		{"wrong version", sayRaw("MSTR\x09 and whatever version 9 has to say"), "\x02", ReasonVersion},
		{"wrong cluster", dialFrom("x", otherCluster), string(ReasonCluster), ReasonCluster},
		{"unknown protocol", dialFrom("y", same), string(ReasonProtocol), ReasonProtocol},
		{"TLS", dialFrom("x", func(t *testing.T, _ *world, c *Config) { c.TLS = newAuthority(t).mutual(t) }), string(ReasonTLS), ReasonTLS},
	}
	secure := []stranger{
		{"port scan", portScan, "", ReasonNoHello},
		{"HTTP", sayRaw("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "*", ReasonGarbage},
		{"part of a hello", func(t *testing.T, _ *world, l *Link) string {
			c := rawDial(t, l)
			io.WriteString(c, "\x16\x03\x01\x02\x00\x01")
			c.(*net.TCPConn).CloseWrite()
			answer(c)
			return ""
		}, "", ReasonAborted},
		{"no TLS", dialFrom("x", func(_ *testing.T, _ *world, c *Config) { c.TLS = nil }), string(ReasonPlain), ReasonPlain},
		{"garbage in TLS", func(t *testing.T, w *world, l *Link) string {
			return sayTLS(t, w, l, []byte("GET / HTTP/1.1\r\n"))
		}, "", ReasonGarbage},
		{"nothing in TLS", func(t *testing.T, w *world, l *Link) string { return sayTLS(t, w, l, nil) }, "", ReasonAborted},
		{"another cluster than in ALPN", func(t *testing.T, w *world, l *Link) string {
			h := ask("x")
			h.cluster = "invoices"
			return sayTLS(t, w, l, h.append(nil))
		}, "\x03", ReasonCluster},
		{"wrong cluster", dialFrom("x", otherCluster), string(ReasonClusterOrVersion), ReasonCluster},
		{"wrong version", dialTLS(func(_ *testing.T, _ *world, c *tls.Config) {
			c.NextProtos = []string{"muster/3/orders"}
		}), "failed", ReasonVersion},
		{"unknown protocol", dialFrom("y", same), string(ReasonProtocol), ReasonProtocol},
		{"no ALPN", dialTLS(func(_ *testing.T, _ *world, c *tls.Config) { c.NextProtos = nil }), "failed", ReasonGarbage},
		{"ALPN of others", dialTLS(func(_ *testing.T, _ *world, c *tls.Config) { c.NextProtos = []string{"h2"} }), "failed", ReasonGarbage},
		{"no certificate", dialTLS(func(_ *testing.T, _ *world, c *tls.Config) { c.Certificates = nil }), "failed", ReasonNoCertificate},
		{"certificate of another authority", dialFrom("x", func(t *testing.T, _ *world, c *Config) {
			c.TLS.Certificates = newAuthority(t).mutual(t).Certificates
		}), string(ReasonDistrust), ReasonCertificate},
		{"expired certificate", dialFrom("x", func(t *testing.T, w *world, c *Config) {
			c.TLS.Certificates = []tls.Certificate{w.ca.issue(t, time.Now().Add(-time.Hour))}
		}), string(ReasonDistrust), ReasonCertificate},
		{"certificate of tomorrow", dialFrom("x", func(t *testing.T, w *world, c *Config) {
			c.TLS.Certificates = []tls.Certificate{w.ca.issueFor(t, func(c *certificate) {
				c.begin, c.end = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
			})}
		}), string(ReasonDistrust), ReasonCertificate},
		{"certificate that serves and may not dial", dialFrom("x", func(t *testing.T, w *world, c *Config) {
			c.TLS.Certificates = []tls.Certificate{w.ca.issueFor(t, func(c *certificate) {
				c.usages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			})}
		}), string(ReasonDistrust), ReasonCertificate},
		{"one that distrusts us", dialFrom("x", func(t *testing.T, _ *world, c *Config) {
			c.TLS.RootCAs = newAuthority(t).pool()
		}), string(ReasonCertificate), ReasonDistrust},
		{"TLS 1.2", dialTLS(func(_ *testing.T, _ *world, c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		}), "failed", ReasonTLSFailed},
	}
	worlds(t, func(t *testing.T, w *world) {
		strangers := plain
		if w.ca != nil {
			strangers = secure
		}
		var records recorder
		l := w.link(t, func(c *Config) {
			c.Logger = slog.New(slog.NewTextHandler(&records, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		echo(t, l, "x")
		want := make(map[Reason]uint64)
		files, routines := openFiles(), runtime.NumGoroutine()
		for _, s := range strangers {
			t.Run(s.name, func(t *testing.T) {
				for range 3 {
					if got := s.meet(t, w, l); s.reported != "*" && got != s.reported {
						t.Errorf("was told %q, want %q", got, s.reported)
					}
				}
				want[s.reason] += 3
				wait.For(t, fmt.Sprintf("rejected as %s", s.reason), func() bool { return l.Stats().Rejected[s.reason] == want[s.reason] })
			})
		}
		if got := l.Stats().Accepted; len(got) != 0 {
			t.Errorf("accepted %v", got)
		}
		if got := l.Stats().Rejected; !maps.Equal(got, want) {
			t.Errorf("rejected %v, want %v", got, want)
		}
		wait.For(t, "goroutines and files are as before", func() bool {
			return l.Stats().Handshakes == 0 && openFiles() <= files && runtime.NumGoroutine() <= routines
		})
		for reason := range want {
			if n := records.count("reason="+string(reason)) + records.count("subject="+string(reason)); n != 1 {
				t.Errorf("reason %s was logged %d times within a minute, want once", reason, n)
			}
		}

		c, err := w.link(t).Dial(wait.Context(t), "x", l.Addr().String())
		if err != nil {
			t.Fatalf("after the strangers a friend: %v", err)
		}
		roundTrip(t, c)
		c.Close()
	})
}

func TestDialSomethingElse(t *testing.T) {
	for _, c := range []struct {
		name, banner string
		plain, tls   Reason
	}{
		{"a mail server", "220 mail.example.org ESMTP\r\n", ReasonGarbage, ReasonTLS},
		{"one that hangs up", "", ReasonAborted, ReasonAborted},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				nc.SetDeadline(time.Now().Add(wait.Patience))
				nc.Read(make([]byte, 1024))
				io.WriteString(nc, c.banner)
				nc.Close()
			}
		})
		worlds(t, func(t *testing.T, w *world) {
			_, err := w.link(t).Dial(wait.Context(t), "x", ln.Addr().String())
			want := c.plain
			if w.ca != nil {
				want = c.tls
			}
			wantRefused(t, err, want)
		})
		ln.Close()
		wg.Wait()
	}
	l := (&world{}).link(t)
	gone := (&world{}).link(t)
	gone.Close()
	if _, err := l.Dial(wait.Context(t), "x", gone.Addr().String()); err == nil || !strings.Contains(err.Error(), gone.Addr().String()) {
		t.Errorf("nobody there: %v", err)
	}
	if s := l.Stats(); s.DialFailures != 1 {
		t.Errorf("%d failures counted, want 1", s.DialFailures)
	}
}

func TestTLSDialOfAPlainLink(t *testing.T) {
	plain := (&world{}).link(t)
	echo(t, plain, "x")
	_, err := (&world{newAuthority(t)}).link(t).Dial(wait.Context(t), "x", plain.Addr().String())
	wantRefused(t, err, ReasonTLS)
}

// What nodes that start do to each other is no record above debugging. Who will not have
// us is a warning, with the hint: one for each address and reason.
func TestRefusedDialsAreReported(t *testing.T) {
	var records recorder
	logger := slog.New(slog.NewTextHandler(&records, nil))
	plain := &world{}
	secure := &world{newAuthority(t)}
	other, secured := plain.link(t, func(c *Config) { c.Cluster = "invoices" }), secure.link(t)
	ours := plain.link(t, func(c *Config) { c.Logger = logger })
	for range 3 {
		for _, to := range []*Link{other, secured, ours} {
			if c, err := ours.Dial(wait.Context(t), "x", to.Addr().String()); err == nil {
				c.Close()
				t.Fatal("nobody serves this")
			}
		}
	}
	for _, want := range []string{
		`level=WARN msg="dial refused" alarm=dial_refused subject=` + other.Addr().String() + ` reason=wrong_cluster error="it belongs to another cluster"`,
		`level=WARN msg="dial refused" alarm=dial_refused subject=` + secured.Addr().String() + ` reason=tls_missing error="it demands TLS" hint="configure tls on this node too"`,
	} {
		if n := records.count(want); n != 1 {
			t.Errorf("%d records of %s, want one", n, want)
		}
	}
	wait.For(t, "it has turned itself away", func() bool { return ours.Stats().Rejected[ReasonProtocol] == 3 })
	if n := records.count("rejected"); n != 0 {
		t.Errorf("what it does not serve yet was told %d times", n)
	}
}

// What is refused no longer, or no longer dialled, is said to be over.
func TestRefusedDialsEnd(t *testing.T) {
	var records recorder
	w := &world{newAuthority(t)}
	far := w.link(t, func(c *Config) { c.Cluster = "invoices" })
	addr := far.Addr().String()
	ours := w.link(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&records, nil))
	})
	if _, err := ours.Dial(wait.Context(t), "x", addr); err == nil {
		t.Fatal("another cluster's node was dialled")
	}
	far.Close()
	friend := w.link(t, func(c *Config) { c.Bind = addr })
	echo(t, friend, "x")
	c, err := ours.Dial(wait.Context(t), "x", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, want := range []string{"level=WARN msg=\"dial refused\" alarm=dial_refused subject=" + addr, "level=INFO msg=\"dial no longer refused\" alarm=dial_refused subject=" + addr} {
		if n := records.count(want); n != 1 {
			t.Errorf("%d records of %s, want one", n, want)
		}
	}
}

// The end that dials learns which hosts a certificate is for, and which one was wanted.
func TestCertificateForAnotherHost(t *testing.T) {
	w := &world{newAuthority(t)}
	far := w.link(t, func(c *Config) {
		c.TLS.Certificates = []tls.Certificate{w.ca.issueFor(t, func(c *certificate) { c.hosts = []net.IP{net.IPv4(10, 0, 0, 5), net.IPv4(10, 0, 0, 6)} })}
	})
	nameless := w.link(t, func(c *Config) {
		c.TLS.Certificates = []tls.Certificate{w.ca.issueFor(t, func(c *certificate) { c.hosts = nil })}
	})
	const hint = "; have it issued for that as well, or set tls.server_name on all nodes to a name that all certificates carry"
	for _, c := range []struct {
		to         *Link
		serverName string
		want       string
	}{
		{far, "", "its certificate is for 10.0.0.5, 10.0.0.6, and not for 127.0.0.1, the host that was dialled" + hint},
		{far, "orders.muster", "its certificate is for 10.0.0.5, 10.0.0.6, and not for orders.muster, tls.server_name" + hint},
		{nameless, "", "its certificate is for no host, and not for 127.0.0.1, the host that was dialled" + hint},
	} {
		_, err := w.link(t, func(l *Config) { l.TLS.ServerName = c.serverName }).Dial(wait.Context(t), "x", c.to.Addr().String())
		wantRefused(t, err, ReasonCertificate)
		var refused *RefusedError
		if !errors.As(err, &refused) {
			continue
		}
		if problem, how := refused.Meaning(); problem+"; "+how != c.want {
			t.Errorf("%v\nwant %s", err, c.want)
		}
	}
}

func TestSlowLorisIsEnded(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		l := w.link(t, func(c *Config) { c.HandshakeTimeout = 100 * time.Millisecond })
		echo(t, l, "x")
		files, routines := openFiles(), runtime.NumGoroutine()
		var conns []net.Conn
		for range 20 {
			c := rawDial(t, l)
			io.WriteString(c, "MS"[:1])
			conns = append(conns, c)
		}
		for _, c := range conns {
			answer(c)
			c.Close()
		}
		wait.For(t, "all are counted and gone", func() bool {
			return l.Stats().Rejected[ReasonTimeout] == 20 && l.Stats().Handshakes == 0 &&
				openFiles() <= files && runtime.NumGoroutine() <= routines
		})
	})
}

func TestUnfinishedHandshakesAreBounded(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		l := w.link(t, func(c *Config) { c.MaxHandshakes = 8 }) // 4 from one address
		echo(t, l, "x")
		var held []net.Conn
		for range 4 {
			held = append(held, rawDial(t, l))
		}
		wait.For(t, "four are waiting", func() bool { return l.Stats().Handshakes == 4 })
		answer(rawDial(t, l)) // the fifth is closed at once: the others are young
		if s := l.Stats(); s.Handshakes != 4 || s.Rejected[ReasonBusy] != 1 {
			t.Errorf("%d unfinished, %d refused; want 4 and 1", s.Handshakes, s.Rejected[ReasonBusy])
		}
		// Once they have had their second, a friend takes the place of the oldest.
		l.mu.Lock()
		for _, h := range l.pending {
			h.since = h.since.Add(-handshakeGrace)
		}
		l.mu.Unlock()
		c, err := w.link(t).Dial(wait.Context(t), "x", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c)
		c.Close()
		answer(held[0])
		if s := l.Stats(); s.Handshakes != 3 || s.Rejected[ReasonBusy] != 2 {
			t.Errorf("%d unfinished, %d refused; want 3 and 2", s.Handshakes, s.Rejected[ReasonBusy])
		}
		for _, c := range held {
			c.Close()
		}
	})
}

func TestCloseDuringHandshakes(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		l := w.link(t)
		c := rawDial(t, l)
		wait.For(t, "the handshake has begun", func() bool { return l.Stats().Handshakes == 1 })
		l.Close()
		answer(c)
		if s := l.Stats(); len(s.Rejected) != 0 {
			t.Errorf("rejected %v; to be interrupted by Close is no offence", s.Rejected)
		}
	})
}

// flakyListener fails for a while, as when there are no file descriptors left.
type flakyListener struct {
	net.Listener
	mu       sync.Mutex
	failures int
}

func (f *flakyListener) Accept() (net.Conn, error) {
	f.mu.Lock()
	fail := f.failures > 0
	f.failures--
	f.mu.Unlock()
	if fail {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

func TestAcceptErrorsPass(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var records recorder
	cfg := Config{Cluster: "orders", NodeID: "a", InstanceID: "a", Logger: slog.New(slog.NewTextHandler(&records, nil))}
	l := serve(cfg.withDefaults(), &flakyListener{Listener: ln, failures: 5})
	defer l.Close()
	echo(t, l, "x")
	c, err := l.Dial(wait.Context(t), "x", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c)
	c.Close()
	if n := l.Stats().AcceptErrors; n != 5 {
		t.Errorf("%d accept errors counted, want 5", n)
	}
	for _, want := range []string{`level=ERROR msg="connections not accepted" alarm=accept_fails`, `level=INFO msg="connections accepted again" alarm=accept_fails`} {
		if n := records.count(want); n != 1 {
			t.Errorf("%s: logged %d times, want once", want, n)
		}
	}
}

func TestGossipStrangers(t *testing.T) {
	w := &world{}
	s := w.station(t, func(c *Config) { c.IdleTimeout = 100 * time.Millisecond })
	s.drain()
	meet := func(h hello) net.Conn {
		c := rawDial(t, s.Link)
		c.Write(h.append(nil))
		if status, _, err := readAnswer(c); err != nil || status != statusAccepted {
			t.Fatalf("answer %d, %v", status, err)
		}
		return c
	}
	gossip := ask(protocolPackets)
	gossip.peer.Addr = mustAddrPort("10.0.0.5:7946")
	c := meet(ask(protocolPackets)) // a sender that nobody could answer
	answer(c)
	c.Close()
	wait.For(t, "counted as a bad frame", func() bool { return s.Stats().Rejected[ReasonFrame] == 1 })
	c = meet(gossip)
	c.Write([]byte("\x00\x01\x00\x01")) // a packet that is too long
	answer(c)
	c.Close()
	wait.For(t, "counted as a bad frame", func() bool { return s.Stats().Rejected[ReasonFrame] == 2 })
	c = meet(gossip)
	answer(c) // silent for too long
	c.Close()
	wait.For(t, "nothing is left", func() bool { return s.Stats().GossipInbound == 0 && s.Stats().Inbound == 0 })
}

// recorder collects log records.
type recorder struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(b)
}

func (r *recorder) count(s string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range strings.Lines(r.buf.String()) {
		if slices.Contains(strings.Fields(line), s) || strings.Contains(s, " ") && strings.Contains(line, s) {
			n++
		}
	}
	return n
}
