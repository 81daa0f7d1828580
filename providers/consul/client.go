package consul

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	urlpath "path"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul/internal/agentconn"
	"github.com/musterhq/muster/tlsfiles"
)

// dialTimeout bounds each attempt to connect.
const dialTimeout = 5 * time.Second

// A query waits for minutes. That the other end is gone must be found out sooner.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

const tokenHeader = "X-Consul-Token"

// dialer makes connections to the endpoint.
type dialer struct {
	net.Dialer
	endpoint endpoint
	live     *tlsfiles.Files
}

func (d *dialer) plain(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.endpoint.socket != "" {
		network, addr = "unix", d.endpoint.socket
	}
	return d.DialContext(ctx, network, addr)
}

func (d *dialer) secure(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return shakeHands(ctx, conn, addr, d.live.Current())
}

// An agent accepts 200 connections of one host, on which there may be other processes, and ends
// those that are more. A query that waits for a change holds one, and there is one for each
// service that is watched, of which a host may have thousands. Those that have no turn wait for
// one, and what they would have seen is seen when the service is listed again.
const (
	maxConns   = 80
	maxWaiting = maxConns * 3 / 5
)

// waitTurn returns when a query may wait for a change, and what ends its turn. It returns early
// when ctx ends.
func (d *Driver) waitTurn(ctx context.Context) (end func()) {
	select {
	case d.waiting <- struct{}{}:
		return func() { <-d.waiting }
	case <-ctx.Done():
		return func() {}
	}
}

func newTransport(plain, secure agentconn.DialFunc) *http.Transport {
	return &http.Transport{
		DialContext:         plain,
		DialTLSContext:      secure,
		MaxConnsPerHost:     maxConns,
		MaxIdleConnsPerHost: renewTogether, // those of one renewal are used by the next
		IdleConnTimeout:     time.Minute,
	}
}

// newClient returns a client of d, which is configured by d alone: the variables that
// Consul's own library reads from the environment have no effect.
func (d *Driver) newClient() (*api.Client, error) {
	return api.NewClient(&api.Config{
		Address:    d.endpoint.host,
		Scheme:     d.endpoint.scheme,
		Transport:  d.transport,
		HttpClient: &http.Client{Transport: authorized{d}, CheckRedirect: refuseRedirect},
		// Any other is taken from the environment; authorized sets the true one.
		Token: "unused",
	})
}

// refuseRedirect follows none: what is on the way to Consul names neither what is written
// or deleted, nor who gets the token.
func refuseRedirect(to *http.Request, _ []*http.Request) error {
	return fmt.Errorf("the answer is a redirect to %s, which is not followed; write the address of an agent", to.URL.Redacted())
}

// checkPath refuses a path by which Consul would go to another one, and do there what it
// is asked to do here: names may have any segments.
func checkPath(p string) error {
	if clean := urlpath.Clean(p); clean != p && clean+"/" != p {
		return fmt.Errorf("%w: %s stands for %s in Consul; names have no empty segment and none of dots alone", driver.ErrInvalid, p, clean)
	}
	return nil
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
	if d.closed.Load() {
		return nil, d.errClosed(what)
	}
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

// waitForKeys is how long a blocking query of keys waits for a change.
const waitForKeys = time.Minute

// consistent returns the options of a reading of which the leader made sure, with a
// majority, that it is not out of date; after a change if index is not 0.
func (d *Driver) consistent(ctx context.Context, index uint64) *api.QueryOptions {
	q := &api.QueryOptions{RequireConsistent: true, WaitIndex: index}
	if index > 0 {
		q.WaitTime = waitWithin(ctx, waitForKeys)
	}
	return q.WithContext(ctx)
}

// waitWithin returns how long a blocking query of ctx waits: most, or until ctx ends if that is
// known to be sooner. An agent does not notice that a query was given up: it waits to its end,
// and counts the connection among the 200 that it accepts from a host until then.
func waitWithin(ctx context.Context, most time.Duration) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return min(most, max(time.Until(end), time.Millisecond)) // 0 is the agent's default, 5 minutes
	}
	return most
}

// readKey reads one key consistently. It returns nil if there is none.
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
// the client says no more than that the answer was 404, which others answer, too. So
// the session is read then.
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

// authorized sends each request with the token, as the file has it at that moment, to the agent of
// the sessions if there are any. It rejects a path that would be cleaned to another one.
type authorized struct{ *Driver }

func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := checkPath(r.URL.Path); err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	if err := a.authorize(r); err != nil {
		return nil, err
	}
	query := r.URL.Query()
	if query.Has("ns") || query.Has("partition") { // of the environment
		query.Del("ns")
		query.Del("partition")
		r.URL.RawQuery = query.Encode()
	}
	if w := a.currentAgent(); w != nil {
		if w.Lost() != nil {
			// The sessions at its end are over. What is asked beside them, as for mastership, does
			// not wait until one is opened again.
			w = a.agentForSession()
		}
		return w.transport.RoundTrip(r)
	}
	return a.transport.RoundTrip(r)
}

// authorize sets the token of r.
func (d *Driver) authorize(r *http.Request) error {
	token, err := d.config.token()
	switch {
	case err != nil:
		return err
	case token != "":
		r.Header.Set(tokenHeader, string(token))
	case r.Header.Get(tokenHeader) != anonymous:
		r.Header.Del(tokenHeader)
	}
	return nil
}
