package testserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// KeyForm is how a private key is written.
type KeyForm string

// The forms of a private key.
const (
	PKCS1 KeyForm = "RSA PRIVATE KEY" // RSA keys only; what older tools write
	PKCS8 KeyForm = "PRIVATE KEY"     // any key; what newer tools write
	SEC1  KeyForm = "EC PRIVATE KEY"  // elliptic curves only
)

// CA is a certificate authority for one test.
type CA struct {
	// CAFile holds the authority's certificate, in PEM.
	CAFile string

	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes an authority. Its files go when the test ends.
func NewCA(t testing.TB) *CA {
	t.Helper()
	dir := t.TempDir()
	key := newKey(PKCS8)
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "test authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	ca := &CA{CAFile: filepath.Join(dir, "ca.pem"), dir: dir, cert: must(x509.ParseCertificate(der)), key: key}
	write(ca.CAFile, "CERTIFICATE", der)
	return ca
}

// Issue writes a certificate for both ends of a connection, valid for 127.0.0.1,
// ::1, localhost and name, and its key in the given form. It returns their paths.
func (ca *CA) Issue(t testing.TB, name string, form KeyForm) (certFile, keyFile string) {
	t.Helper()
	return ca.issue(t.TempDir(), name, form)
}

func (ca *CA) issue(dir, name string, form KeyForm) (certFile, keyFile string) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		panic(err)
	}
	key := newKey(form)
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		DNSNames:     []string{"localhost", name},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key))
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
	write(certFile, "CERTIFICATE", der)
	write(keyFile, string(form), marshalKey(key, form))
	return certFile, keyFile
}

// clientConfig is that of a client with a certificate of the authority.
func (ca *CA) clientConfig() *tls.Config {
	certFile, keyFile := ca.issue(filepath.Join(ca.dir, "client"), "test-client", SEC1)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		RootCAs:      pool,
		Certificates: []tls.Certificate{must(tls.LoadX509KeyPair(certFile, keyFile))},
	}
}

func newKey(form KeyForm) crypto.Signer {
	if form == PKCS1 {
		return must(rsa.GenerateKey(rand.Reader, 2048))
	}
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func marshalKey(key crypto.Signer, form KeyForm) []byte {
	switch form {
	case PKCS1:
		return x509.MarshalPKCS1PrivateKey(key.(*rsa.PrivateKey))
	case SEC1:
		return must(x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey)))
	case PKCS8:
		return must(x509.MarshalPKCS8PrivateKey(key))
	default:
		panic(fmt.Sprintf("unknown key form %q", form))
	}
}

func serial() *big.Int {
	return must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100)))
}

func write(path, kind string, der []byte) {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		panic(err)
	}
}

// must is for what fails only where the machine does.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
