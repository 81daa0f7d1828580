package pki

import (
	"crypto/x509"
	"net/netip"
	"net/url"
	"strings"
)

// trustDomain is that of the SPIFFE URIs that Issue writes.
const trustDomain = "muster"

// NamesNode reports whether c names a node: as one of its DNS names, in any case, or as the last
// segment of the path of a SPIFFE URI (spiffe://TRUST-DOMAIN/.../NODE-ID), in any trust domain.
// The common name, and names with a wildcard, do not count.
func NamesNode(c *x509.Certificate, nodeID string) bool {
	if nodeID == "" || strings.HasPrefix(nodeID, "*.") {
		return false
	}
	for _, name := range c.DNSNames {
		if strings.EqualFold(name, nodeID) {
			return true
		}
	}
	for _, uri := range c.URIs {
		if uri.Scheme == "spiffe" && uri.Host != "" && lastSegment(uri) == nodeID {
			return true
		}
	}
	return false
}

// lastSegment is decoded, so that a node id may have a slash in it.
func lastSegment(uri *url.URL) string {
	path := uri.EscapedPath()
	segment, err := url.PathUnescape(path[strings.LastIndexByte(path, '/')+1:])
	if err != nil {
		return ""
	}
	return segment
}

// isHostName reports whether a node id is a DNS name as well.
func isHostName(nodeID string) bool {
	_, err := netip.ParseAddr(nodeID)
	return err != nil && CheckHost(nodeID) == nil && !strings.HasPrefix(nodeID, "*.")
}

// nodeURI is the SPIFFE URI of a node.
func nodeURI(nodeID string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/" + nodeID, RawPath: "/" + url.PathEscape(nodeID)}
}

// Nodes are the node ids that a certificate names, between commas: its DNS names, and those of
// its SPIFFE URIs.
func Nodes(c *x509.Certificate) string {
	ids := make(map[string]bool)
	var all []string
	add := func(id string) {
		if id != "" && !ids[id] && !strings.HasPrefix(id, "*.") {
			ids[id] = true
			all = append(all, id)
		}
	}
	for _, name := range c.DNSNames {
		add(name)
	}
	for _, uri := range c.URIs {
		if uri.Scheme == "spiffe" && uri.Host != "" {
			add(lastSegment(uri))
		}
	}
	if len(all) == 0 {
		return "no node"
	}
	return strings.Join(all, ", ")
}
