package node

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/settings"
	"github.com/musterhq/muster/node/internal/membership"
)

// AuthorityNone as the one name in Mastership.Authority says that no master is wanted: no
// provider is asked to grant mastership, and the node is ready without a master.
const AuthorityNone = settings.AuthorityNone

// noneWanted reports whether no master is wanted.
func (m Mastership) noneWanted() bool { return slices.Equal(m.Authority, []string{AuthorityNone}) }

// eligible reports whether the node may be master at all.
func (m Mastership) eligible() bool { return m.Eligible == nil || *m.Eligible }

// noAuthority stands in where no provider grants mastership. Nobody is ever master, which
// is as it should be, or else the reason why is shown.
type noAuthority struct {
	wanted bool
	reason error
}

// noAuthorityWanted is for a node whose operator wants no master.
func noAuthorityWanted() noAuthority {
	return noAuthority{wanted: true, reason: fmt.Errorf("%w: mastership.authority is %s", ErrNoAuthority, AuthorityNone)}
}

// noAuthorityOf is for a node whose one provider cannot grant mastership, because of err.
func noAuthorityOf(provider string, err error) noAuthority {
	return noAuthority{reason: fmt.Errorf("%w: provider %s: %w; where no master is wanted, write mastership.authority: %s",
		ErrNoAuthority, provider, err, AuthorityNone)}
}

func (a noAuthority) Acquire(context.Context, driver.Claim) (driver.Grant, error) {
	return driver.Grant{}, a.reason
}

func (a noAuthority) Renew(context.Context, driver.Grant) (driver.Grant, error) {
	return driver.Grant{}, driver.ErrSessionLost
}

func (a noAuthority) Release(context.Context, driver.Grant) error { return nil }

func (a noAuthority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		var m driver.Mastership
		if !a.wanted {
			m.Ineligible = a.reason.Error()
		}
		if yield(m, nil) {
			<-ctx.Done()
		}
	}
}

func (a noAuthority) Close(context.Context) error { return nil }

// nobodyEligible says in words that the whole cluster as it is seen consists of members
// that are never granted mastership, this node by its configuration, or nothing.
func (n *Node) nobodyEligible(members []membership.Member) string {
	if n.cfg.Mastership.eligible() || n.cfg.Mastership.noneWanted() {
		return ""
	}
	for _, m := range members {
		if len(m.Authorities) > 0 || !m.DetailsKnown {
			return ""
		}
	}
	return fmt.Sprintf("none of the %d members in sight may be master; set mastership.eligible on one of them, or write mastership.authority: %s where no master is wanted",
		len(members), AuthorityNone)
}
