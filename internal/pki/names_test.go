package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"testing"
	"time"
)

// What Issue writes names the node, and nobody else.
func TestIssuedCertificatesNameTheirNode(t *testing.T) {
	a, _, err := NewAuthority("orders", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]struct{ uri, dns string }{
		"node-1":         {"spiffe://muster/node-1", "node-1"},
		"Node-1":         {"spiffe://muster/Node-1", "Node-1"},
		"10.0.0.9":       {"spiffe://muster/10.0.0.9", ""},
		"rack 7/node é":  {"spiffe://muster/rack%207%2Fnode%20%C3%A9", ""},
		"*.example.org":  {"spiffe://muster/%2A.example.org", ""},
		"100%":           {"spiffe://muster/100%25", ""},
		"a.example.org":  {"spiffe://muster/a.example.org", "a.example.org"},
		"weird?#id":      {"spiffe://muster/weird%3F%23id", ""},
		"spiffe://x/y-1": {"spiffe://muster/spiffe:%2F%2Fx%2Fy-1", ""},
	} {
		pair, err := a.Issue(id, []string{"10.0.0.5", "orders.muster"}, time.Now(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		both, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		leaf := both.Leaf
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != want.uri {
			t.Errorf("%q: URIs %v, want %s", id, leaf.URIs, want.uri)
		}
		if dns := leaf.DNSNames[0]; want.dns != "" && (dns != want.dns || len(leaf.DNSNames) != 2) || want.dns == "" && len(leaf.DNSNames) != 1 {
			t.Errorf("%q: DNS names %q, want %q and the host", id, leaf.DNSNames, want.dns)
		}
		if id != "*.example.org" && !NamesNode(leaf, id) {
			t.Errorf("%q is not named by its own certificate: %s", id, Nodes(leaf))
		}
		for _, other := range []string{"", "node-2", "10.0.0.5", "muster", "rack 7", "y-1"} {
			if NamesNode(leaf, other) {
				t.Errorf("the certificate of %q names %q", id, other)
			}
		}
	}
}

func TestNamesNode(t *testing.T) {
	uris := func(texts ...string) (out []*url.URL) {
		for _, text := range texts {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, u)
		}
		return out
	}
	for _, c := range []struct {
		name string
		cert x509.Certificate
		id   string
		want bool
	}{
		{"DNS name", x509.Certificate{DNSNames: []string{"a", "node-1"}}, "node-1", true},
		{"DNS name in another case", x509.Certificate{DNSNames: []string{"NODE-1"}}, "node-1", true},
		{"part of a DNS name", x509.Certificate{DNSNames: []string{"node-1.example.org"}}, "node-1", false},
		{"wildcard", x509.Certificate{DNSNames: []string{"*.example.org"}}, "a.example.org", false},
		{"SPIFFE of others", x509.Certificate{URIs: uris("spiffe://example.org/ns/orders/node-1")}, "node-1", true},
		{"SPIFFE in another case", x509.Certificate{URIs: uris("spiffe://example.org/Node-1")}, "node-1", false},
		{"in the middle of the path", x509.Certificate{URIs: uris("spiffe://example.org/node-1/x")}, "node-1", false},
		{"trust domain", x509.Certificate{URIs: uris("spiffe://node-1")}, "node-1", false},
		{"no trust domain", x509.Certificate{URIs: uris("spiffe:///node-1")}, "node-1", false},
		{"another scheme", x509.Certificate{URIs: uris("https://example.org/node-1")}, "node-1", false},
		{"common name", x509.Certificate{}, "node-1", false},
	} {
		c.cert.Subject.CommonName = "node-1"
		if got := NamesNode(&c.cert, c.id); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
