package link

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/musterhq/muster/internal/pki"
)

// tlsEnds makes the configurations of both ends from the user's, as it is at the
// time of the handshake.
type tlsEnds struct {
	user func() *tls.Config

	mu   sync.Mutex
	from *tls.Config // what hard was made from
	hard *tls.Config
}

func newTLSEnds(user func() *tls.Config) *tlsEnds { return &tlsEnds{user: user} }

// base returns the configuration in force, hardened.
func (e *tlsEnds) base() *tls.Config {
	user := e.user()
	e.mu.Lock()
	defer e.mu.Unlock()
	if user != e.from {
		e.from, e.hard = user, harden(user)
	}
	return e.hard
}

// harden returns a copy that speaks TLS 1.3 and demands a certificate. There are
// no tickets: every connection proves who it is, and handshakes are rare.
func harden(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS13, 0
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.InsecureSkipVerify = false
	c.SessionTicketsDisabled = true
	c.ClientSessionCache = nil
	c.NextProtos = nil
	return c
}

var errNoALPN = errors.New("no ALPN protocol of muster offered")

// server returns the configuration for one handshake, which leaves in v what the
// client asked for.
func (e *tlsEnds) server(cluster string, v *tlsVerdict) *tls.Config {
	base := e.base()
	c := base.Clone()
	c.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		if user := base.GetConfigForClient; user != nil {
			fresh, err := user(info)
			if err != nil {
				return nil, err
			}
			if fresh != nil {
				if fresh.ClientCAs == nil {
					return nil, errors.New("GetConfigForClient returned a configuration without ClientCAs")
				}
				base = harden(fresh)
			}
		}
		own := base.Clone()
		own.GetConfigForClient = nil
		v.helloSeen = true
		v.reason = ReasonGarbage
		for _, offered := range info.SupportedProtos {
			version, theirs, ok := parseALPN(offered)
			switch {
			case !ok:
			case version != wireVersion:
				v.reason = ReasonVersion
			case theirs != cluster:
				v.reason = ReasonCluster
			default:
				v.reason = ""
				own.NextProtos = []string{offered}
				return own, nil
			}
		}
		if v.reason == ReasonGarbage {
			return nil, errNoALPN
		}
		// What no client offers makes the handshake fail with the alert for it.
		own.NextProtos = []string{alpnPrefix}
		return own, nil
	}
	return c
}

func (e *tlsEnds) client(cluster, addr string) *tls.Config {
	c := e.base().Clone()
	c.GetConfigForClient = nil
	c.NextProtos = []string{alpn(wireVersion, cluster)}
	if c.GetClientCertificate == nil && len(c.Certificates) > 0 {
		// A certificate of an authority that the other end does not name is left out by
		// crypto/tls. The other end would say that there was none, which sends its
		// operator the wrong way.
		own := &c.Certificates[0]
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	if c.ServerName == "" {
		c.ServerName = dialledHost(addr)
	}
	return c
}

// certifies reports whether the certificate at the other end of nc, which is TLS, names a node.
func certifies(nc net.Conn, nodeID string) bool {
	return pki.NamesNode(nc.(*tls.Conn).ConnectionState().PeerCertificates[0], nodeID)
}

// dialledHost is the host of addr as a certificate names it.
func dialledHost(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	host, _, _ = strings.Cut(host, "%") // an IPv6 zone is ours alone
	return host
}

// tlsVerdict is what one handshake has shown of the client.
type tlsVerdict struct {
	helloSeen bool
	reason    Reason
}

// reasonOf sorts the error of the serving end. Some of the errors of crypto/tls
// have no type; tests pin the texts.
func (v *tlsVerdict) reasonOf(err error) Reason {
	if v.reason != "" {
		return v.reason
	}
	var header tls.RecordHeaderError
	if errors.As(err, &header) {
		if string(header.RecordHeader[:len(wireMagic)]) == wireMagic {
			return ReasonPlain
		}
		return ReasonGarbage
	}
	var cert *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case errors.As(err, &cert):
		return ReasonCertificate
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		return ReasonNoCertificate
	case errors.As(err, &op) && op.Op == "remote error":
		return ReasonDistrust
	}
	switch r := helloReason(err); {
	case r == ReasonTimeout:
		return r
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op):
		if v.helloSeen || r != ReasonNoHello {
			return ReasonAborted
		}
		return ReasonNoHello
	}
	return ReasonTLSFailed
}

// dialReason sorts the error of the dialling end, in the handshake or in the read
// of the answer, which is where TLS 1.3 reports what the server finds wrong with
// the client.
func dialReason(err error) Reason {
	var header tls.RecordHeaderError
	var cert *tls.CertificateVerificationError
	var name x509.HostnameError
	var op *net.OpError
	switch {
	case errors.As(err, &header):
		return ReasonTLS
	case errors.As(err, &cert), errors.As(err, &name):
		return ReasonCertificate
	case errors.As(err, &op) && op.Op == "remote error":
		const noApplicationProtocol, certificateRequired = 120, 116
		switch op.Err.Error() {
		case tls.AlertError(noApplicationProtocol).Error():
			return ReasonClusterOrVersion
		case tls.AlertError(certificateRequired).Error():
			return ReasonNoCertificate
		}
		if strings.Contains(op.Err.Error(), "certificate") {
			return ReasonDistrust
		}
		return ReasonTLSFailed
	case helloReason(err) == ReasonTimeout:
		return ReasonTimeout
	case errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ReasonAborted
	}
	return ReasonTLSFailed
}
