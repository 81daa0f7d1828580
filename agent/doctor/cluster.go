package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
)

const (
	// maxAsked bounds how many of those that are listed are dialled.
	maxAsked = 16
	// peerTimeout bounds each dial.
	peerTimeout = 2 * time.Second
)

// cluster dials who is listed, and says who is master.
func (r *run) cluster(ctx context.Context) []Finding {
	peers, read := r.peers(ctx)
	if !read && r.ourAgent() == nil {
		const why, hint = "no provider can be read", "see provider"
		return []Finding{skipped("cluster", why, hint), skipped("master", why, hint)}
	}
	members := skipped("cluster", "no provider can be read", "see provider")
	if read {
		members = r.members(peers)
	}
	found := []Finding{members}
	if self, wrong := r.unlisted(peers); wrong {
		found = append(found, self)
	}
	return append(found, r.master(peers))
}

// unlisted says that this node is none of the voters, so that it is never master. It is false where
// that is not certain, as while an entry is a name that nobody answers at.
func (r *run) unlisted(peers []peer) (Finding, bool) {
	if !r.Config.Mastership.Eligible || r.found == "" || !r.preflight.CanDial() {
		return Finding{}, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.Providers)) {
		authorities := r.Node.Mastership.Authority
		k := r.known[name]
		if !r.Providers[name].Voters || len(k.instances) == 0 || len(authorities) > 0 && !slices.Contains(authorities, name) {
			continue
		}
		may := func(p peer) bool {
			host, _, _ := net.SplitHostPort(p.Addr)
			_, named := netip.ParseAddr(host)
			return p.self || p.nodeID == "" && named != nil || driver.CanonicalAddr(p.Addr) == driver.CanonicalAddr(cmp.Or(r.Config.Node.Voter, r.found))
		}
		if !slices.ContainsFunc(peers, may) {
			return Finding{"cluster.self", Warn, fmt.Sprintf("this node, at %s, is none of the %s that provider %s lists: it is a member, and never master",
				r.found, counted(len(k.instances), "voter"), name),
				fmt.Sprintf("add it to provider.%s on all nodes, name its entry in node.voter, or set mastership.eligible to false", name)}, true
		}
	}
	return Finding{}, false
}

// peer is a node that is listed, and what came of dialling it.
type peer struct {
	driver.Instance
	nodeID string // who answers
	self   bool   // it is this node
	err    error
}

// name is how the peer is called in what is said of it.
func (p peer) name() string {
	if p.NodeID != "" {
		return fmt.Sprintf("node %s at %s", p.NodeID, p.Addr)
	}
	return p.Addr
}

// peers asks all that the providers list who they are, each address once. It is false
// where no provider could be read.
func (r *run) peers(ctx context.Context) (all []peer, read bool) {
	r.mu.Lock()
	for _, k := range r.known {
		read = read || k.read
		for _, i := range k.instances {
			at := slices.IndexFunc(all, func(p peer) bool { return driver.CanonicalAddr(p.Addr) == driver.CanonicalAddr(i.Addr) })
			switch {
			case at < 0:
				all = append(all, peer{Instance: i})
			case all[at].NodeID == "":
				all[at].Instance = i
			}
		}
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b peer) int { return strings.Compare(a.name(), b.name()) })
	if !r.preflight.CanDial() {
		return all, read
	}
	var wg sync.WaitGroup
	for i := range all[:min(len(all), maxAsked)] {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, peerTimeout)
			defer cancel()
			p := &all[i]
			var there node.Peer
			if there, p.err = r.preflight.Ask(ctx, p.Addr); p.err != nil {
				p.self = r.own(p.Addr) // why it is not reached there is for reach to say
				return
			}
			p.nodeID = there.NodeID
			agent := r.ourAgent()
			p.self = there.InstanceID == r.preflight.InstanceID() || agent != nil && there.InstanceID == agent.InstanceID
		})
	}
	wg.Wait()
	return all, read
}

// own reports whether addr is one at which this node was found. node.voter is not: what
// is asked about reach is not asked about that.
func (r *run) own(addr string) bool {
	known := []string{r.found}
	if agent := r.ourAgent(); agent != nil {
		known = append(known, agent.Addr)
	}
	return slices.ContainsFunc(known, func(a string) bool { return a != "" && driver.CanonicalAddr(a) == driver.CanonicalAddr(addr) })
}

func (r *run) members(peers []peer) Finding {
	const name = "cluster"
	if !r.preflight.CanDial() {
		return skipped(name, "no port can be opened to dial from", "see port")
	}
	var answer int
	var silent, hostile, hints, double []string
	for _, p := range peers[:min(len(peers), maxAsked)] {
		switch {
		case p.self:
		case errors.Is(p.err, node.ErrRefused):
			why, hint := split(p.err)
			if hint == "" {
				hint = "give all nodes the same cluster, or list what is one of them"
			}
			hostile = append(hostile, p.name()+": "+why)
			if !slices.Contains(hints, hint) {
				hints = append(hints, hint)
			}
		case p.err != nil && !errors.Is(p.err, node.ErrNoAnswer):
			silent = append(silent, p.name()+": "+p.err.Error())
		case p.nodeID == r.Config.Node.ID:
			double = append(double, p.Addr)
		default:
			answer++
		}
	}
	others := fmt.Sprintf("%s of %s listed, %d answered beside this one", counted(len(peers), "instance"), r.Config.Cluster, answer)
	if len(peers) > maxAsked {
		others += fmt.Sprintf(" (of the first %d, which were dialled)", maxAsked)
	}
	switch {
	case len(double) > 0:
		return Finding{name, Fail, fmt.Sprintf("another process with node.id %s runs at %s", r.Config.Node.ID, strings.Join(double, ", ")),
			"give each node its own node.id: of two the later one stays and the earlier leaves"}
	case len(hostile) > 0:
		return Finding{name, Fail, others + "; " + strings.Join(hostile, "; "), strings.Join(hints, "; ")}
	case len(silent) > 0:
		return Finding{name, Warn, others + "; not reached: " + strings.Join(silent, "; "),
			"start these nodes, let this host through to them, or remove what is listed of those that are gone"}
	case len(peers) == 0:
		return ok(name, "no instance of %s is listed: this node would be the first", r.Config.Cluster)
	}
	return ok(name, "%s", others)
}

const masterHint = "see provider, which may be what grants it; whether a majority of the voters, or of bootstrap.expect, runs; and whether mastership.eligible is true on one of them"

// master says who is master, as the agent or else a provider tells.
func (r *run) master(peers []peer) Finding {
	const name = "master"
	agent := r.ourAgent()
	if agent != nil {
		return agentMaster(name, *agent)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var reported bool
	for _, k := range r.known {
		if k.master == nil {
			continue
		}
		reported = true
		if h := k.master.Holder; h != nil {
			return ok(name, "node %s at %s, term %d", h.NodeID, h.Addr, k.master.Term)
		}
	}
	switch {
	case len(peers) == 0:
		return ok(name, "none yet: no node is listed")
	case !reported:
		return ok(name, "not checked: without an agent here only the nodes can say; ask one with muster master --agent")
	}
	return Finding{name, Warn, "none, although nodes are listed", masterHint}
}

func agentMaster(name string, agent httpapi.Status) Finding {
	seen := counted(len(agent.View.Members), "member")
	if m := agent.Master; m != nil {
		return ok(name, "node %s at %s, term %d; the agent sees %s", m.NodeID, m.Addr, m.Term, seen)
	}
	return Finding{name, Warn, fmt.Sprintf("the agent knows none; it sees %s: %s", seen, agent.WaitingFor),
		masterHint}
}
