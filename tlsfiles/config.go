// Package tlsfiles reads the certificates, keys and authorities of TLS from files and follows
// them, so that they are replaced without a restart.
//
// A [Config] names the files, and is part of the configurations of nodes and providers.
// [Follow] reads them and looks at them again.
package tlsfiles

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/internal/smallfile"
)

// Config names the files of one end of a TLS connection, in PEM. The zero value
// means no TLS.
type Config struct {
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
func (c Config) Enabled() bool { return c != Config{} }

// Client reads the files and returns [Contents.Client] of them.
func (c Config) Client() (*tls.Config, error) { return c.Read().Client() }

// Mutual reads the files and returns [Contents.Mutual] of them.
func (c Config) Mutual() (*tls.Config, error) { return c.Read().Mutual() }

// Server reads the files and returns [Contents.Server] of them.
func (c Config) Server() (*tls.Config, error) { return c.Read().Server() }

// Contents are what the files of a Config held when they were read, each once.
type Contents struct {
	files         Config
	ca, cert, key content
}

// content is what one file held, or why it could not be read.
type content struct {
	data []byte
	err  error
}

// Read reads the files that are named. A file that cannot be read is an error of the
// configurations that are made of it.
func (c Config) Read() Contents {
	return Contents{files: c, ca: read(c.CAFile), cert: read(c.CertFile), key: read(c.KeyFile)}
}

func read(path string) content {
	if path == "" {
		return content{}
	}
	data, err := smallfile.Read(path)
	return content{data, err}
}

// digest returns a digest of what the files held, or of why they could not be read.
func (c Contents) digest() [sha256.Size]byte {
	h := sha256.New()
	for _, file := range []content{c.ca, c.cert, c.key} {
		fmt.Fprintf(h, "%d %v\n", len(file.data), file.err)
		h.Write(file.data)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Client returns the configuration of a client: TLS 1.2
// or later, the named authorities or else the system's, and the certificate, if
// any. Errors are joined *driver.ConfigError values whose keys start with "tls.".
func (c Contents) Client() (*tls.Config, error) {
	var errs []error
	client := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.files.ServerName}
	if c.files.CAFile != "" {
		pool, err := c.pool()
		errs = append(errs, err)
		client.RootCAs = pool
	}
	if c.files.CertFile != "" || c.files.KeyFile != "" {
		cert, err := c.certificate()
		errs = append(errs, err)
		client.Certificates = []tls.Certificate{cert}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return client, nil
}

// Mutual returns a configuration of all three files that serves and dials with TLS 1.3 and demands
// that both ends have a certificate of the authorities. Errors are as for Client.
func (c Contents) Mutual() (*tls.Config, error) {
	pool, poolErr := c.pool()
	cert, certErr := c.certificate()
	if err := errors.Join(poolErr, certErr); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   c.files.ServerName,
		RootCAs:      pool,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{cert},
	}, nil
}

// MutualFor is Mutual for a node whose certificate must name its node id, as those of all others
// must: as a DNS name or in a SPIFFE URI. If it does not, the error is a *driver.ConfigError of
// the key tls.verify_node_id.
func (c Contents) MutualFor(nodeID string) (*tls.Config, error) {
	mutual, err := c.Mutual()
	if err != nil {
		return nil, err
	}
	if leaf := mutual.Certificates[0].Leaf; !pki.NamesNode(leaf, nodeID) {
		return nil, &driver.ConfigError{Key: "tls.verify_node_id", Value: "true",
			Problem: fmt.Sprintf("%s names %s, and not node.id %s", c.files.CertFile, pki.Nodes(leaf), nodeID),
			Hint:    "have it name node.id, as muster tls cert does, or leave tls.verify_node_id out"}
	}
	return mutual, nil
}

// Server returns the configuration of a server: TLS 1.2 or
// later, the certificate, which it wants, and where CAFile names authorities, the
// verification of a client's certificate where the client shows one. That one is
// shown is for the server to demand, request by request. Errors are as for
// Client.
func (c Contents) Server() (*tls.Config, error) {
	cert, err := c.certificate()
	errs := []error{err}
	server := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if c.files.CAFile != "" {
		pool, err := c.pool()
		errs = append(errs, err)
		server.ClientCAs, server.ClientAuth = pool, tls.VerifyClientCertIfGiven
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return server, nil
}

func (c Contents) pool() (*x509.CertPool, error) {
	if c.files.CAFile == "" {
		return nil, &driver.ConfigError{Key: "tls.ca_file", Value: "", Problem: "missing", Hint: "name the PEM file of the authorities that sign the nodes' certificates"}
	}
	text := c.ca.data
	if err := c.ca.err; err != nil {
		return nil, &driver.ConfigError{Key: "tls.ca_file", Value: c.files.CAFile, Problem: cannotBeRead(err)}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, &driver.ConfigError{Key: "tls.ca_file", Value: c.files.CAFile, Problem: "holds no PEM certificate"}
	}
	if !whole(text) {
		return nil, &driver.ConfigError{Key: "tls.ca_file", Value: c.files.CAFile, Problem: cutShort}
	}
	return pool, nil
}

func (c Contents) certificate() (tls.Certificate, error) {
	if c.files.CertFile == "" || c.files.KeyFile == "" {
		return tls.Certificate{}, c.incomplete()
	}
	var errs []error
	if err := c.cert.err; err != nil {
		errs = append(errs, &driver.ConfigError{Key: "tls.cert_file", Value: c.files.CertFile, Problem: cannotBeRead(err)})
	}
	if err := c.key.err; err != nil {
		errs = append(errs, &driver.ConfigError{Key: "tls.key_file", Value: c.files.KeyFile, Problem: cannotBeRead(err)})
	}
	if err := errors.Join(errs...); err != nil {
		return tls.Certificate{}, err
	}
	if !whole(c.cert.data) {
		return tls.Certificate{}, &driver.ConfigError{Key: "tls.cert_file", Value: c.files.CertFile, Problem: cutShort}
	}
	cert, err := tls.X509KeyPair(c.cert.data, c.key.data)
	if err != nil {
		return tls.Certificate{}, &driver.ConfigError{Key: "tls.key_file", Value: c.files.KeyFile, Problem: fmt.Sprintf("does not go with %s: %v", c.files.CertFile, err)}
	}
	return cert, nil
}

// incomplete names what is missing of a certificate and its key.
func (c Contents) incomplete() error {
	var errs []error
	if c.files.CertFile == "" {
		errs = append(errs, &driver.ConfigError{Key: "tls.cert_file", Value: "", Problem: "missing", Hint: "name the PEM file of this end's own certificate, signed by an authority that the other end knows"})
	}
	if c.files.KeyFile == "" {
		errs = append(errs, &driver.ConfigError{Key: "tls.key_file", Value: "", Problem: "missing", Hint: "name the PEM file of the key that goes with the certificate in tls.cert_file"})
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

// cannotBeRead is the problem of a file, and what to do about it.
func cannotBeRead(err error) string {
	problem := "cannot be read: " + reason(err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return problem + "; write its path as this process sees it, which in a container is the one inside"
	case errors.Is(err, fs.ErrPermission):
		return problem + "; let the user that runs this process read it"
	}
	return problem
}

// reason strips the path that an *os.PathError repeats.
func reason(err error) string {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
