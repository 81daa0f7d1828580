package page

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/upgrade"
	"github.com/musterhq/muster/tlsfiles"
)

// Node returns the page of n and, at all other paths, api: what httpapi.NewWith returned for n
// and o. The page is for those who may ask the API. Close it; that ends the timeline.
func Node(n *node.Node, api http.Handler, o httpapi.Options) *Page {
	return newPage(&nodeSource{node: n, options: o}, api, o)
}

type nodeSource struct {
	node    *node.Node
	options httpapi.Options
	runs    recordedRuns
}

// refreshNode is how often the page of a node is asked for without an event.
const refreshNode = 5 * time.Second

// readRunsWithin bounds how long a page waits for the store.
const readRunsWithin = 500 * time.Millisecond

// recordedRuns are the last runs of jobs as they are recorded. Only the master knows them without
// asking; a page of another node asks for them, for all who look at it within refreshNode.
type recordedRuns struct {
	mu    sync.Mutex
	read  time.Time
	known map[string]cron.RunStatus
}

// fill adds to jobs the last runs that this node does not know. Where the store does not answer
// they are those of before.
func (r *recordedRuns) fill(ctx context.Context, now time.Time, store cron.Store, jobs []cron.NodeStatus) {
	lacks := func(j cron.NodeStatus) bool { return j.Last == nil && !j.EachNode }
	if !slices.ContainsFunc(jobs, lacks) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.read.IsZero() || now.Sub(r.read).Abs() >= refreshNode {
		ctx, cancel := context.WithTimeout(ctx, readRunsWithin)
		defer cancel()
		if all, err := cron.List(ctx, store); err == nil {
			r.known = make(map[string]cron.RunStatus)
			for _, j := range all {
				if len(j.Runs) > 0 {
					r.known[j.Name] = j.Runs[0]
				}
			}
		}
		r.read = now
	}
	for i, j := range jobs {
		if last, ok := r.known[j.Name]; ok && lacks(j) {
			jobs[i].Last = &last
		}
	}
}

// seen is what is known of a node at one moment.
type seen struct {
	node.Status
	Voters *driver.Voters  // nil: there are none
	HTTP   *tlsfiles.State // nil: the API has no TLS
	At     time.Duration   // on the clock of mastership
	Jobs   []cron.NodeStatus
	Steps  []upgrade.Status
}

func (s *nodeSource) look() seen {
	out := seen{Status: s.node.Status(), At: time.Duration(clock.Now())}
	if voters, ok := s.node.Voters(); ok {
		out.Voters = &voters
	}
	if s.options.Operator != nil && s.options.Operator.Jobs != nil {
		out.Jobs = s.options.Operator.Jobs.Jobs()
	}
	if s.options.Steps != nil {
		out.Steps = s.options.Steps()
	}
	if s.options.TLS != nil {
		state := s.options.TLS.State()
		out.HTTP = &state
	}
	return out
}

func (s *nodeSource) view(now time.Time) view {
	seen := s.look()
	s.runs.fill(context.Background(), now, s.node.Store(), seen.Jobs)
	return viewOfNode(seen)
}

// viewOfNode has the sections of a node. What a later version adds is one more of them.
func viewOfNode(s seen) view {
	v := view{
		Heading: "Cluster " + s.Cluster, Headline: "No master",
		Events: strings.TrimPrefix(httpapi.PathEvents, "/"), Every: int(refreshNode / time.Millisecond),
	}
	if m := s.View.Master; m != nil {
		v.Good, v.Headline = true, fmt.Sprintf("%s is master in term %d", m.NodeID, m.Term)
	}
	v.Title = s.Cluster + ": " + v.Headline
	if warnings := warningsOf(s); len(warnings) > 0 {
		v.Sections = append(v.Sections, section{ID: "warnings", Title: "Warnings", Wide: true, Data: warnings})
	}
	v.Sections = append(v.Sections,
		section{ID: "mastership", Title: "Mastership", Data: mastershipOf(s)},
		section{ID: "agent", Title: "This agent", Data: s},
		section{ID: "members", Title: "Members", Wide: true, Data: membersOf(s)},
		section{ID: "providers", Title: "Providers", Wide: true, Data: providersOf(s)},
	)
	if len(s.Jobs) > 0 {
		v.Sections = append(v.Sections, section{ID: "jobs", Title: "Jobs", Wide: true, Data: s.Jobs})
	}
	if len(s.Steps) > 0 {
		v.Sections = append(v.Sections, section{ID: "steps", Title: "Steps of upgrades", Wide: true, Data: s.Steps})
	}
	if s.Voters != nil {
		v.Sections = append(v.Sections, section{ID: "voters", Title: "Voters", Wide: true, Data: s.Voters.Voters})
	}
	return v
}

// warning is what an operator should fix. Its Name stays the same while it lasts.
type warning struct{ Name, Text string }

func warningsOf(s seen) []warning {
	var out []warning
	add := func(name, text string) {
		if text != "" {
			out = append(out, warning{name, oneLine(text)})
		}
	}
	add("mastership", s.View.Warning)
	add("authority", text(s.Mastership.Err))
	add("address", text(s.Explained.Err))
	if found := s.Explained.Addr; found != "" && found != s.Advertised.Addr {
		add("address", "found at another address, "+found+": the node ends if that stays so")
	}
	if s.Reach.State == node.Unreachable {
		add("reachability", strings.TrimPrefix(s.Reach.Peer+": "+s.Reach.Reason, ": "))
	}
	certificate := func(use string, state *tlsfiles.State) {
		if state != nil {
			add("certificate for "+use, text(state.Err))
		}
	}
	certificate("nodes", s.TLS)
	certificate("http", s.HTTP)
	for _, p := range s.Providers {
		add("provider "+p.Name, text(p.Peers.Err))
		add("registration with "+p.Name, text(p.Registration.Err()))
		add("way to "+p.Name, p.Registration.Warning)
		certificate(p.Name, p.TLS)
	}
	var failing, unrunnable, stuck []string
	for _, j := range s.Jobs {
		if j.Last != nil && (j.Last.State == cron.Failed || j.Last.State == cron.Interrupted) {
			failing = append(failing, j.Name)
		}
		if j.Problem != "" {
			unrunnable = append(unrunnable, j.Name)
		}
	}
	for _, step := range s.Steps {
		if step.Stuck() {
			stuck = append(stuck, strings.TrimSpace(step.Name+" "+string(step.Version)))
		}
	}
	add("jobs that fail", counted(failing))
	add("jobs that do not run here", counted(unrunnable))
	add("steps that are stuck", counted(stuck))
	return out
}

// maxNamed is how many names a warning has.
const maxNamed = 5

// counted is the first of the names, and how many more there are; nothing if there are none.
func counted(names []string) string {
	if len(names) <= maxNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
}

func (s *nodeSource) facts() map[string]fact {
	now := s.look()
	facts := make(map[string]fact)
	for _, w := range warningsOf(now) {
		facts[w.Name] = fact{kind: kindWarning, text: w.Name + ": " + w.Text}
	}
	if now.Ready {
		facts["ready"] = fact{kind: kindMember, text: "this agent is ready", over: "this agent is not ready", overKind: kindFailure}
	}
	return facts
}

// follow adds what happens to members and mastership.
func (s *nodeSource) follow(ctx context.Context, t *timeline) {
	for e := range s.node.Events(ctx) {
		if k, text := describe(e); text != "" {
			t.add(time.Now(), k, text)
		}
	}
}

// describe says what has happened. What members say of themselves otherwise is not for the
// timeline.
func describe(e node.Event) (kind, string) {
	switch e.Kind {
	case node.MemberJoined:
		return kindMember, fmt.Sprintf("%s joined at %s", e.Member.NodeID, e.Member.Addr)
	case node.MemberLeft:
		return kindMember, because(e.Member.NodeID+" left", e.Member.Reason)
	case node.MemberFailed:
		return kindFailure, because(e.Member.NodeID+" failed", e.Member.Reason)
	case node.ClusterFormed:
		return kindMaster, "the cluster is formed, with the id " + e.View.ClusterID
	case node.QuorumChanged:
		if e.View.Majority {
			return kindOver, "a majority is in sight"
		}
		return kindWarning, "no majority is in sight"
	case node.MasterChanged:
		return kindMaster, fmt.Sprintf("%s is master in term %d", e.Master.NodeID, e.Master.Term)
	case node.MasterLost:
		return kindFailure, fmt.Sprintf("no master: %s was, in term %d", e.Master.NodeID, e.Master.Term)
	}
	return "", ""
}

func because(what, reason string) string {
	if reason == "" {
		return what
	}
	return what + ": " + oneLine(reason)
}

// mastershipView is what is known of mastership.
type mastershipView struct {
	Master *node.Master
	// Waiting says why there is none.
	Waiting   string
	Term      node.Term
	ClusterID string
	// Valid is how long the mastership of this node counts if it is not renewed. Self is
	// false if another node is master, which alone knows that.
	Valid time.Duration
	Self  bool

	Majority   bool
	Have, Need int
	AppAddrs   []string
}

func mastershipOf(s seen) mastershipView {
	v := mastershipView{
		Master: s.View.Master, Waiting: s.WaitingFor, Term: s.View.Term, ClusterID: s.View.ClusterID,
		Majority: s.View.Majority, Have: s.Mastership.Have, Need: s.Mastership.Need,
	}
	if m := s.View.Master; m != nil {
		v.Self = m.InstanceID == s.InstanceID
		v.Valid = max(s.Mastership.Deadline-s.At, 0).Round(10 * time.Millisecond)
		v.AppAddrs = pairs(m.AppAddrs)
	}
	return v
}

// zone is the members of one zone.
type zone struct {
	Name    string
	Members []member
	// Alive are so many of them, and Others not, or no longer.
	Alive, Others int
}

// member is a row of the table of members.
type member struct {
	node.Member
	Master bool
	// FoundBy says how this agent knows the member: the providers that list it, or gossip.
	FoundBy string
	Apps    []string
	Labels  []string
}

// membersOf returns the members by zone, and those that left or failed lately among them.
func membersOf(s seen) []zone {
	byZone := make(map[string][]member)
	listed := listedBy(s.Providers)
	for _, m := range append(slices.Clone(s.View.Members), s.View.Departed...) {
		row := member{Member: m, FoundBy: listed(m), Apps: pairs(m.AppAddrs), Labels: append(slices.Clone(m.Tags), pairs(m.Meta)...)}
		row.Master = s.View.Master != nil && m.State == node.StateAlive && s.View.Master.InstanceID == m.InstanceID
		byZone[m.Zone] = append(byZone[m.Zone], row)
	}
	var zones []zone
	for _, name := range slices.Sorted(maps.Keys(byZone)) {
		z := zone{Name: name, Members: byZone[name]}
		for _, m := range z.Members {
			if m.State == node.StateAlive {
				z.Alive++
			} else {
				z.Others++
			}
		}
		zones = append(zones, z)
	}
	return zones
}

// listedBy returns which providers list a member, by its instance id or its address.
func listedBy(providers []node.Provider) func(node.Member) string {
	names := make(map[string][]string)
	for _, p := range providers {
		instances, _ := p.Peers.Instances()
		for _, i := range instances {
			key := cmp.Or(i.InstanceID, driver.CanonicalAddr(i.Addr))
			if !slices.Contains(names[key], p.Name) {
				names[key] = append(names[key], p.Name)
			}
		}
	}
	return func(m node.Member) string {
		var found []string
		for _, key := range []string{m.InstanceID, driver.CanonicalAddr(m.Addr), driver.CanonicalAddr(m.Voter)} {
			for _, name := range names[key] {
				if !slices.Contains(found, name) {
					found = append(found, name)
				}
			}
		}
		return cmp.Or(strings.Join(found, ", "), "gossip")
	}
}

// provider is a row of the table of providers.
type provider struct {
	Name, Addr string
	Authority  bool
	// State is how it answers: unknown, ok or failing. Registration is registered, not
	// registered, or why it never is.
	State, Registration string
	Registered          bool
	Instances, Skipped  int
	Error               string
}

func providersOf(s seen) []provider {
	var out []provider
	for _, p := range s.Providers {
		instances, known := p.Peers.Instances()
		row := provider{
			Name: p.Name, Addr: strings.Join(p.Addrs, ", "), Authority: p.Authority, State: "answers",
			Registered: p.Registration.Registered(), Instances: len(instances), Skipped: len(p.Peers.Skipped),
			Error: oneLine(cmp.Or(text(p.Peers.Err), text(p.Registration.Err()), p.Registration.Warning)),
		}
		switch {
		case p.Peers.Stale:
			row.State = "fails; its last answer is used"
		case p.Peers.Err != nil:
			row.State = "fails"
		case !known:
			row.State = "not asked yet"
		}
		switch {
		case row.Registered:
			row.Registration = "registered"
		case p.Registration.Off != "":
			row.Registration = "none: " + p.Registration.Off
		default:
			row.Registration = "not registered"
		}
		out = append(out, row)
	}
	return out
}

// pairs returns the entries of a map as KEY=VALUE, by key.
func pairs(m map[string]string) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, key+"="+m[key])
	}
	return out
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }
