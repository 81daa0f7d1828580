package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/musterhq/muster/internal/testing/wait"
)

func TestMain(m *testing.M) {
	// memberlist's Shutdown does not wait for a probe that is under way.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// authority signs certificates for 127.0.0.1 and ::1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprintf("authority %d", time.Now().UnixNano())},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) issue(t testing.TB, notAfter time.Time) tls.Certificate {
	t.Helper()
	return a.issueFor(t, func(c *certificate) { c.begin, c.end = time.Now().Add(-2*time.Hour), notAfter })
}

// certificate is what may be wrong with one.
type certificate struct {
	begin, end time.Time
	usages     []x509.ExtKeyUsage
	hosts      []net.IP
	names      []string
}

// issueFor issues a good certificate, adjusted.
func (a *authority) issueFor(t testing.TB, adjust func(*certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate{
		begin: time.Now().Add(-time.Hour), end: time.Now().Add(time.Hour),
		usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		hosts:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	adjust(&c)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "node"},
		NotBefore: c.begin, NotAfter: c.end,
		IPAddresses: c.hosts,
		DNSNames:    c.names,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: c.usages,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// mutual is what tlsfiles.Config.Mutual makes of files.
func (a *authority) mutual(t testing.TB) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    a.pool(), ClientCAs: a.pool(),
		ClientAuth:   tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{a.issue(t, time.Now().Add(time.Hour))},
	}
}

// world runs a test without TLS and with it.
type world struct{ ca *authority }

func worlds(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run("plain", func(t *testing.T) { f(t, &world{}) })
	t.Run("tls", func(t *testing.T) { f(t, &world{newAuthority(t)}) })
}

// links counts those that were opened, so that each has an id of its own.
var links atomic.Int64

// ask is a hello of a stranger who dials for protocol in cluster "orders".
func ask(protocol string) hello {
	return hello{version: wireVersion, cluster: "orders", peer: Peer{NodeID: "stranger", InstanceID: "strange", Protocol: protocol}}
}

// link opens one on a free port of 127.0.0.1, in cluster "orders".
func (w *world) link(t testing.TB, adjust ...func(*Config)) *Link {
	t.Helper()
	id := fmt.Sprintf("instance%d", links.Add(1))
	cfg := Config{
		Bind: "127.0.0.1:0", Cluster: "orders", NodeID: "node of " + id, InstanceID: id,
		DialTimeout: wait.Patience, HandshakeTimeout: wait.Patience,
	}
	if w.ca != nil {
		cfg.TLS = w.ca.mutual(t)
	}
	for _, f := range adjust {
		f(&cfg)
	}
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// station is a link with a transport on it.
type station struct {
	*Link
	tr *Transport
}

func (w *world) station(t testing.TB, adjust ...func(*Config)) *station {
	t.Helper()
	l := w.link(t, adjust...)
	tr, err := l.Transport(l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return &station{l, tr}
}

func (s *station) name() string { return s.Addr().String() }

func (s *station) send(t testing.TB, to, text string) {
	t.Helper()
	if _, err := s.tr.WriteTo([]byte(text), to); err != nil {
		t.Fatalf("WriteTo(%s): %v", to, err)
	}
}

// receive waits for the next packet.
func (s *station) receive(t testing.TB) *memberlist.Packet {
	t.Helper()
	select {
	case p := <-s.tr.PacketCh():
		return p
	case <-time.After(wait.Patience):
		t.Fatalf("no packet came to %s: %+v", s.name(), s.Stats())
		return nil
	}
}

// sendUntilReceived repeats what may get lost, as gossip does.
func (s *station) sendUntilReceived(t testing.TB, to *station, text string) {
	t.Helper()
	for end := time.Now().Add(wait.Patience); ; {
		s.send(t, to.name(), text)
		select {
		case p := <-to.tr.PacketCh():
			if string(p.Buf) == text {
				return
			}
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("%q never came from %s to %s: %+v", text, s.name(), to.name(), s.Stats())
		}
	}
}

// drain throws away what comes, until the test ends.
func (s *station) drain() {
	go func() {
		for {
			select {
			case <-s.tr.PacketCh():
			case <-s.tr.ctx.Done():
				return
			}
		}
	}()
}

// echo serves a protocol that sends back what comes.
func echo(t testing.TB, l *Link, protocol string) {
	t.Helper()
	ln, err := l.Listen(protocol)
	if err != nil {
		t.Fatal(err)
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 1024)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-finished })
}

func roundTrip(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(wait.Patience))
	if _, err := fmt.Fprint(c, "hello"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	for n := 0; n < len(buf); {
		k, err := c.Read(buf[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	if string(buf) != "hello" {
		t.Fatalf("echo returned %q", buf)
	}
}

// openFiles counts the descriptors of the process, or returns 0 if it cannot.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

func hasIPv6() bool {
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return false
	}
	ln.Close()
	return true
}

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
