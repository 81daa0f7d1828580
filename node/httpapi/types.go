// Package httpapi is the HTTP API of an agent: what it serves and what the
// command reads.
//
// The JSON is public. Names are snake_case; objects only ever gain fields, and
// readers ignore the ones that they do not know.
package httpapi

// Paths of the API. Each is read with GET, but for those that change something: they
// want POST, with the content type application/json.
const (
	PathStatus  = "/v1/status"
	PathMembers = "/v1/members" // an array of Member
	PathMaster  = "/v1/master"  // a Master, or status 404 and an Error
	PathView    = "/v1/view"    // a View
	PathVoters  = "/v1/voters"  // Voters, or status 404 and an Error where there are none
	PathEvents  = "/v1/events"  // server-sent events
	PathHistory = "/v1/history" // lines of package node/history
	PathHealth  = "/healthz"
	PathReady   = "/readyz"
	PathMetrics = "/metrics"

	PathIsMaster   = "/v1/is-master"  // status 200 or 503
	PathMastership = "/v1/mastership" // server-sent events, or one Mastership

	PathUpgrades    = "/v1/upgrades"      // an array of upgrade.Status
	PathUpgradeWait = "/v1/upgrades/wait" // server-sent events

	PathJobs      = "/v1/jobs"        // an array of Job
	PathJobRuns   = "/v1/jobs/runs"   // an array of cron.RunStatus
	PathJobOutput = "/v1/jobs/output" // what a run has written

	PathJobAdd     = "/v1/jobs/add"    // a Job, as the others
	PathJobRemove  = "/v1/jobs/remove" // a Removed
	PathJobTrigger = "/v1/jobs/trigger"
	PathJobPause   = "/v1/jobs/pause"
	PathJobResume  = "/v1/jobs/resume"

	PathHold           = "/v1/mastership/hold"  // server-sent events
	PathAlive          = "/v1/mastership/alive" // an Alive
	PathDone           = "/v1/mastership/done"
	PathUpgradeRun     = "/v1/upgrades/run"     // server-sent events
	PathUpgradeRetry   = "/v1/upgrades/retry"   // an upgrade.Status
	PathUpgradeResolve = "/v1/upgrades/resolve" // an upgrade.Status
	PathResign         = "/v1/resign"           // a Resigned
	PathLeave          = "/v1/leave"            // a Left
	PathReload         = "/v1/reload"           // a Reloaded

	PathCall        = "/v1/call"         // an array of CallReply: see Call
	PathCallConnect = "/v1/call/connect" // a connection of plain gRPC: see CallProtocol
)

// Resigned is the answer to PathResign: the node has given mastership up.
type Resigned struct {
	NodeID string `json:"node_id"`
	Term   uint64 `json:"term"`
}

// Left is the answer to PathLeave: the node has left, and its agent ends.
type Left struct {
	NodeID string `json:"node_id"`
}

// Reloaded is the answer to PathReload. Keys are those of the configuration, as log.level.
type Reloaded struct {
	// Applied are the keys that have changed and are in force.
	Applied []string `json:"applied"`
	// Restart are those that have changed and want another start: where there is any, the
	// agent leaves in good order after this answer.
	Restart []string `json:"restart"`
}

// PathFoundVoters has the agent found a cluster without the voters that do not answer, with
// POST and Content-Type application/json. Its answer is Voters.
const PathFoundVoters = "/v1/voters/found"

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
	// ValidNS is for how many nanoseconds more the master may act, if it does not renew its
	// grant. Only the master itself knows: missing if the agent that was asked is not the master.
	ValidNS int64 `json:"valid_ns,omitempty"`
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
	// Warning is what an operator should fix about mastership, missing where there
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
	// Reason is the code of what is waited for, of PathReady and PathMaster: see
	// Status.WaitingReason.
	Reason string `json:"reason,omitempty"`
}
