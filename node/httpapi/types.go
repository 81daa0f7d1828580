// Package httpapi is the HTTP API of an agent: what it serves and what the
// command reads.
//
// The JSON is public. Names are snake_case; objects only ever gain fields, and
// readers ignore the ones that they do not know.
package httpapi

// Paths of the API. Each is read with GET.
const (
	PathStatus  = "/v1/status"
	PathMembers = "/v1/members" // an array of Member
	PathMaster  = "/v1/master"  // a Master, or status 404 and an Error
	PathView    = "/v1/view"    // a View
	PathEvents  = "/v1/events"  // server-sent events
	PathHealth  = "/healthz"
	PathReady   = "/readyz"
	PathMetrics = "/metrics"
)

// DefaultAddr is where an agent serves unless http.addr says otherwise.
const DefaultAddr = "127.0.0.1:7980"

// Member is one member of the cluster, as the agent that was asked sees it.
type Member struct {
	NodeID     string `json:"node_id"`
	InstanceID string `json:"instance_id"`
	// Addr is the HOST:PORT of the member's one port.
	Addr string            `json:"addr"`
	Zone string            `json:"zone"`
	Tags []string          `json:"tags"`
	Meta map[string]string `json:"meta"`
	// AppAddrs are the addresses of the application's own ports, by name.
	AppAddrs map[string]string `json:"app_addrs,omitempty"`
	// Version is that of the member's software.
	Version string `json:"version,omitempty"`
	// Authorities names the providers that grant the member mastership: all of them
	// must. It is missing where the member is never granted.
	Authorities []string `json:"authorities,omitempty"`
	// State is that of membership: "alive", "left" or "dead".
	State string `json:"state"`
	// Self marks the agent that was asked.
	Self bool `json:"self"`
	// Master marks the member that the agent knows as master.
	Master bool `json:"master"`
}

// Master is the master of the cluster, as the agent that was asked knows it.
type Master struct {
	NodeID     string `json:"node_id"`
	InstanceID string `json:"instance_id"`
	Addr       string `json:"addr"`
	// AppAddrs are what clients of the master dial, by name.
	AppAddrs map[string]string `json:"app_addrs"`
	// Term counts masterships of the cluster from 1 and is the fencing token.
	Term      uint64 `json:"term"`
	ClusterID string `json:"cluster_id"`
}

// View is the membership that one agent sees, and what it knows of mastership.
type View struct {
	// Seq counts the changes that this agent has seen. Those of different agents
	// cannot be compared.
	Seq uint64 `json:"seq"`
	// Term is the last one that the agent knows, 0 if there was none.
	Term uint64 `json:"term"`
	// ClusterID is empty until the cluster has had its first master.
	ClusterID string `json:"cluster_id"`
	// Majority reports whether the agent sees a majority of the cluster's size.
	Majority bool `json:"majority"`
	// Warning is what an operator should mend about mastership, missing where there
	// is nothing.
	Warning string   `json:"warning,omitempty"`
	Members []Member `json:"members"`
	// Departed are members that left or died a short while ago.
	Departed []Member `json:"departed"`
}

// Error is the body of every answer whose status is not 2xx.
type Error struct {
	// Error is one line for a person.
	Error string `json:"error"`
}
