package consul

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// dialTimeout bounds each attempt to connect.
const dialTimeout = 5 * time.Second

// A query waits for minutes. That nobody is at the other end any more must be found
// out sooner.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

const tokenHeader = "X-Consul-Token"

// newClient returns a client that is configured by c alone: the variables that
// Consul's own library reads from the environment have no effect.
func newClient(c Config, e endpoint, secure *driver.LiveTLS) (*api.Client, *http.Transport, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive}
	base := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if e.socket != "" {
				network, addr = "unix", e.socket
			}
			return dialer.DialContext(ctx, network, addr)
		},
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return shakeHands(ctx, conn, addr, secure.Config())
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
	client, err := api.NewClient(&api.Config{
		Address:    e.host,
		Scheme:     e.scheme,
		Transport:  base,
		HttpClient: &http.Client{Transport: &authorized{base: base, token: c.Token, file: c.TokenFile}},
		// Any other is taken from the environment; authorized sets the true one.
		Token: "unused",
	})
	return client, base, err
}

// shakeHands makes a TLS connection of conn, whose configuration is the one of this
// moment: http.Transport would keep the one that it was made with.
func shakeHands(ctx context.Context, conn net.Conn, addr string, c *tls.Config) (net.Conn, error) {
	c = c.Clone()
	if c.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		c.ServerName = host
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	secure := tls.Client(conn, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// transact makes a transaction in a datacenter, and returns ErrConflict if it did not
// come about.
func (d *Driver) transact(ctx context.Context, what, dc string, ops api.TxnOps) (api.TxnResults, error) {
	ok, r, _, err := d.client.Txn().Txn(ops, (&api.QueryOptions{Datacenter: dc}).WithContext(ctx))
	switch {
	case err != nil:
		return nil, d.failed(ctx, what, err)
	case ok:
		return r.Results, nil
	}
	var why []string
	for _, e := range r.Errors {
		if strings.Contains(e.What, "Permission denied") {
			return nil, fmt.Errorf("consul: %s: %w: %s", what, driver.ErrDenied, e.What)
		}
		why = append(why, e.What)
	}
	return nil, fmt.Errorf("consul: %s: %w: something has changed meanwhile: %s", what, driver.ErrConflict, strings.Join(why, "; "))
}

// authorized sends the token along, as the file has it at that moment.
type authorized struct {
	base  http.RoundTripper
	token driver.Secret
	file  string
}

func (a *authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := a.token.Or(a.file)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	switch {
	case token != "":
		r.Header.Set(tokenHeader, string(token))
	case r.Header.Get(tokenHeader) != anonymous:
		r.Header.Del(tokenHeader)
	}
	query := r.URL.Query()
	if query.Has("ns") || query.Has("partition") { // of the environment
		query.Del("ns")
		query.Del("partition")
		r.URL.RawQuery = query.Encode()
	}
	return a.base.RoundTrip(r)
}
