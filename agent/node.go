package agent

import (
	"errors"
	"log/slog"
	"maps"
	"slices"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/lookup"
)

// NodeConfig opens the configured providers and returns what node.Start wants,
// and a function that closes the registries, to be called once the node has ended.
// The records of all go to logger; nil writes none. Its Detectors are at most the one
// of detect.registry: those that this package does not know go before it.
func NodeConfig(c *config.Config, logger *slog.Logger) (node.Config, func() error, error) {
	o := discovery.Options{Logger: c.NodeLogger(logger)}
	union, err := c.Open(o)
	if err != nil {
		return node.Config{}, nil, err
	}
	closeAll := union.Close
	var detectors []advertise.Detector
	look, registry, ok, err := c.Lookup(o)
	if err != nil {
		return node.Config{}, nil, errors.Join(err, union.Close())
	}
	if ok {
		detectors = append(detectors, lookup.Detector(look))
		closeAll = func() error { return errors.Join(registry.Close(), union.Close()) }
	}
	return node.Config{
		Cluster:   c.Cluster,
		NodeID:    c.Node.ID,
		Zone:      c.Node.Zone,
		Tags:      slices.Clone(c.Node.Tags),
		Meta:      maps.Clone(c.Node.Meta),
		AppAddrs:  maps.Clone(c.Node.AppAddrs),
		Bind:      c.Node.Bind,
		Advertise: c.Node.Advertise,
		Detectors: detectors,
		HostIP:    c.Detect.HostIP,

		RequireExternal: new(c.Detect.RequireExternal),

		Voter:      c.Node.Voter,
		DataDir:    c.Node.DataDir,
		Registries: union.Registries(),
		Bootstrap: node.Bootstrap{
			Mode:   node.BootstrapMode(c.Bootstrap.Mode),
			Expect: c.Bootstrap.Expect,
		},
		Mastership: node.Mastership{
			Eligible:  new(c.Mastership.Eligible),
			Authority: c.Mastership.Authorities(),
			TTL:       c.Mastership.TTL,

			DrainTimeout: c.Mastership.DrainTimeout,
		},
		TLS:          c.TLS.Config,
		VerifyNodeID: c.TLS.VerifyNodeID,
		Logger:       logger,
	}, closeAll, nil
}
