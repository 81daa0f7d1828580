package httpapi

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/tlsfiles"
)

// Status is what an agent says about itself.
type Status struct {
	Cluster    string `json:"cluster"`
	NodeID     string `json:"node_id"`
	InstanceID string `json:"instance_id"`
	// Addr is the HOST:PORT that other nodes dial, and AddrSource how it was found.
	Addr       string `json:"addr"`
	AddrSource string `json:"addr_source"`
	// Advertise is the same, and what each step on the way has answered.
	Advertise Advertise `json:"advertise"`
	// Ready says that the node has joined a cluster that is formed; WaitingFor what
	// is missing, or what keeps the cluster from having a master, and WaitingReason the code
	// of it: docs/waiting.md has them.
	Ready         bool   `json:"ready"`
	WaitingFor    string `json:"waiting_for,omitempty"`
	WaitingReason string `json:"waiting_reason,omitempty"`

	View   View    `json:"view"`
	Master *Master `json:"master,omitempty"`
	// Provider and Registration are about the provider that grants mastership, the
	// first by name where two do.
	Provider     ProviderStatus     `json:"provider"`
	Registration RegistrationStatus `json:"registration"`
	Mastership   MastershipStatus   `json:"mastership"`

	// Providers are all that are configured: those that grant mastership, then the
	// others, each by name.
	Providers []ProviderUse `json:"providers"`
	// Degraded says that one of them fails, or does not list this node though it
	// should.
	Degraded bool `json:"degraded"`

	// Certificates are those that the agent shows, to others and to its providers;
	// missing without TLS.
	Certificates []Certificate `json:"certificates,omitempty"`

	// Proxies are the ports that follow the master; missing where there are none.
	Proxies []Proxy `json:"proxies,omitempty"`
}

// The uses of a certificate, beside the names of providers.
const (
	useNodes = "nodes"
	useHTTP  = "http"
)

// Certificate is one that the agent shows, and how its files are followed.
type Certificate struct {
	// Use is nodes, for the traffic between them, http, for the API, or the name of the
	// provider to which it is shown.
	Use string `json:"use"`
	// Expiry is the end of the certificate in force; missing where there are only
	// authorities that the other end is checked by.
	Expiry time.Time `json:"expiry,omitzero"`
	// Reloads counts the changes of its files and those of the authorities that came
	// into force.
	Reloads uint64 `json:"reloads"`
	// Error is why the files as they are now are not in force; what was before them is.
	Error string `json:"error,omitempty"`
}

func certificatesOf(states map[string]tlsfiles.State) []Certificate {
	var out []Certificate
	for _, use := range slices.Backward(slices.Sorted(maps.Keys(states))) {
		s := states[use]
		out = append(out, Certificate{Use: use, Expiry: s.Expiry, Reloads: s.Reloads, Error: text(s.Err)})
	}
	return out
}

// Advertise is the address that other nodes dial and how it is found.
type Advertise struct {
	Addr   string `json:"addr"`
	Source string `json:"source"`
	// Steps are those of the last attempt to find it: it is looked for again and again.
	Steps []AdvertiseStep `json:"steps"`
	// Reach says whether other members can dial it.
	Reach Reach `json:"reach"`
	// Error says why it was not found again, or that another was found. The address
	// stands.
	Error string `json:"error,omitempty"`
}

// Reach is whether other members can dial the node at its address.
type Reach struct {
	// State is alone, asking, reachable or unreachable.
	State string `json:"state"`
	// Node is the member that could, or could not.
	Node string `json:"node,omitempty"`
	// Reason says why it could not, or why there is no answer yet.
	Reason string `json:"reason,omitempty"`
}

// AdvertiseStep is one way of finding the address.
type AdvertiseStep struct {
	Name string `json:"name"`
	// Outcome is found, not_applicable or failed.
	Outcome string `json:"outcome"`
	Addr    string `json:"addr,omitempty"`
	// Reason says how it was found or why not.
	Reason string `json:"reason"`
}

// ProviderUse is one provider and what the agent has to do with it.
type ProviderUse struct {
	// The Error is that of the registration where reading goes well.
	ProviderStatus
	// Authority says that it grants mastership, alone or together with another.
	Authority bool `json:"authority"`
	// Registered says that it lists this node, and Off why it never does, as with a
	// static list.
	Registered bool   `json:"registered"`
	Off        string `json:"off,omitempty"`
	// Warning says what is wrong with the way to it although it works.
	Warning string `json:"warning,omitempty"`
}

// ProviderStatus is what the agent last heard from a provider.
type ProviderStatus struct {
	Name string `json:"name"`
	// Addr is where it is looked for, as configured and without passwords, with commas
	// between several; missing where it does not say.
	Addr string `json:"addr,omitempty"`
	// Known is false until the provider has answered once. Stale means that it
	// fails now, and that its last good answer is used.
	Known     bool   `json:"known"`
	Stale     bool   `json:"stale"`
	Instances int    `json:"instances"`
	Skipped   int    `json:"skipped"`
	Error     string `json:"error,omitempty"`
}

// RegistrationStatus says whether the node stands in the provider.
type RegistrationStatus struct {
	Registered bool `json:"registered"`
	// Off says why nothing is ever registered, as with a static list.
	Off   string `json:"off,omitempty"`
	Error string `json:"error,omitempty"`
}

// MastershipStatus is how the node stands to mastership.
type MastershipStatus struct {
	// State is follower, candidate, acquired, active or releasing.
	State string `json:"state"`
	// IsMaster was checked when the answer was made.
	IsMaster bool `json:"is_master"`
	// Have and Need are the members in sight and how many of them make a majority;
	// Need is 0 where no size is expected.
	Have int `json:"have"`
	Need int `json:"need"`
	// Warning is what an operator should fix.
	Warning string `json:"warning,omitempty"`
	Error   string `json:"error,omitempty"`
	// DrainTimeoutNS is how many nanoseconds the master's work has to end when mastership is given
	// up in good order.
	DrainTimeoutNS int64 `json:"drain_timeout_ns"`
	// Doubted counts what other nodes announced and was not believed; missing where there
	// was nothing.
	Doubted *Doubted `json:"doubted,omitempty"`
}

// Doubted counts announcements of other nodes, by what is wrong with them. They come from a
// node that is broken or hostile: the log names it.
type Doubted struct {
	// AbsurdTerms are of terms that no cluster can have come to, and ForeignClusters of
	// another cluster than the authority records. Both were ignored.
	AbsurdTerms     uint64 `json:"absurd_terms"`
	ForeignClusters uint64 `json:"foreign_clusters"`
	// Disputes are of this node's own mastership, which the authority then decided.
	Disputes uint64 `json:"disputes"`
}

func statusOf(s node.Status, isMaster bool) Status {
	out := Status{
		Cluster:       s.Cluster,
		NodeID:        s.NodeID,
		InstanceID:    s.InstanceID,
		Addr:          s.Advertised.Addr,
		AddrSource:    s.Advertised.Source,
		Advertise:     advertiseOf(s),
		Ready:         s.Ready,
		WaitingFor:    s.WaitingFor,
		WaitingReason: string(s.WaitingReason),
		View:          viewOf(s.View),
		Mastership: MastershipStatus{
			State:    s.Mastership.State.String(),
			IsMaster: isMaster,
			Have:     s.Mastership.Have,
			Need:     s.Mastership.Need,
			Warning:  s.View.Warning,
			Error:    text(s.Mastership.Err),
		},
	}
	if h := s.Mastership.Hearsay; h != (mastership.Hearsay{}) {
		out.Mastership.Doubted = &Doubted{AbsurdTerms: h.AbsurdTerms, ForeignClusters: h.ForeignClusters, Disputes: h.Disputes}
	}
	if s.View.Master != nil {
		m := masterOf(*s.View.Master)
		out.Master = &m
	}
	for i, p := range s.Providers {
		status, registration := providerOf(p), registrationOf(p)
		if i == 0 {
			out.Provider, out.Registration = status, registration
		}
		status.Error = cmp.Or(status.Error, registration.Error)
		out.Providers = append(out.Providers, ProviderUse{status, p.Authority, registration.Registered, registration.Off, p.Registration.Warning})
		out.Degraded = out.Degraded || !p.Well()
	}
	return out
}

func advertiseOf(s node.Status) Advertise {
	a := Advertise{Addr: s.Advertised.Addr, Source: s.Advertised.Source, Steps: []AdvertiseStep{}, Error: text(s.Explained.Err)}
	for _, step := range s.Explained.Steps {
		a.Steps = append(a.Steps, AdvertiseStep{Name: step.Name, Outcome: string(step.Outcome), Addr: step.Addr, Reason: step.Reason})
	}
	a.Reach = Reach{State: string(s.Reach.State), Node: s.Reach.Peer, Reason: s.Reach.Reason}
	if found := s.Explained.Addr; found != "" && found != s.Advertised.Addr {
		a.Error = "found at another address, " + found + ": the node ends if that stays so"
	}
	return a
}

func providerOf(p node.Provider) ProviderStatus {
	instances, known := p.Peers.Instances()
	return ProviderStatus{
		Name:      p.Name,
		Addr:      strings.Join(p.Addrs, ","),
		Known:     known,
		Stale:     p.Peers.Stale,
		Instances: len(instances),
		Skipped:   len(p.Peers.Skipped),
		Error:     text(p.Peers.Err),
	}
}

func registrationOf(p node.Provider) RegistrationStatus {
	return RegistrationStatus{
		Off:        p.Registration.Off,
		Registered: p.Registration.Registered(),
		Error:      text(p.Registration.Err()),
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
