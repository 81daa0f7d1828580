package doctor

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/tlsfiles"
)

// soon is how long before its end a certificate is warned of.
const soon = 30 * 24 * time.Hour

// certificates reads all that is configured: those of the node, of the providers, and
// of the engine.
func (r *run) certificates(context.Context) []Finding {
	var found []Finding
	if r.Config.TLS.Enabled() {
		found = append(found, dates("certificates.tls", r.Config.TLS.Config, time.Now()), r.nodeCertificate("certificates.tls.names"))
	}
	if found = append(found, r.otherCertificates()...); len(found) == 0 {
		return []Finding{ok("certificates", "none is configured: nodes speak in the clear with each other")}
	}
	return found
}

// clientCertificates reads those of a registrar, which knows no nodes.
func (r *run) clientCertificates(context.Context) []Finding {
	if found := r.otherCertificates(); len(found) > 0 {
		return found
	}
	return []Finding{ok("certificates", "none is configured")}
}

// otherCertificates reads all but those of the node.
func (r *run) otherCertificates() []Finding {
	var found []Finding
	if r.Config.HTTP.TLS.Enabled() {
		found = append(found, dates("certificates.http", r.Config.HTTP.TLS.Files(), time.Now()))
	}
	for _, name := range r.Config.Providers() {
		if t := r.Providers[name].TLS; t.Enabled() {
			found = append(found, dates("certificates.provider."+name, t, time.Now()))
		}
	}
	if t := r.Config.Docker.TLS; t.Enabled() {
		found = append(found, dates("certificates.docker", t, time.Now()))
	}
	return found
}

// dates reads the files of one end and looks at their dates. That they go together was
// seen when the configuration was loaded.
func dates(check string, t tlsfiles.Config, now time.Time) Finding {
	var details []string
	warn := ""
	for _, file := range []struct{ path, of string }{{t.CAFile, "the authority"}, {t.CertFile, "the certificate"}} {
		if file.path == "" {
			continue
		}
		all, err := readCertificates(file.path)
		if err != nil {
			return failed(check, err, "name a PEM file that this user may read")
		}
		// Of a chain the first that ends counts. Of authorities an old one may stand
		// beside the new.
		c := slices.MinFunc(all, byEnd)
		if file.path == t.CAFile {
			c = slices.MaxFunc(all, byEnd)
		}
		hint := fmt.Sprintf("have %s in %s renewed", file.of, file.path)
		switch {
		case now.After(c.NotAfter):
			return Finding{check, Fail, fmt.Sprintf("%s: %s has expired on %s", file.path, subject(c), day(c.NotAfter)), hint}
		case now.Before(c.NotBefore):
			return Finding{check, Fail, fmt.Sprintf("%s: %s is not valid before %s", file.path, subject(c), c.NotBefore.UTC().Format(time.RFC3339)),
				"see whether the clock of this host is right, or wait"}
		case now.Add(soon).After(c.NotAfter) && warn == "":
			warn = hint
		}
		details = append(details, fmt.Sprintf("%s: %s until %s", file.path, subject(c), day(c.NotAfter)))
	}
	if warn != "" {
		return Finding{check, Warn, "ends within 30 days: " + strings.Join(details, "; "), warn}
	}
	return ok(check, "%s", strings.Join(details, "; "))
}

func byEnd(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func subject(c *x509.Certificate) string {
	if name := c.Subject.String(); name != "" {
		return fmt.Sprintf("%q", name)
	}
	return "serial " + c.SerialNumber.String()
}

// nodeCertificate checks that other nodes will have the certificate of this one: that
// the authority signed it for both ends of a connection, and that it names what they
// dial.
func (r *run) nodeCertificate(check string) Finding {
	t := r.Config.TLS
	chain, err := readCertificates(t.CertFile)
	if err != nil {
		return failed(check, err, "name a PEM file that this user may read")
	}
	authorities, err := readCertificates(t.CAFile)
	if err != nil {
		return failed(check, err, "name a PEM file that this user may read")
	}
	if err := verify(chain, authorities); err != nil {
		return Finding{check, Fail, fmt.Sprintf("%s: %v", t.CertFile, err), "have it signed by the authority in tls.ca_file, for serverAuth and clientAuth"}
	}
	leaf, host := chain[0], t.ServerName
	if host == "" {
		if r.found == "" {
			return skipped(check, "there is no address to look for in it", "see address")
		}
		host, _, _ = net.SplitHostPort(r.found)
	}
	if err := leaf.VerifyHostname(host); err != nil {
		return Finding{check, Fail, fmt.Sprintf("%s is for %s, and not for %s, which others dial", t.CertFile, pki.Hosts(leaf), host),
			"have it signed for that, or set tls.server_name on all nodes to a name that all certificates carry"}
	}
	return ok(check, "%s is for %s; others look for %s", t.CertFile, pki.Hosts(leaf), host)
}

// verify looks at the chain as of a moment at which it is valid: dates are reported by
// themselves.
func verify(chain, authorities []*x509.Certificate) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range authorities {
		roots.AddCert(c)
	}
	at := chain[0].NotBefore
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	for _, c := range append(slices.Clone(authorities), chain...) {
		if c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		o := x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}}
		if _, err := chain[0].Verify(o); err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), "x509: "))
		}
	}
	return nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return all, nil
}
