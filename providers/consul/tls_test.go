package consul

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/tlsfiles"
)

func TestTLS(t *testing.T) {
	ca, stranger := testserver.NewCA(t), testserver.NewCA(t)
	server := testserver.StartConsul(t, testserver.WithConsulTLS(ca))
	cert, key := ca.Issue(t, "client", testserver.PKCS8)
	open := func(t *testing.T, c TLS) *Driver {
		return open(t, Config{Address: server.Endpoint(), TLS: c})
	}
	list := func(t *testing.T, d *Driver) error {
		_, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
		return err
	}
	good := TLS{Config: tlsfiles.Config{CAFile: ca.CAFile, CertFile: cert, KeyFile: key}}
	if err := list(t, open(t, good)); err != nil {
		t.Fatal(err)
	}
	inline := good
	pem, err := os.ReadFile(ca.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	inline.CAFile, inline.CAPEM = "", string(pem)
	if err := list(t, open(t, inline)); err != nil {
		t.Errorf("with the authority inline: %v", err)
	}
	elsewhere := good
	elsewhere.ServerName = "elsewhere"
	if err := list(t, open(t, elsewhere)); !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("another name: %v, want ErrUnavailable that says so", err)
	}
	elsewhere.SkipVerifyHostname = true
	if err := list(t, open(t, elsewhere)); err != nil {
		t.Errorf("another name, which does not count: %v", err)
	}
	strange := TLS{Config: tlsfiles.Config{CAFile: stranger.CAFile, CertFile: cert, KeyFile: key}, SkipVerifyHostname: true}
	if err := list(t, open(t, strange)); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("an agent of a stranger: %v, want ErrUnavailable", err)
	}

	// Files that become right are seen without another driver.
	own := good
	own.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	write := func(from string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(own.CAFile, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(stranger.CAFile)
	d := open(t, own)
	if err := list(t, d); err == nil {
		t.Fatal("an agent of a stranger was believed")
	}
	write(ca.CAFile)
	wait.For(t, "the authority that was written is believed", func() bool { return list(t, d) == nil })
}

// A connection that comes to nothing is closed.
func TestHandshakeThatFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ends := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			ends <- err
			return
		}
		defer conn.Close()
		_, err = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
		if err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(wait.Patience))
			_, err = io.Copy(io.Discard, conn)
		}
		ends <- err
	}()
	d := open(t, Config{Address: "https://" + l.Addr().String()})
	if _, err := d.List(wait.Context(t), driver.Query{Service: "orders"}); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("what speaks no TLS: %v, want ErrUnavailable", err)
	}
	if err := <-ends; errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is left open")
	}
}
