package authorities

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Member is what a member says of its authorities.
type Member struct {
	NodeID string
	Self   bool // this node
	// Authorities are the names of those that grant the member mastership, sorted. There
	// are none if it is never granted.
	Authorities []string
}

// Conflict says in words which member has no authority in common with this node. It is
// empty if there is no such member, or this node is never granted mastership.
func Conflict(members []Member) string {
	var own []string
	for _, m := range members {
		if m.Self {
			own = m.Authorities
		}
	}
	if len(own) == 0 {
		return ""
	}
	for _, m := range members {
		common := slices.ContainsFunc(m.Authorities, func(name string) bool { return slices.Contains(own, name) })
		if len(m.Authorities) == 0 || common {
			continue
		}
		return fmt.Sprintf("mastership.authority is %q here and %q at %s: each could grant a master, so neither node is a candidate; "+
			"move from one to the other by way of both at once, on all nodes", strings.Join(own, ","), strings.Join(m.Authorities, ","), m.NodeID)
	}
	return ""
}

// meetTimeout is how long a node with several providers waits to meet one of the peers that
// these list, before it is a candidate without having met any.
const meetTimeout = 3 * time.Second

// Peers is what a node knows of the others that it may still have to meet.
type Peers struct {
	// Providers is the number of providers in use. With one there is nothing to be learned:
	// a node that uses another one is not found by it.
	Providers int
	// Members is the number of live members, this node among them.
	Members int
	// Settled says that each provider has answered or failed, Listed that they list another
	// node.
	Settled, Listed bool
	// Running is the time since the start of this node.
	Running time.Duration
}

// Met reports whether the node knows what the others say of their authorities: it has met
// one, there is none to be met, or it has waited long enough.
func (p Peers) Met() bool {
	alone := p.Settled && !p.Listed
	return p.Providers == 1 || p.Members > 1 || alone || p.Running >= meetTimeout
}
