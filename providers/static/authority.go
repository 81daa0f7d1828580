package static

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/hint"
	"github.com/musterhq/muster/providers/static/internal/quorum"
	"github.com/musterhq/muster/providers/static/internal/voter"
)

// OpenAuthority opens the authority of the voters, which are the entries of the
// list and the file. Where the provider has neither, there are no voters and so
// no authority: the error wraps driver.ErrUnsupported.
//
// This node is the voter o.Voter, or else the entry that is o.Self.Addr or one of
// o.Aliases, or whose name leads to this node. A node that is not listed, or whose name
// does not resolve yet, learns who is master, and can use the store, but is not granted.
// The result is also a driver.Store, a driver.VoterReporter and a driver.Founder. It
// blocks on the look-up of names, for 3 s at most.
func (d *Driver) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	if len(d.config.Peers) == 0 && d.config.File == "" {
		return nil, fmt.Errorf("%w: provider.static.peers: no voters are listed, and addresses found in DNS do not vote; list the voters in peers or in file", driver.ErrUnsupported)
	}
	self, key := o.Voter, "node.voter"
	var identify func(context.Context) (string, error)
	if self == "" {
		key = "node.advertise"
		identify = func(ctx context.Context) (string, error) { return d.identify(ctx, o.Self.Addr, o.Aliases) }
		entry, err := identify(ctx)
		if errors.Is(err, driver.ErrInvalid) {
			return nil, err
		}
		// A name that does not resolve yet may be this node's: it is looked for again.
		self = cmp.Or(entry, o.Self.Addr)
	}
	canonical, problem, how := parseAddr(self)
	if problem != "" {
		return nil, hint.With(fmt.Errorf("%w: %s: %q: %s", driver.ErrInvalid, key, self, problem), how)
	}
	a, err := quorum.Open(ctx, voter.Config{
		Cluster: o.Cluster,
		Self:    canonical,

		Identify:      identify,
		IdentifyEvery: d.config.Refresh,

		Voters:  d.voters,
		TTL:     o.TTL,
		DataDir: voterDir(o.DataDir),
		Network: o.Network,
		Logger:  o.Logger,
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// TTLBounds implements driver.TTLBounder.
func (d *Driver) TTLBounds() (shortest, longest time.Duration) { return voter.MinTTL, voter.MaxTTL }

// voterDir is the part of the node's directory that is the voter's.
func voterDir(dataDir string) string {
	if dataDir == "" {
		return ""
	}
	return filepath.Join(dataDir, "voter")
}

// voters returns the entries of the list and the file, in the one spelling that
// all nodes agree on.
func (d *Driver) voters() ([]string, error) {
	addrs, err := d.listed()
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: provider.static.file: %q: lists no voter; write one HOST:PORT on each line", driver.ErrInvalid, d.config.File)
	}
	var voters []string
	for _, addr := range distinct(addrs) {
		canonical, _, _ := parseAddr(addr)
		voters = append(voters, canonical)
	}
	return voters, nil
}
