// Package pki makes the certificates with which nodes know each other: an
// authority, and pairs of a certificate and a key that it signs. Keys are ECDSA on
// P-256.
//
// It is no certificate authority to run a company by: it keeps no list of what it has
// signed and revokes nothing. A cluster is rid of a certificate by its end, or by
// changing the authority, as docs/security.md explains.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// skew is how long before now a certificate begins, for nodes whose clocks are late.
const skew = 5 * time.Minute

// Pair is a certificate and its key, in PEM, with the end of the certificate.
type Pair struct {
	Cert, Key []byte
	Expiry    time.Time
}

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes an authority that signs itself, and returns its pair. Its
// certificates can sign none in turn.
func NewAuthority(name string, now time.Time, lifetime time.Duration) (*Authority, Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, Pair{}, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	pair, cert, err := sign(template, key, template, key)
	if err != nil {
		return nil, Pair{}, err
	}
	return &Authority{cert, key}, pair, nil
}

// ParseAuthority reads an authority from PEM. The certificate is the first one that
// the key belongs to, so that a file with an older authority beside it will do.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	var reason error
	for block, rest := pem.Decode(certPEM); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		pair, err := tls.X509KeyPair(pem.EncodeToMemory(block), keyPEM)
		if err != nil {
			reason = err
			continue
		}
		cert, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			return nil, err
		}
		key, ok := pair.PrivateKey.(crypto.Signer)
		if !ok || !cert.IsCA {
			return nil, errors.New("is no certificate of an authority")
		}
		return &Authority{cert, key}, nil
	}
	if reason != nil {
		return nil, reason
	}
	return nil, errors.New("holds no PEM certificate")
}

// Expiry is the end of the authority.
func (a *Authority) Expiry() time.Time { return a.cert.NotAfter }

// Issue makes a certificate that serves and dials, for hosts that are DNS names or IP
// addresses. It names the node, as NamesNode looks for it: in a SPIFFE URI, and as a DNS name if
// the node id is one. It ends with the authority at the latest.
func (a *Authority) Issue(nodeID string, hosts []string, now time.Time, lifetime time.Duration) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: nodeID},
		NotBefore:   now.Add(-skew),
		NotAfter:    now.Add(lifetime),
		URIs:        []*url.URL{nodeURI(nodeID)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if isHostName(nodeID) {
		template.DNSNames = []string{nodeID}
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	for _, host := range hosts {
		if err := CheckHost(host); err != nil {
			return Pair{}, fmt.Errorf("host %q: %w", host, err)
		}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if !slices.Contains(template.DNSNames, host) {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	pair, _, err := sign(template, key, a.cert, a.key)
	return pair, err
}

// Hosts are the hosts that a certificate is for, between commas.
func Hosts(c *x509.Certificate) string {
	all := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return "no host"
	}
	return strings.Join(all, ", ")
}

// CheckHost says what is wrong with a host that a certificate is to be for.
func CheckHost(host string) error {
	if ip, err := netip.ParseAddr(host); err == nil {
		switch {
		case ip.Zone() != "":
			return errors.New("has a zone, which means something on one host alone; leave it out")
		case ip.IsUnspecified():
			return errors.New("is dialled by nobody; write the address that others dial")
		}
		return nil
	}
	name := strings.TrimPrefix(host, "*.")
	ok := name != "" && len(name) <= 253 && strings.Trim(name, "0123456789.") != ""
	for label := range strings.SplitSeq(name, ".") {
		ok = ok && label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		for _, c := range []byte(label) {
			ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
		}
	}
	if !ok {
		return errors.New("neither an IP address nor a DNS name; write one, without a port")
	}
	return nil
}

func sign(template *x509.Certificate, key *ecdsa.PrivateKey, parent *x509.Certificate, parentKey crypto.Signer) (Pair, *x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return Pair{}, nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return Pair{}, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, nil, err
	}
	return Pair{
		Cert:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		Expiry: cert.NotAfter,
	}, cert, nil
}
