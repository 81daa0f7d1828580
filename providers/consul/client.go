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
		HttpClient: &http.Client{Transport: &authorized{base: base, token: c.token}},
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

// readKey reads one key consistently. It returns nil where there is none.
func (d *Driver) readKey(ctx context.Context, key string) (*api.KVPair, error) {
	pair, meta, err := d.client.KV().Get(key, d.consistent(ctx, 0))
	switch {
	case err != nil:
		return nil, d.failed(ctx, "read "+key, err)
	case meta.LastIndex == 0:
		return nil, errForeign("read " + key)
	}
	return pair, nil
}

// renewSession reports whether a session was there to be renewed. Of one that is not
// the client tells no more than that it was answered with 404, which others do, too. So
// it is looked for then.
func (d *Driver) renewSession(ctx context.Context, id, dc string) (there bool, err error) {
	entry, _, err := d.client.Session().Renew(id, (&api.WriteOptions{Datacenter: dc}).WithContext(ctx))
	if err != nil || entry != nil {
		if err != nil {
			err = d.failed(ctx, "renew session "+id, err)
		}
		return entry != nil, err
	}
	q := d.consistent(ctx, 0)
	q.Datacenter = dc
	entry, meta, err := d.client.Session().Info(id, q)
	switch {
	case err != nil:
		return false, d.failed(ctx, "renew session "+id, err)
	case entry != nil || meta.LastIndex == 0:
		return false, errForeign("renew session " + id)
	}
	return false, nil
}

// authorized sends the token along, as the file has it at that moment.
type authorized struct {
	base  http.RoundTripper
	token func() (driver.Secret, error)
}

func (a *authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := a.token()
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
