package consul

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	ends "github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/providers/internal/format"
	"github.com/musterhq/muster/tlsfiles"
)

// Provider is what is registered with package driver under the name "consul".
type Provider struct{}

func init() { driver.Register("consul", Provider{}) }

// NewConfig returns a *Config with its defaults.
func (Provider) NewConfig() any {
	return &Config{Address: DefaultAddress, Mode: Agent, Format: formatMuster, HealthyOnly: true, Consistency: Default}
}

// Check reports what is wrong with the *Config, and opens no client.
func (Provider) Check(config any) (driver.Abilities, error) {
	can := driver.AbilitiesOf((*Driver)(nil))
	c, err := configOf(config)
	if err != nil {
		return can, err
	}
	checked, _, _, err := c.check()
	if err != nil {
		return can, err
	}
	_, err = checked.host()
	return can, err
}

func configOf(config any) (*Config, error) {
	c, ok := config.(*Config)
	if !ok {
		return nil, fmt.Errorf("consul: %w: configuration is %T, want *consul.Config", driver.ErrInvalid, config)
	}
	return c, nil
}

// Open returns New of the *Config.
func (Provider) Open(config any) (driver.Driver, error) {
	c, err := configOf(config)
	if err != nil {
		return nil, err
	}
	d, err := New(*c)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Driver is a client of one Consul agent. It implements driver.Driver,
// driver.Watcher, driver.Cataloger, driver.Registrar, driver.Normalizer, driver.PermissionChecker,
// driver.Authorizer, driver.TTLBounder, driver.Warner, driver.Identifier and driver.TLSReporter;
// its authorities implement driver.Store.
type Driver struct {
	config    Config
	keys      keys
	host      string     // the name of this one, where the format wants it
	kv        *format.KV // where registrations are keys, else nil
	client    *api.Client
	endpoint  endpoint
	dialer    *dialer
	transport *http.Transport // of all that is not a session's
	secure    *tlsfiles.Files // nil without TLS
	closed    atomic.Bool

	waiting      chan struct{} // has one for each query that waits for a change
	leastSession time.Duration // leastSession, but for tests
	longestGrant time.Duration // longestGrantTTL, but for tests
	// ctx ends with Close: a blocking query would otherwise outlive it by minutes.
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	agent *agent          // nil before the first session of an agent
	keyed map[string]bool // by service, whether some sessions hung on keys
	own   map[string]bool // the sessions that are open here
	// shown has, by service and datacenter, the IDs of our own that the last reading had.
	shown map[string]map[string][]string
}

var (
	_ driver.Driver            = (*Driver)(nil)
	_ driver.Watcher           = (*Driver)(nil)
	_ driver.Cataloger         = (*Driver)(nil)
	_ driver.Registrar         = (*Driver)(nil)
	_ driver.Normalizer        = (*Driver)(nil)
	_ driver.Keyer             = (*Driver)(nil)
	_ driver.Reviewer          = (*Driver)(nil)
	_ driver.Reclaimer         = (*Driver)(nil)
	_ driver.PermissionChecker = (*Driver)(nil)
	_ driver.Authorizer        = (*Driver)(nil)
	_ driver.TLSReporter       = (*Driver)(nil)
	_ driver.TTLBounder        = (*Driver)(nil)
	_ driver.Warner            = (*Driver)(nil)
	_ driver.Identifier        = (*Driver)(nil)
)

// New returns a driver for c. It does not wait for Consul, which may be down. The
// error joins one *driver.ConfigError for each thing that is wrong with c.
func New(c Config) (*Driver, error) {
	c, e, secure, err := c.check()
	if err != nil {
		return nil, err
	}
	d := &Driver{
		config: c, keys: newKeys(c.AuthorityPrefix), endpoint: e, secure: secure,
		dialer:       &dialer{Dialer: net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive}, endpoint: e, live: secure},
		waiting:      make(chan struct{}, maxWaiting),
		leastSession: leastSession, longestGrant: longestGrantTTL, keyed: make(map[string]bool), own: make(map[string]bool),
		shown: make(map[string]map[string][]string),
	}
	d.transport = newTransport(d.dialer.plain, d.dialer.secure)
	if d.client, err = d.newClient(); err != nil {
		return nil, fmt.Errorf("consul: %w: %w", driver.ErrInvalid, err)
	}
	if err := d.setFormat(); err != nil {
		return nil, err
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
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
	d.cancel()
	d.transport.CloseIdleConnections()
	if w := d.currentAgent(); w != nil {
		w.transport.CloseIdleConnections()
	}
	return nil
}

// call returns the context of one call, which ends with the driver, too.
func (d *Driver) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return ends.Both(ctx, d.ctx)
}

// failed is failed, but for calls after Close, which no retry can fix.
func (d *Driver) failed(ctx context.Context, what string, err error) error {
	if d.closed.Load() {
		return d.errClosed(what)
	}
	return failed(ctx, what, err)
}

func (d *Driver) errClosed(what string) error {
	return fmt.Errorf("consul: %s: the driver is %w", what, driver.ErrClosed)
}

// List reads what every datacenter has of q.Service.
func (d *Driver) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if q.Service == "" {
		return driver.Snapshot{}, errNoService()
	}
	var all []reply
	for _, dc := range d.datacenters() {
		r, err := d.read(ctx, q.Service, reading{dc: dc})
		if err != nil {
			return driver.Snapshot{}, err
		}
		all = append(all, r)
	}
	return d.snapshot(q.Service, all), nil
}

// Services reads the names that every datacenter has.
func (d *Driver) Services(ctx context.Context) ([]string, error) {
	ctx, cancel := d.call(ctx)
	defer cancel()
	all := make(map[string]bool)
	for _, dc := range d.datacenters() {
		names, err := d.serviceNames(ctx, reading{dc: dc})
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all[name] = true
		}
	}
	return slices.Collect(maps.Keys(all)), nil
}

func (d *Driver) serviceNames(ctx context.Context, r reading) ([]string, error) {
	if d.kv != nil {
		root := d.kv.Root()
		request := question{what: "list " + root, needs: fmt.Sprintf("key_prefix %q list", root)}
		found, _, err := ask(ctx, d, request.in(r.dc), d.query(ctx, r), func(q *api.QueryOptions) ([]string, *api.QueryMeta, error) {
			return d.client.KV().Keys(root, "", q)
		})
		var names []string
		for _, key := range found {
			if name, ok := d.kv.Service(key); ok && !d.keys.owns(key) {
				names = append(names, name)
			}
		}
		return names, err
	}
	request := question{what: "list the services", needs: `service_prefix "" and node_prefix "" read`}
	found, _, err := ask(ctx, d, request.in(r.dc), d.query(ctx, r), d.client.Catalog().Services)
	return slices.Collect(maps.Keys(found)), err
}

func errNoService() error {
	return fmt.Errorf("consul: %w: query without a service", driver.ErrInvalid)
}

// datacenters are those to read. The empty name is the agent's own.
func (d *Driver) datacenters() []string {
	if len(d.config.Datacenters) == 0 {
		return []string{d.config.Datacenter}
	}
	return slices.Compact(slices.Sorted(slices.Values(d.config.Datacenters)))
}
