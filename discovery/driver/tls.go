package driver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// TLS names the files of one end of a TLS connection, in PEM. The zero value
// means no TLS.
type TLS struct {
	// CAFile holds the authorities that may have signed the other end.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile hold this end's chain and its key, in PKCS#1, PKCS#8
	// or SEC 1 form. Both or none.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// ServerName is the name expected in the other end's certificate. Empty means
	// the host that was dialled.
	ServerName string `yaml:"server_name"`
}

// Enabled reports whether any field is set.
func (t TLS) Enabled() bool { return t != TLS{} }

// ClientConfig reads the files and returns the configuration of a client: TLS 1.2
// or later, the named authorities or else the system's, and the certificate, if
// any. Errors are joined *ConfigError values whose keys start with "tls.".
func (t TLS) ClientConfig() (*tls.Config, error) {
	var errs []error
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pool, err := t.pool()
		errs = append(errs, err)
		c.RootCAs = pool
	}
	if t.CertFile != "" || t.KeyFile != "" {
		cert, err := t.certificate()
		errs = append(errs, err)
		c.Certificates = []tls.Certificate{cert}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// MutualConfig reads the files, all three of which it wants, and returns a
// configuration that serves and dials with TLS 1.3 and demands that both ends
// have a certificate of the authorities. Errors are as for ClientConfig.
func (t TLS) MutualConfig() (*tls.Config, error) {
	pool, poolErr := t.pool()
	cert, certErr := t.certificate()
	if err := errors.Join(poolErr, certErr); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   t.ServerName,
		RootCAs:      pool,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{cert},
	}, nil
}

// ServerConfig reads the files and returns the configuration of a server: TLS 1.2 or
// later, the certificate, which it wants, and where CAFile names authorities, the
// verification of a client's certificate where the client shows one. That one is
// shown is for the server to demand, request by request. Errors are as for
// ClientConfig.
func (t TLS) ServerConfig() (*tls.Config, error) {
	cert, err := t.certificate()
	errs := []error{err}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if t.CAFile != "" {
		pool, err := t.pool()
		errs = append(errs, err)
		c.ClientCAs, c.ClientAuth = pool, tls.VerifyClientCertIfGiven
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

func (t TLS) pool() (*x509.CertPool, error) {
	if t.CAFile == "" {
		return nil, &ConfigError{"tls.ca_file", "", "missing; name the PEM file of the authorities that sign the nodes' certificates"}
	}
	text, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, &ConfigError{"tls.ca_file", t.CAFile, "cannot be read: " + reason(err)}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, &ConfigError{"tls.ca_file", t.CAFile, "holds no PEM certificate"}
	}
	if !whole(text) {
		return nil, &ConfigError{"tls.ca_file", t.CAFile, cutShort}
	}
	return pool, nil
}

func (t TLS) certificate() (tls.Certificate, error) {
	if t.CertFile == "" || t.KeyFile == "" {
		return tls.Certificate{}, t.incomplete()
	}
	certPEM, certErr := os.ReadFile(t.CertFile)
	keyPEM, keyErr := os.ReadFile(t.KeyFile)
	var errs []error
	if certErr != nil {
		errs = append(errs, &ConfigError{"tls.cert_file", t.CertFile, "cannot be read: " + reason(certErr)})
	}
	if keyErr != nil {
		errs = append(errs, &ConfigError{"tls.key_file", t.KeyFile, "cannot be read: " + reason(keyErr)})
	}
	if err := errors.Join(errs...); err != nil {
		return tls.Certificate{}, err
	}
	if !whole(certPEM) {
		return tls.Certificate{}, &ConfigError{"tls.cert_file", t.CertFile, cutShort}
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, &ConfigError{"tls.key_file", t.KeyFile, fmt.Sprintf("does not go with %s: %v", t.CertFile, err)}
	}
	return cert, nil
}

// incomplete names what is missing of a certificate and its key.
func (t TLS) incomplete() error {
	var errs []error
	if t.CertFile == "" {
		errs = append(errs, &ConfigError{"tls.cert_file", "", "missing; name the PEM file of this end's own certificate, signed by an authority that the other end knows"})
	}
	if t.KeyFile == "" {
		errs = append(errs, &ConfigError{"tls.key_file", "", "missing; name the PEM file of the key that goes with the certificate in tls.cert_file"})
	}
	return errors.Join(errs...)
}

const cutShort = "holds a certificate that is cut short or damaged; write the file whole"

// whole reports whether every certificate that begins in text is there to its end.
// The parsers pass over those that are not, so that half a file would be taken for
// one with fewer authorities.
func whole(text []byte) bool {
	const begin = "-----BEGIN CERTIFICATE-----"
	begun, found := bytes.Count(text, []byte(begin)), 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			found++
		}
	}
	return begun == found
}
