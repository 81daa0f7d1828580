package httpapi

import (
	"github.com/musterhq/muster/node"
)

// Status is what an agent says about itself.
type Status struct {
	Cluster    string `json:"cluster"`
	NodeID     string `json:"node_id"`
	InstanceID string `json:"instance_id"`
	// Addr is the HOST:PORT that other nodes dial, and AddrSource how it was found.
	Addr       string `json:"addr"`
	AddrSource string `json:"addr_source"`
	// Ready says that the node has joined a cluster that is formed; WaitingFor what
	// is missing, or what keeps the cluster from having a master.
	Ready      bool   `json:"ready"`
	WaitingFor string `json:"waiting_for,omitempty"`

	View         View               `json:"view"`
	Master       *Master            `json:"master,omitempty"`
	Provider     ProviderStatus     `json:"provider"`
	Registration RegistrationStatus `json:"registration"`
	Mastership   MastershipStatus   `json:"mastership"`
}

// ProviderStatus is what the agent last heard from its provider.
type ProviderStatus struct {
	Name string `json:"name"`
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
	// Warning is what an operator should mend.
	Warning string `json:"warning,omitempty"`
	Error   string `json:"error,omitempty"`
}

func statusOf(s node.Status, isMaster bool) Status {
	out := Status{
		Cluster:    s.Cluster,
		NodeID:     s.NodeID,
		InstanceID: s.InstanceID,
		Addr:       s.Advertised.Addr,
		AddrSource: s.Advertised.Source,
		Ready:      s.Ready,
		WaitingFor: s.WaitingFor,
		View:       viewOf(s.View),
		Provider: ProviderStatus{
			Name:      s.Provider,
			Known:     s.Peers.Known,
			Stale:     s.Peers.Stale,
			Instances: len(s.Peers.Instances),
			Skipped:   len(s.Peers.Skipped),
			Error:     text(s.Peers.Err),
		},
		Registration: RegistrationStatus{
			Off:        s.Registration.Off,
			Registered: s.Registration.Registered(),
			Error:      text(s.Registration.Err()),
		},
		Mastership: MastershipStatus{
			State:    s.Mastership.State.String(),
			IsMaster: isMaster,
			Have:     s.Mastership.Have,
			Need:     s.Mastership.Need,
			Warning:  s.View.Warning,
			Error:    text(s.Mastership.Err),
		},
	}
	if s.View.Master != nil {
		m := masterOf(*s.View.Master)
		out.Master = &m
	}
	return out
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
