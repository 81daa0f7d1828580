package node

import (
	"errors"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

// What a node alone is called unless its Config says otherwise, and where it listens: on a free
// port that other hosts do not reach.
const (
	aloneCluster = "alone"
	aloneBind    = "127.0.0.1:0"
)

// alone returns the configuration of a node that is in no cluster: it brings a provider of its
// own, in memory, which grants it mastership at once.
func (c Config) alone() (Config, error) {
	if len(c.Registries) > 0 {
		return c, &driver.ConfigError{Key: "provider", Problem: "set beside Alone", Hint: "keep one of the two"}
	}
	if len(c.Mastership.Authority) > 0 || c.Mastership.Eligible != nil {
		return c, errors.Join(&driver.ConfigError{Key: "mastership", Problem: "a node alone is its own master",
			Hint: "leave mastership.authority and mastership.eligible out, or leave Alone out"})
	}
	if c.Cluster == "" {
		c.Cluster = aloneCluster
	}
	if c.Bind == "" {
		c.Bind = aloneBind
	}
	if c.NodeID == "" {
		c.NodeID = aloneCluster
	}
	if c.DataDir == "" {
		c.DataDir = "." // in which nothing is written: the provider needs no disk
	}
	c.RequireExternal = new(false)
	c.Bootstrap = Bootstrap{Mode: Single}
	c.Registries = []*discovery.Registry{discovery.New("memory", memory.New().Driver(), discovery.Options{})}
	return c, nil
}
