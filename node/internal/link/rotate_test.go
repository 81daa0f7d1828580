package link

import (
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
)

// A cluster moves to another authority step by step, and at each step every node
// reaches every other and what stands goes on standing.
func TestAuthoritiesAndCertificatesAreReplacedWhileOpen(t *testing.T) {
	old, fresh := newAuthority(t), newAuthority(t)
	bundle := old.pool()
	bundle.AddCert(fresh.cert)
	config := func(leaf *authority, trusted ...*authority) *tls.Config {
		c := leaf.mutual(t)
		c.RootCAs, c.ClientCAs = bundle, bundle
		if len(trusted) == 1 {
			c.RootCAs, c.ClientCAs = trusted[0].pool(), trusted[0].pool()
		}
		return c
	}
	var current [2]atomic.Pointer[tls.Config]
	var links [2]*Link
	for i := range links {
		current[i].Store(config(old, old))
		links[i] = (&world{}).link(t, func(c *Config) { c.CurrentTLS = current[i].Load })
		echo(t, links[i], "x")
	}
	dial := func(i int) net.Conn {
		t.Helper()
		c, err := links[i].Dial(wait.Context(t), "x", links[1-i].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c)
		return c
	}
	kept := dial(0)
	defer kept.Close()
	for _, step := range []*tls.Config{
		config(old),          // both authorities are trusted
		config(fresh),        // then certificates of the new one are shown
		config(fresh, fresh), // and then the old one is trusted no more
	} {
		for i := range links { // one node after the other
			current[i].Store(step)
			dial(0).Close()
			dial(1).Close()
		}
		roundTrip(t, kept)
	}
	_, err := (&world{old}).link(t, func(c *Config) { c.TLS.RootCAs = bundle }).Dial(wait.Context(t), "x", links[0].Addr().String())
	wantRefused(t, err, ReasonDistrust)
}

func TestOneConfigurationOfTLSAtATime(t *testing.T) {
	ca := newAuthority(t)
	for _, c := range []Config{
		{TLS: ca.mutual(t), CurrentTLS: func() *tls.Config { return ca.mutual(t) }},
		{CurrentTLS: func() *tls.Config { return nil }},
		{CurrentTLS: func() *tls.Config { return &tls.Config{} }},
	} {
		c.Cluster, c.Bind, c.NodeID, c.InstanceID = "orders", "127.0.0.1:0", "a", "a"
		if err := c.Validate(); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}
