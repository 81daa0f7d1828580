package casauthority

import (
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Defaults of Config.
const (
	DefaultTTL    = 3 * time.Second
	DefaultMinTTL = 500 * time.Millisecond
	DefaultMaxTTL = 30 * time.Second
)

// Config is what New needs. Store and Cluster are mandatory.
type Config struct {
	// Store keeps the record, and those of driver.Store.
	Store Store

	// Name begins errors: the name of the provider. Default: "authority".
	Name string

	// Prefix begins all keys, and ends in a slash unless it is empty.
	Prefix string

	// Cluster is the name of the cluster. Each has keys of its own:
	//
	//	PREFIXclusters/CLUSTER/mastership           the record
	//	PREFIXclusters/CLUSTER/elections/ELECTION   that of another election
	//	PREFIXclusters/CLUSTER/longest-ttl/...      the longest TTL that any grant of it had
	//	PREFIXrecords/CLUSTER/KEY                   a record of driver.Store
	Cluster string

	// Election names one of several elections of the cluster, as of a shard or a role.
	// Empty: the mastership of the cluster.
	Election string

	// TTL is how long a grant outlives its last renewal, between MinTTL and MaxTTL.
	// Default: DefaultTTL.
	TTL time.Duration

	// MinTTL and MaxTTL bound the TTL that any node of the cluster may have. All must
	// have the same. After the store may have forgotten something, no grant is given for
	// MaxTTL. Defaults: DefaultMinTTL, DefaultMaxTTL.
	MinTTL, MaxTTL time.Duration
}

func (c Config) withDefaults() (Config, error) {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.MinTTL, DefaultMinTTL}, {&c.MaxTTL, DefaultMaxTTL}, {&c.TTL, DefaultTTL}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Name == "" {
		c.Name = "authority"
	}
	switch {
	case c.Store == nil:
		return c, fmt.Errorf("%s: %w: authority without a store", c.Name, driver.ErrInvalid)
	case c.Cluster == "":
		return c, fmt.Errorf("%s: %w: authority without a cluster", c.Name, driver.ErrInvalid)
	}
	return c, c.checkTTL(c.TTL)
}

func (c Config) checkTTL(ttl time.Duration) error {
	if ttl < c.MinTTL || ttl > c.MaxTTL {
		return fmt.Errorf("%s: %w: mastership.ttl: %v: want %v to %v", c.Name, driver.ErrInvalid, ttl, c.MinTTL, c.MaxTTL)
	}
	return nil
}
