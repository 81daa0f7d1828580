package consul

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testserver"
)

func TestTLS(t *testing.T) {
	ca, stranger := testserver.NewCA(t), testserver.NewCA(t)
	server := testserver.StartConsul(t, testserver.WithConsulTLS(ca))
	cert, key := ca.Issue(t, "client", testserver.PKCS8)
	open := func(t *testing.T, c TLS) *Driver {
		return open(t, Config{Address: server.Endpoint(), TLS: c})
	}
	list := func(t *testing.T, d *Driver) error {
		_, err := d.List(within(t), driver.Query{Service: "orders"})
		return err
	}
	good := TLS{TLS: driver.TLS{CAFile: ca.CAFile, CertFile: cert, KeyFile: key}}
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
	strange := TLS{TLS: driver.TLS{CAFile: stranger.CAFile, CertFile: cert, KeyFile: key}, SkipVerifyHostname: true}
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
	eventually(t, "the authority that was written is believed", func() bool { return list(t, d) == nil })
}
