package httpapi

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// collector reads the node's counters when it is scraped, so that nothing is
// counted twice and nothing is kept up to date for nobody.
type collector struct {
	node         *node.Node
	certificates func() map[string]driver.TLSState
}

// oneAtATime has those who ask for the metrics wait for each other while they are gathered,
// which takes a goroutine for each collector, so that a flood of them costs what one does.
// Nobody waits for one that does not read its answer.
func oneAtATime(metrics prometheus.Gatherer) prometheus.Gatherer {
	var gathering sync.Mutex
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		gathering.Lock()
		defer gathering.Unlock()
		return metrics.Gather()
	})
}

func newCollector(n *node.Node, certificates func() map[string]driver.TLSState) prometheus.Collector {
	return collector{n, certificates}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("muster_"+name, help, labels, nil)
}

var (
	infoDesc = describe("node_info", "Always 1; the labels say which node this is.",
		"cluster", "node_id", "instance_id", "addr", "provider")
	reachableDesc = describe("advertised_reachable", "1 if a member has found the node at the address that it advertises, 0 if those that were asked did not; missing where none has answered.")
	readyDesc     = describe("node_ready", "1 if the node has joined a cluster that is formed.")
	membersDesc   = describe("members", "Members by state; those that departed count for a few minutes.", "state")
	majorityDesc  = describe("majority", "1 if a majority of the expected members is in sight, or none is expected.")

	stateDesc       = describe("mastership_state", "1 for the state that the node is in, 0 for the others.", "state")
	termDesc        = describe("mastership_term", "The highest term heard of.")
	masterDesc      = describe("mastership_is_master", "1 if this node is master.")
	masterKnownDesc = describe("mastership_master_known", "1 if the node knows a master.")
	warningDesc     = describe("mastership_warning", "1 if there is something that an operator should mend; /v1/status says what.")
	transitionsDesc = describe("mastership_transitions_total", "Beginnings and ends of this node's masterships.")
	renewalsDesc    = describe("mastership_renewals_total", "Renewals by outcome.", "outcome")
	latencyDesc     = describe("mastership_renewal_seconds", "Time from sending a renewal to its success.")

	providerCallsDesc   = describe("provider_calls_total", "Calls to the provider by operation.", "provider", "operation")
	providerErrorsDesc  = describe("provider_errors_total", "Failed calls to the provider by kind of error.", "provider", "kind")
	providerStaleDesc   = describe("provider_stale", "1 while the provider fails and the last good set of peers is used, or none is known.", "provider")
	providerPeersDesc   = describe("provider_instances", "Instances that the provider last showed.", "provider")
	providerSkippedDesc = describe("provider_skipped_total", "Entries of the provider that could not be read.", "provider")
	watchRestartsDesc   = describe("provider_watch_restarts_total", "Watches of the provider that broke and were begun again.", "provider")

	providerAuthorityDesc = describe("provider_authority", "1 if the provider grants mastership, alone or together with another.", "provider")

	registeredDesc         = describe("registered", "1 if the node's registration stands.", "provider", "service")
	registrationsDesc      = describe("registrations_total", "Times that the node came to be registered.", "provider")
	repairsDesc            = describe("registration_repairs_total", "Registrations that were put back while the session stood.", "provider")
	sessionsLostDesc       = describe("registration_sessions_lost_total", "Sessions that the provider ended.", "provider")
	registrationErrorsDesc = describe("registration_errors_total", "Failed calls to keep the node registered.", "provider")

	connectionsDesc = describe("link_connections", "Open connections of the one port by direction.", "direction")
	acceptedDesc    = describe("link_accepted_total", "Accepted connections by protocol.", "protocol")
	rejectedDesc    = describe("link_rejected_total", "Connections that were turned away, by reason.", "reason")
	dialsDesc       = describe("link_dials_total", "Dials by outcome.", "outcome")
	packetsDesc     = describe("link_packets_total", "Gossip packets by direction.", "direction")
	bytesDesc       = describe("link_bytes_total", "Bytes of gossip by direction.", "direction")
	queueDropsDesc  = describe("link_queue_drops_total", "Gossip packets dropped because a peer's queue was full.")
	droppedDesc     = describe("link_dropped_total", "Gossip packets that could not be sent, for whatever reason.")

	certificateExpiryDesc  = describe("certificate_expiry_timestamp_seconds", "End of the certificate in force, in Unix time, by use.", "use")
	certificateReloadsDesc = describe("certificate_reloads_total", "Changes of the certificate, or of the authorities, that came into force, by use.", "use")
	certificateStaleDesc   = describe("certificate_reload_failing", "1 while the files cannot be used as they are and the last good ones are, by use.", "use")

	joinsDesc   = describe("membership_joins_total", "Dials of the merge loop by outcome.", "outcome")
	refusedDesc = describe("membership_refused_total", "Strangers turned away by reason.", "reason")
	healthDesc  = describe("membership_health_score", "0 where the node keeps up, up to 7 where it does not.")
)

// errorKinds are those of discovery.Kind.
var errorKinds = []string{"unavailable", "denied", "invalid", "not_found", "conflict", "unsupported"}

// Describe sends nothing: the metrics differ with what was counted, and the
// registry checks them as they come.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.node.Status()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}

	gauge(infoDesc, 1, s.Cluster, s.NodeID, s.InstanceID, s.Advertised.Addr, s.Providers[0].Name)
	gauge(readyDesc, one(s.Ready))
	if s.Reach.State == node.Reachable || s.Reach.State == node.Unreachable {
		gauge(reachableDesc, one(s.Reach.State == node.Reachable))
	}
	for state, n := range s.Membership.Members {
		gauge(membersDesc, float64(n), string(state))
	}
	gauge(majorityDesc, one(s.View.Majority))

	m := s.Mastership
	for state := mastership.Follower; state <= mastership.Releasing; state++ {
		gauge(stateDesc, one(state == m.State), state.String())
	}
	gauge(termDesc, float64(m.MaxTerm))
	gauge(masterDesc, one(c.node.IsMaster()))
	gauge(masterKnownDesc, one(s.View.Master != nil))
	gauge(warningDesc, one(s.View.Warning != ""))
	counter(transitionsDesc, m.Transitions)
	counter(renewalsDesc, m.Renewals, "ok")
	counter(renewalsDesc, m.RenewalFailures, "failed")
	out <- prometheus.MustNewConstHistogram(latencyDesc,
		m.RenewalLatency.Count, m.RenewalLatency.Sum.Seconds(), m.RenewalLatency.Cumulative())

	for _, p := range s.Providers {
		gauge(providerAuthorityDesc, one(p.Authority), p.Name)
		for operation, n := range p.Discovery.Calls {
			counter(providerCallsDesc, n, p.Name, operation)
		}
		for _, kind := range errorKinds { // those that have not happened yet, too: a rate wants a 0 to start from
			counter(providerErrorsDesc, p.Discovery.Errors[kind], p.Name, kind)
		}
		gauge(providerStaleDesc, one(stale(p.Peers)), p.Name)
		gauge(providerPeersDesc, float64(len(p.Peers.Instances)), p.Name)
		counter(providerSkippedDesc, p.Discovery.Skipped, p.Name)
		counter(watchRestartsDesc, p.Discovery.WatchRestarts, p.Name)

		for _, i := range p.Registration.Instances {
			gauge(registeredDesc, one(i.Registered), p.Name, i.Instance.Service)
		}
		r := p.Registration.Counters
		counter(registrationsDesc, r.Registrations, p.Name)
		counter(repairsDesc, r.Repairs, p.Name)
		counter(sessionsLostDesc, r.SessionsLost, p.Name)
		counter(registrationErrorsDesc, r.OpenErrors+r.RenewErrors+r.RegisterErrors+r.DeregisterErrors, p.Name)
	}

	gauge(connectionsDesc, float64(s.Link.Inbound), "in")
	gauge(connectionsDesc, float64(s.Link.Outbound), "out")
	for protocol, n := range s.Link.Accepted {
		counter(acceptedDesc, n, protocol)
	}
	for reason, n := range s.Link.Rejected {
		counter(rejectedDesc, n, string(reason))
	}
	counter(dialsDesc, s.Link.DialSuccesses, "ok")
	counter(dialsDesc, s.Link.DialFailures, "failed")
	counter(packetsDesc, s.Link.PacketsSent, "out")
	counter(packetsDesc, s.Link.PacketsReceived, "in")
	counter(bytesDesc, s.Link.BytesSent, "out")
	counter(bytesDesc, s.Link.BytesReceived, "in")
	counter(queueDropsDesc, s.Link.QueueDrops)
	counter(droppedDesc, s.Link.PacketsDropped)

	for use, state := range c.certificates() {
		if !state.Expiry.IsZero() {
			gauge(certificateExpiryDesc, float64(state.Expiry.Unix()), use)
		}
		counter(certificateReloadsDesc, state.Reloads, use)
		gauge(certificateStaleDesc, one(state.Err != nil), use)
	}

	counter(joinsDesc, s.Membership.Joins, "ok")
	counter(joinsDesc, s.Membership.JoinFailures, "failed")
	for reason, n := range s.Membership.Refused {
		counter(refusedDesc, n, reason)
	}
	gauge(healthDesc, float64(s.Membership.Health))
}

func stale(s discovery.Snapshot) bool { return s.Stale || !s.Known }

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
