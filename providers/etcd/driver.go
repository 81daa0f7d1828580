package etcd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/musterhq/muster/discovery/driver"
)

// Driver is a client of one etcd cluster. It implements driver.Driver,
// driver.Watcher, driver.Registrar and driver.Authorizer; its authorities
// implement driver.Store.
type Driver struct {
	keys      keys
	client    *clientv3.Client
	transport *transport
	leases    pb.LeaseClient
	watches   pb.WatchClient
	closed    atomic.Bool
}

var (
	_ driver.Driver     = (*Driver)(nil)
	_ driver.Watcher    = (*Driver)(nil)
	_ driver.Registrar  = (*Driver)(nil)
	_ driver.Authorizer = (*Driver)(nil)
)

// How soon a lost connection is tried again, and how soon one that is silent is
// given up. gRPC's own values let two minutes pass after a long outage, which no
// registration outlives. etcd refuses pings that come faster than every 5 s.
const (
	firstReconnect   = 100 * time.Millisecond
	slowestReconnect = time.Second
	pingAfter        = 10 * time.Second
	pingTimeout      = 3 * time.Second
)

// New returns a driver for c. It does not wait for etcd, which may be down. The
// error joins one *driver.ConfigError for each thing that is wrong with c.
func New(c Config) (*Driver, error) {
	c, secure, err := c.check()
	if err != nil {
		return nil, err
	}
	t := newTransport(c)
	client, err := newClient(c, secure, t)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w: %w", driver.ErrInvalid, err)
	}
	conn := client.ActiveConnection()
	return &Driver{
		keys:      newKeys(c.Prefix),
		client:    client,
		transport: t,
		leases:    pb.NewLeaseClient(conn),
		watches:   pb.NewWatchClient(conn),
	}, nil
}

func newClient(c Config, secure *tls.Config, t *transport) (*clientv3.Client, error) {
	reconnect := grpc.ConnectParams{
		Backoff: backoff.Config{
			BaseDelay:  firstReconnect,
			Multiplier: backoff.DefaultConfig.Multiplier,
			Jitter:     backoff.DefaultConfig.Jitter,
			MaxDelay:   slowestReconnect,
		},
		MinConnectTimeout: c.DialTimeout,
	}
	options := append(t.dialOptions(), grpc.WithConnectParams(reconnect))
	if secure != nil {
		options = append(options, grpc.WithTransportCredentials(newSecureTransport(secure)))
	}
	return clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  secure,
		DialKeepAliveTime:    pingAfter,
		DialKeepAliveTimeout: pingTimeout,
		MaxUnaryRetries:      1, // one attempt: who calls us tries again
		Logger:               zap.NewNop(),
		DialOptions:          options,
	})
}

// Close closes the connections.
func (d *Driver) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	if err := d.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("etcd: close: %w", err)
	}
	return nil
}

// failed is failed, but for calls after Close, which no retry can mend.
func (d *Driver) failed(ctx context.Context, what string, err error) error {
	if d.closed.Load() {
		return fmt.Errorf("etcd: %s: %w: the driver is closed", what, driver.ErrInvalid)
	}
	return failed(ctx, what, err)
}

// List reads the registrations of q.Service in one linearizable range read: it
// asks a majority, so that it is never older than what was written before the
// call. A serializable read would still answer where the majority is lost, but may
// be older by any length of time.
func (d *Driver) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if q.Service == "" {
		return driver.Snapshot{}, fmt.Errorf("etcd: %w: query without a service", driver.ErrInvalid)
	}
	prefix := d.keys.service(q.Service)
	r, err := d.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return driver.Snapshot{}, d.failed(ctx, "list "+prefix, err)
	}
	set := newRegistrations(d.keys, q.Service)
	for _, kv := range r.Kvs {
		set.put(string(kv.Key), kv.Value)
	}
	return set.snapshot(r.Header.Revision), nil
}

// registrations is what stands below the prefix of one service.
type registrations struct {
	service, prefix string
	instances       map[string]driver.Instance // by key
	skipped         map[string]error           // by key
}

func newRegistrations(k keys, service string) *registrations {
	return &registrations{service, k.service(service), make(map[string]driver.Instance), make(map[string]error)}
}

func (r *registrations) put(key string, value []byte) {
	i, err := r.decode(key, value)
	if err != nil {
		delete(r.instances, key)
		r.skipped[key] = err
		return
	}
	delete(r.skipped, key)
	r.instances[key] = i
}

func (r *registrations) delete(key string) {
	delete(r.instances, key)
	delete(r.skipped, key)
}

// decode reads one registration. Service and instance id may be left out of the
// value, as by a person who writes one by hand: the key says them too.
func (r *registrations) decode(key string, value []byte) (driver.Instance, error) {
	id, ok := segment(r.prefix, key)
	if !ok {
		return driver.Instance{}, fmt.Errorf("%w: the key does not end in one escaped instance id", driver.ErrInvalid)
	}
	var i driver.Instance
	if err := json.Unmarshal(value, &i); err != nil {
		return driver.Instance{}, fmt.Errorf("%w: %w", driver.ErrInvalid, err)
	}
	if i.Service == "" {
		i.Service = r.service
	}
	if i.InstanceID == "" && i.Addr != id {
		i.InstanceID = id
	}
	switch {
	case i.Service != r.service:
		return driver.Instance{}, fmt.Errorf("%w: the value is of service %q", driver.ErrInvalid, i.Service)
	case i.Key() != id:
		return driver.Instance{}, fmt.Errorf("%w: the value is of instance %q", driver.ErrInvalid, i.Key())
	}
	return i, i.Validate()
}

func encode(i driver.Instance) (string, error) {
	b, err := json.Marshal(i)
	return string(b), err
}

// snapshot returns the set as it stands. Who reads it sorts it.
func (r *registrations) snapshot(revision int64) driver.Snapshot {
	s := driver.Snapshot{Revision: driver.Revision(revision), Instances: make([]driver.Instance, 0, len(r.instances))}
	for _, i := range r.instances {
		s.Instances = append(s.Instances, i)
	}
	for key, reason := range r.skipped {
		s.Skipped = append(s.Skipped, driver.Skipped{Key: key, Reason: reason})
	}
	return s
}
