package static

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/hint"
)

// Name is the one under which the provider is registered.
const Name = "static"

func init() { driver.Register(Name, provider{}) }

type provider struct{}

func (provider) NewConfig() any { return &Config{Refresh: DefaultRefresh} }

func (provider) Check(config any) (driver.Abilities, error) {
	can := driver.AbilitiesOf((*Driver)(nil))
	c, err := configOf(config)
	if err != nil {
		return can, err
	}
	return can, c.Validate()
}

func (provider) Open(config any) (driver.Driver, error) {
	c, err := configOf(config)
	if err != nil {
		return nil, err
	}
	return New(*c)
}

func configOf(config any) (*Config, error) {
	c, ok := config.(*Config)
	if !ok {
		return nil, fmt.Errorf("%w: configuration of type %T, want *static.Config", driver.ErrInvalid, config)
	}
	return c, nil
}

// Driver is a driver.Driver, driver.Watcher, driver.Authorizer and driver.Locator.
type Driver struct {
	config Config

	// Resolver looks names up. It may be replaced before the first use. Default:
	// net.DefaultResolver.
	Resolver Resolver
	// Interfaces lists the addresses of this host. It may be replaced before the first
	// use. Nil: those of the system.
	Interfaces func() ([]netip.Addr, error)

	mu       sync.Mutex
	closed   bool
	last     []string
	revision driver.Revision
}

var (
	_ driver.Driver     = (*Driver)(nil)
	_ driver.Watcher    = (*Driver)(nil)
	_ driver.Authorizer = (*Driver)(nil)
	_ driver.Locator    = (*Driver)(nil)
)

// New returns the driver for c. Its error joins *driver.ConfigError values, and
// says so of a file that is broken now. It looks no name up.
func New(c Config) (*Driver, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Refresh == 0 {
		c.Refresh = DefaultRefresh
	}
	c.Peers, c.DNS = slices.Clone(c.Peers), slices.Clone(c.DNS)
	return &Driver{config: c, Resolver: net.DefaultResolver}, nil
}

// List returns the peers of the list, the file and the names, each address once,
// sorted. The revision counts the changes that this Driver has seen.
func (d *Driver) List(ctx context.Context, q driver.Query) (driver.Snapshot, error) {
	if err := d.usable(); err != nil {
		return driver.Snapshot{}, err
	}
	if q.Service == "" {
		return driver.Snapshot{}, fmt.Errorf("%w: a query needs a service", driver.ErrInvalid)
	}
	addrs, err := d.listed()
	if err != nil {
		return driver.Snapshot{}, err
	}
	var skipped []driver.Skipped
	for i, entry := range d.config.DNS {
		found, err := lookUp(ctx, d.Resolver, i, entry)
		if err != nil {
			return driver.Snapshot{}, err
		}
		for _, addr := range found {
			if err := driver.ValidateAddr(addr); err != nil {
				skipped = append(skipped, driver.Skipped{Key: fmt.Sprintf("dns[%d]: %s", i, entry), Reason: err})
				continue
			}
			addrs = append(addrs, addr)
		}
	}
	if err := ctx.Err(); err != nil {
		return driver.Snapshot{}, fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
	}
	addrs = distinct(addrs)
	s := driver.Snapshot{Revision: d.note(addrs), Skipped: skipped, Instances: make([]driver.Instance, 0, len(addrs))}
	for _, addr := range addrs {
		s.Instances = append(s.Instances, driver.Instance{Service: q.Service, Addr: addr})
	}
	return s, nil
}

// listed returns the addresses of the list and the file, as they are written.
func (d *Driver) listed() ([]string, error) {
	addrs := slices.Clone(d.config.Peers)
	if d.config.File == "" {
		return addrs, nil
	}
	more, problem, how := readFile(d.config.File)
	if problem != "" {
		// Not ErrInvalid, which would be final: the next edit may fix it.
		return nil, hint.With(fmt.Errorf("%w: file: %q: %s", driver.ErrUnavailable, d.config.File, problem), how)
	}
	return append(addrs, more...), nil
}

// distinct returns each address once, in the spelling that comes first, sorted.
func distinct(addrs []string) []string {
	seen := make(map[string]bool, len(addrs))
	out := make([]string, 0, len(addrs))
	for _, addr := range addrs {
		if canonical, _, _ := parseAddr(addr); !seen[canonical] {
			seen[canonical] = true
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, strings.Compare)
	return out
}

// note returns the revision of addrs: the last one if nothing changed, else the
// next.
func (d *Driver) note(addrs []string) driver.Revision {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.revision == 0 || !slices.Equal(addrs, d.last) {
		d.revision++
		d.last = addrs
	}
	return d.revision
}

func (d *Driver) usable() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("the driver is %w", driver.ErrClosed)
	}
	return nil
}

// Close makes later calls fail. It is idempotent.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}
