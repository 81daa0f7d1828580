package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestIssue(t *testing.T) {
	now := time.Now()
	_, caPair, err := NewAuthority("orders", now, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseAuthority(caPair.Cert, caPair.Key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := a.Issue("node-1", []string{"10.0.0.5", "fd00::5", "orders-1.internal"}, now, 100*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	both, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := both.Leaf
	if _, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || leaf.IsCA || leaf.Subject.CommonName != "node-1" {
		t.Errorf("certificate %+v", leaf)
	}
	if leaf.NotAfter.After(a.Expiry()) || !pair.Expiry.Equal(leaf.NotAfter) {
		t.Errorf("ends %v, says %v; the authority ends %v", leaf.NotAfter, pair.Expiry, a.Expiry())
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(caPair.Cert)
	for _, host := range []string{"10.0.0.5", "fd00::5", "orders-1.internal"} {
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
	}
	if leaf.VerifyHostname("10.0.0.6") == nil {
		t.Error("good for a host that was not asked for")
	}
	if _, err := ParseAuthority(pair.Cert, pair.Key); err == nil {
		t.Error("a node's certificate is taken for an authority's")
	}
}

// A file with the authority before beside the one whose key is given will do.
func TestParseAuthorityOfABundle(t *testing.T) {
	_, old, err := NewAuthority("old", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, fresh, err := NewAuthority("new", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseAuthority(append(old.Cert, fresh.Cert...), fresh.Key)
	if err != nil || a.cert.Subject.CommonName != "new" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := ParseAuthority(old.Cert, fresh.Key); err == nil {
		t.Error("a key of another certificate was accepted")
	}
	if _, err := ParseAuthority(nil, fresh.Key); err == nil {
		t.Error("nothing was accepted")
	}
}

func TestCheckHost(t *testing.T) {
	for _, good := range []string{"10.0.0.5", "::1", "a", "node-1.example.org", "*.example.org", "my_host"} {
		if err := CheckHost(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "10.0.0.5:7946", "10.0.0", "0.0.0.0", "::", "fe80::1%eth0", "a..b", "-a", "http://a", "a b", "*"} {
		if CheckHost(bad) == nil {
			t.Errorf("%q is taken for a host", bad)
		}
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")
	_, first, err := NewAuthority("a", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, second, err := NewAuthority("b", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	holds := func(want Pair) {
		t.Helper()
		c, _ := os.ReadFile(cert)
		k, _ := os.ReadFile(key)
		if string(c) != string(want.Cert) || string(k) != string(want.Key) {
			t.Error("the files hold something else")
		}
		for path, mode := range map[string]fs.FileMode{cert: 0o644, key: 0o600} {
			if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm()&^mode != 0 {
				t.Errorf("%s: %v, %v", path, info, err)
			}
		}
	}
	if err := first.Write(cert, key, false); err != nil {
		t.Fatal(err)
	}
	holds(first)
	if err := second.Write(cert, key, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("to write over it: %v", err)
	}
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	if err := second.Write(cert, key, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("to write over a key alone: %v", err)
	}
	if _, err := os.Stat(cert); err == nil {
		t.Error("half a pair was written")
	}
	if err := second.Write(cert, key, true); err != nil {
		t.Fatal(err)
	}
	holds(second)
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
