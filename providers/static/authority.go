package static

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static/internal/quorum"
)

// OpenAuthority opens the authority of the voters, which are the entries of the
// list and the file. Where the provider has neither, there are no voters and so
// no authority: the error wraps driver.ErrUnsupported.
//
// This node is the voter o.Voter, or else the one at o.Self.Addr or at one of
// o.Aliases. A node that is not listed learns who is master, and can use the store,
// but is never granted. The result is also a driver.Store.
func (d *Driver) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	if len(d.config.Peers) == 0 && d.config.File == "" {
		return nil, fmt.Errorf("%w: peers: no voters are listed, and addresses found in DNS do not vote; list the voters in peers or in file", driver.ErrUnsupported)
	}
	self, key := o.Voter, "node.voter"
	if self == "" {
		self, key = d.listedAs(o.Self.Addr, o.Aliases), "node.advertise"
	}
	canonical, problem := parseAddr(self)
	if problem != "" {
		return nil, fmt.Errorf("%w: %s: %q: %s", driver.ErrInvalid, key, self, problem)
	}
	a, err := quorum.Open(ctx, quorum.Config{
		Cluster: o.Cluster,
		Self:    canonical,
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
func (d *Driver) TTLBounds() (shortest, longest time.Duration) { return quorum.MinTTL, quorum.MaxTTL }

// listedAs returns which of the addresses of this node is among the voters, or addr
// where none is.
func (d *Driver) listedAs(addr string, aliases []string) string {
	voters, err := d.voters()
	if err != nil {
		return addr
	}
	for _, a := range append([]string{addr}, aliases...) {
		if slices.Contains(voters, driver.CanonicalAddr(a)) {
			return a
		}
	}
	return addr
}

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
		return nil, fmt.Errorf("%w: file: %q: lists no voter; write one HOST:PORT on each line", driver.ErrInvalid, d.config.File)
	}
	var voters []string
	for _, addr := range distinct(addrs) {
		canonical, _ := parseAddr(addr)
		voters = append(voters, canonical)
	}
	return voters, nil
}
