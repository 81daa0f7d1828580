package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/internal/format"
	"github.com/musterhq/muster/tlsfiles"
)

// Driver is a client of one etcd cluster. It implements driver.Driver,
// driver.Watcher, driver.Cataloger, driver.Registrar, driver.Normalizer, driver.PermissionChecker,
// driver.Authorizer, driver.Warner, driver.Identifier and driver.TLSReporter; its authorities
// implement driver.Store.
type Driver struct {
	keys      keys   // of the authority and its records
	layout    layout // of the registrations
	client    *clientv3.Client
	transport *transport
	secure    *tlsfiles.Files // nil without TLS
	leases    pb.LeaseClient
	watches   pb.WatchClient
	closed    atomic.Bool
}

var (
	_ driver.Driver            = (*Driver)(nil)
	_ driver.Watcher           = (*Driver)(nil)
	_ driver.Cataloger         = (*Driver)(nil)
	_ driver.Registrar         = (*Driver)(nil)
	_ driver.Normalizer        = (*Driver)(nil)
	_ driver.Keyer             = (*Driver)(nil)
	_ driver.Reviewer          = (*Driver)(nil)
	_ driver.PermissionChecker = (*Driver)(nil)
	_ driver.Authorizer        = (*Driver)(nil)
	_ driver.TLSReporter       = (*Driver)(nil)
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
	registrations, err := newLayout(c)
	if err != nil {
		return nil, err
	}
	t := newTransport(c)
	client, err := newClient(c, secure, t)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w: %w", driver.ErrInvalid, err)
	}
	t.clusters.client = client
	conn := client.ActiveConnection()
	return &Driver{
		keys:      newKeys(c.AuthorityPrefix),
		layout:    registrations,
		client:    client,
		transport: t,
		secure:    secure,
		leases:    pb.NewLeaseClient(conn),
		watches:   pb.NewWatchClient(conn),
	}, nil
}

func newClient(c Config, secure *tlsfiles.Files, t *transport) (*clientv3.Client, error) {
	reconnect := grpc.ConnectParams{
		Backoff: backoff.Config{
			BaseDelay:  firstReconnect,
			Multiplier: backoff.DefaultConfig.Multiplier,
			Jitter:     backoff.DefaultConfig.Jitter,
			MaxDelay:   slowestReconnect,
		},
		MinConnectTimeout: c.DialTimeout,
	}
	// gRPC goes through HTTPS_PROXY, to http:// as well, and shows the proxy's address as etcd's.
	// As in every client of Muster the proxies of the environment are not used.
	options := append(t.dialOptions(), grpc.WithConnectParams(reconnect), grpc.WithNoProxy())
	var first *tls.Config // by which the etcd client sees that there is TLS
	if secure != nil {
		first = secure.Current()
		options = append(options, grpc.WithTransportCredentials(newSecureTransport(secure.Current)))
	}
	return clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  first,
		DialKeepAliveTime:    pingAfter,
		DialKeepAliveTimeout: pingTimeout,
		MaxUnaryRetries:      1, // one attempt: who calls us tries again
		Logger:               zap.NewNop(),
		DialOptions:          options,
	})
}

// TLSState implements driver.TLSReporter.
func (d *Driver) TLSState() (state driver.TLSState, ok bool) {
	if d.secure == nil || !d.secure.Follows() {
		return state, false
	}
	return d.secure.Check(), true
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

// failed is failed, but for calls after Close, which no retry can fix.
func (d *Driver) failed(ctx context.Context, what string, err error) error {
	if d.closed.Load() {
		return errClosed(what)
	}
	return failed(ctx, what, err)
}

func errClosed(what string) error {
	return fmt.Errorf("etcd: %s: the driver is %w", what, driver.ErrClosed)
}

// List reads the registrations of q.Service in one linearizable range read: it
// asks a majority, so that it is never older than what was written before the
// call. A serializable read would still answer where the majority is lost, but may
// be older by any length of time.
func (d *Driver) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if q.Service == "" {
		return driver.Snapshot{}, fmt.Errorf("etcd: %w: query without a service", driver.ErrInvalid)
	}
	set, revision, err := d.read(ctx, q.Service, 0)
	if err != nil {
		return driver.Snapshot{}, err
	}
	return set.snapshot(revision), nil
}

// Services reads the keys of all registrations, without their values.
func (d *Driver) Services(ctx context.Context) ([]string, error) {
	root := d.layout.Root()
	r, err := d.client.Get(ctx, root, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, d.failed(ctx, "list "+root, err)
	}
	var names []string
	for _, kv := range r.Kvs { // sorted by key
		key := string(kv.Key)
		if name, ok := d.layout.Service(key); ok && !d.reserved(key) {
			names = append(names, name)
		}
	}
	slices.Sort(names) // "foo-1/" comes before "foo/"
	return slices.Compact(names), nil
}

// reserved reports whether key is none that a registration may have, whatever its
// service is called: those of the authority, and where names are kept as they are all that
// is Muster's own.
func (d *Driver) reserved(key string) bool {
	if _, plain := d.layout.(format.KV); plain {
		return strings.HasPrefix(key, d.keys.root)
	}
	return d.keys.owns(key)
}

// read returns the registrations of service as they stood at a revision, or as
// they stand now where that is 0, and the revision of etcd.
func (d *Driver) read(ctx context.Context, service string, at int64) (*registrations, int64, error) {
	set := d.registrations(service)
	if set.leaf != "" {
		return d.readWithLeaf(ctx, set, at)
	}
	r, err := d.client.Get(ctx, set.prefix, clientv3.WithPrefix(), clientv3.WithRev(at))
	if err != nil {
		return nil, 0, d.failed(ctx, "list "+set.prefix, err)
	}
	for _, kv := range r.Kvs {
		set.put(string(kv.Key), kv.Value)
	}
	return set, r.Header.Revision, nil
}

// readWithLeaf reads both at one revision, without what other services have between them.
func (d *Driver) readWithLeaf(ctx context.Context, set *registrations, at int64) (*registrations, int64, error) {
	r, err := d.client.Txn(ctx).Then(
		clientv3.OpGet(set.prefix, clientv3.WithPrefix(), clientv3.WithRev(at)),
		clientv3.OpGet(set.leaf, clientv3.WithRev(at)),
	).Commit()
	if err != nil {
		return nil, 0, d.failed(ctx, "list "+set.leaf, err)
	}
	for _, response := range r.Responses {
		for _, kv := range response.GetResponseRange().Kvs {
			set.put(string(kv.Key), kv.Value)
		}
	}
	return set, r.Header.Revision, nil
}

// registrations is what is below the prefix of one service.
type registrations struct {
	service, prefix string
	leaf            string // the key of the service itself, if a record may stand there
	layout          layout
	reserved        func(key string) bool
	instances       map[string]driver.Instance // by key
	skipped         map[string]error           // by key
}

func (d *Driver) registrations(service string) *registrations {
	r := &registrations{
		service: service, prefix: d.layout.Prefix(service), layout: d.layout, reserved: d.reserved,
		instances: make(map[string]driver.Instance), skipped: make(map[string]error),
	}
	if kv, ok := d.layout.(format.KV); ok {
		if leaf, has := kv.Leaf(service); has {
			r.leaf = leaf
		}
	}
	return r
}

// interval is the least one that has all keys of r, and end is not in it. Where it has those
// of other services, too, owns tells which are of r.
func (r *registrations) interval() (from, end string) {
	return cmp.Or(r.leaf, r.prefix), clientv3.GetPrefixRangeEnd(r.prefix)
}

func (r *registrations) owns(key string) bool {
	return strings.HasPrefix(key, r.prefix) || r.leaf != "" && key == r.leaf
}

func (r *registrations) put(key string, value []byte) {
	if r.reserved(key) {
		return // hazelcast's service "muster" would stand around them
	}
	i, err := r.layout.Decode(r.service, key, value)
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

// snapshot returns the set as it is. Readers sort it.
func (r *registrations) snapshot(revision int64) driver.Snapshot {
	s := driver.Snapshot{Revision: driver.Revision(revision), Instances: make([]driver.Instance, 0, len(r.instances))}
	for key, i := range r.instances {
		if key == r.leaf && len(r.instances)+len(r.skipped) > 1 {
			continue // as for other readers, who look there if nothing is below it
		}
		s.Instances = append(s.Instances, i)
	}
	for key, reason := range r.skipped {
		s.Skipped = append(s.Skipped, driver.Skipped{Key: key, Reason: reason})
	}
	return s
}
