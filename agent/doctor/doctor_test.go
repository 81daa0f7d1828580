package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/tlsfiles"
)

// issue writes a certificate that ends after so long, signed by itself or by issuer.
func issue(t *testing.T, after time.Duration, issuer *issued, uses ...x509.ExtKeyUsage) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-100 * 24 * time.Hour), NotAfter: time.Now().Add(after),
		IsCA: issuer == nil, BasicConstraintsValid: true, ExtKeyUsage: uses, DNSNames: []string{"node.example.org"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 5)},
	}
	i := &issued{key: key, path: filepath.Join(t.TempDir(), "cert.pem")}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if i.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(i.path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	path string
}

const day24 = 24 * time.Hour

func TestDates(t *testing.T) {
	ca := issue(t, 300*day24, nil)
	old := issue(t, -day24, nil)
	for _, test := range []struct {
		name string
		tls  tlsfiles.Config
		now  time.Time
		want Status
		in   string
	}{
		{"well", tlsfiles.Config{CAFile: ca.path, CertFile: issue(t, 200*day24, ca).path}, time.Now(), OK, `"CN=node" until`},
		{"expired", tlsfiles.Config{CAFile: ca.path, CertFile: issue(t, -day24, ca).path}, time.Now(), Fail, "has expired on"},
		{"ends soon", tlsfiles.Config{CAFile: ca.path, CertFile: issue(t, 29*day24, ca).path}, time.Now(), Warn, "ends within 30 days"},
		{"an authority that has expired", tlsfiles.Config{CAFile: old.path}, time.Now(), Fail, "has expired on"},
		{"not valid yet", tlsfiles.Config{CAFile: ca.path}, time.Now().Add(-200 * day24), Fail, "is not valid before"},
		{"no certificate in it", tlsfiles.Config{CAFile: os.DevNull}, time.Now(), Fail, "holds no certificate"},
		{"missing", tlsfiles.Config{CAFile: "/no/such/file"}, time.Now(), Fail, "no such file"},
	} {
		f := dates("x", test.tls, test.now)
		if f.Status != test.want || !strings.Contains(f.Detail, test.in) || (f.Hint == "") != (f.Status == OK) {
			t.Errorf("%s: %+v, want %s and %s", test.name, f, test.want, test.in)
		}
	}
}

func TestNodeCertificate(t *testing.T) {
	ca, other := issue(t, 300*day24, nil), issue(t, 300*day24, nil)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, test := range []struct {
		name, found, serverName string
		cert                    *issued
		want                    Status
		in                      string
	}{
		{"by address", "10.0.0.5:7946", "", issue(t, day24, ca, both...), OK, "is for node.example.org, 10.0.0.5"},
		{"by name", "10.0.0.6:7946", "node.example.org", issue(t, day24, ca, both...), OK, "others look for node.example.org"},
		{"another address", "10.0.0.6:7946", "", issue(t, day24, ca, both...), Fail, "and not for 10.0.0.6, which others dial"},
		{"for servers alone", "10.0.0.5:7946", "", issue(t, day24, ca, x509.ExtKeyUsageServerAuth), Fail, "incompatible key usage"},
		{"of another authority", "10.0.0.5:7946", "", issue(t, day24, other, both...), Fail, "unknown authority"},
		{"expired, which is told elsewhere", "10.0.0.5:7946", "", issue(t, -day24, ca, both...), OK, "is for"},
		{"no address", "", "", issue(t, day24, ca, both...), Warn, "not checked"},
	} {
		r := &run{Options: Options{Config: &config.Config{TLS: config.NodeTLS{Config: tlsfiles.Config{CAFile: ca.path, CertFile: test.cert.path, ServerName: test.serverName}}}}, found: test.found}
		if f := r.nodeCertificate("x"); f.Status != test.want || !strings.Contains(f.Detail, test.in) {
			t.Errorf("%s: %+v, want %s and %s", test.name, f, test.want, test.in)
		}
	}
}

func TestClockOfAServer(t *testing.T) {
	for _, test := range []struct {
		ahead time.Duration // of the server
		want  time.Duration
	}{{0, 0}, {time.Hour, -time.Hour}, {-time.Hour, time.Hour}} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(test.ahead).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusForbidden) // it tells the time all the same
		}))
		off, err := Clock{URL: server.URL}.off(t.Context())
		server.Close()
		if err != nil || (off-test.want).Abs() > 2*time.Second || test.ahead == 0 && off != 0 {
			t.Errorf("a server %v ahead: %v, %v", test.ahead, off, err)
		}
	}
}

func TestWallClock(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat))
	}))
	defer server.Close()
	r := &run{Options: Options{
		Config:    &config.Config{Provider: map[string]any{"etcd": nil}},
		Providers: map[string]Provider{"etcd": {Clocks: []Clock{{URL: "http://127.0.0.1:1"}, {Name: "it", URL: server.URL}}}},
	}}
	if f := r.wall(t.Context()); f.Status != Warn || !strings.Contains(f.Detail, "off against it; nothing is decided by it") {
		t.Errorf("%+v", f)
	}
	r.Providers["etcd"] = Provider{Clocks: []Clock{{URL: "http://127.0.0.1:1"}}}
	if f := r.wall(t.Context()); f.Status != Warn || !strings.Contains(f.Detail, "not checked") {
		t.Errorf("%+v", f)
	}
}

// A check that does not end is left behind, and those beside it are reported.
func TestACheckHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		r := &run{Options: Options{Timeout: 10 * time.Second}}
		began := time.Now()
		found := r.together(t.Context(), []check{
			{"a", func(context.Context) []Finding { <-gone; return nil }},
			{"b", func(context.Context) []Finding { return []Finding{ok("b", "well")} }},
		})
		close(gone)
		want := []Finding{{"a", Fail, "it hangs", "see what it waits for: a disk, a name server, a socket"}, {Check: "b", Status: OK, Detail: "well"}}
		if diff := cmp.Diff(want, found); diff != "" || time.Since(began) != 12*time.Second {
			t.Errorf("after %v: %s", time.Since(began), diff)
		}
	})
}

func TestConfigurationThatIsWrong(t *testing.T) {
	err := fmt.Errorf("wrapped: %w", errors.Join(&config.Error{Key: "a", Value: "1", Problem: "wrong", Hint: "write 2"}, errors.Join(errors.New("b is missing"))))
	want := []Finding{
		{"configuration", Fail, `a: "1": wrong`, "write 2"},
		{"configuration", Fail, "b is missing", "see docs/configuration.md"},
		{"remaining", Warn, "not checked: the configuration is wrong", "correct the configuration"},
	}
	if diff := cmp.Diff(want, Configuration(err)); diff != "" {
		t.Error(diff)
	}
}

func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if at, err := existing(filepath.Join(dir, "a", "b")); at != dir || err != nil {
		t.Errorf("%s, %v", at, err)
	}
	if _, err := existing(filepath.Join(file, "b")); err == nil {
		t.Error("a file is taken for a directory")
	}
	if err := tryWrite(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := tryWrite(filepath.Join(dir, "missing")); err == nil {
		t.Error("wrote into a directory that is not there")
	}
}
