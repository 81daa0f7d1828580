package driver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// ConfigError is one thing that is wrong with a configuration. Package
// node/config adds where the key stands.
type ConfigError struct {
	// Key is the path of the key below the provider's section: "tls.ca_file".
	Key string
	// Value is what was given, as the user would recognise it; a secret is
	// redacted.
	Value string
	// Problem says what is wrong and how it is mended, in one line.
	Problem string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s: %q: %s", e.Key, e.Value, e.Problem)
}

// Is makes every ConfigError an ErrInvalid.
func (e *ConfigError) Is(target error) bool { return target == ErrInvalid }

// Secret is a string that never prints itself. Convert it to string to use it.
type Secret string

const redacted = "[redacted]"

// String returns a fixed text in place of the secret, or nothing for none.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue redacts the secret in log records.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText redacts the secret in JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Or returns the secret, or where it is empty the content of file without the
// white space around it. Both empty is no error. The file is read at each call,
// so that a rotated secret is picked up.
func (s Secret) Or(file string) (Secret, error) {
	if s != "" || file == "" {
		return s, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return Secret(strings.TrimSpace(string(b))), nil
}

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

func (t TLS) pool() (*x509.CertPool, error) {
	if t.CAFile == "" {
		return nil, &ConfigError{"tls.ca_file", "", "missing; name the PEM file of the authorities that sign the nodes' certificates"}
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, &ConfigError{"tls.ca_file", t.CAFile, "cannot be read: " + reason(err)}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, &ConfigError{"tls.ca_file", t.CAFile, "holds no PEM certificate"}
	}
	return pool, nil
}

func (t TLS) certificate() (tls.Certificate, error) {
	if t.CertFile == "" {
		return tls.Certificate{}, &ConfigError{"tls.cert_file", "", "missing; it goes with tls.key_file"}
	}
	if t.KeyFile == "" {
		return tls.Certificate{}, &ConfigError{"tls.key_file", "", "missing; it goes with tls.cert_file"}
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
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, &ConfigError{"tls.key_file", t.KeyFile, fmt.Sprintf("does not go with %s: %v", t.CertFile, err)}
	}
	return cert, nil
}

// reason strips the path that an *os.PathError repeats.
func reason(err error) string {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
