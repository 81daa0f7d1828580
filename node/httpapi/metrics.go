package httpapi

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/buildinfo"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/node/upgrade"
	"github.com/musterhq/muster/tlsfiles"
)

// collector reads the node's counters when it is scraped, so that nothing is
// counted twice and nothing is kept up to date in vain.
type collector struct {
	node         *node.Node
	certificates func() map[string]tlsfiles.State
	proxies      func() []Proxy
	jobs         func() map[string]cron.NodeStatus
	steps        func() []upgrade.Status
	holds        *holds
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

func newCollector(s *server) prometheus.Collector {
	return collector{s.node, s.certificates, s.options.proxies, s.localJobs, s.options.steps, &s.holds}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("muster_"+name, help, labels, nil)
}

var (
	infoDesc = describe("node_info", "Always 1; the labels say which node this is.",
		"cluster", "node_id", "instance_id", "addr", "provider")
	buildDesc     = describe("build_info", "Always 1; the labels say which version of muster runs.", "version", "revision", "goversion")
	reachableDesc = describe("advertised_reachable", "1 if a member has found the node at the address that it advertises, 0 if those that were asked did not; missing if none has answered.")
	readyDesc     = describe("node_ready", "1 if the node has joined a cluster that is formed.")
	waitingDesc   = describe("waiting", "1 for what the node waits for, or what keeps its cluster from having a master, 0 for all other reasons; docs/waiting.md has them.", "reason")
	membersDesc   = describe("members", "Members by state; those that departed count for a few minutes.", "state")
	majorityDesc  = describe("majority", "1 if a majority of the expected members is seen, or none is expected.")

	stateDesc       = describe("mastership_state", "1 for the state that the node is in, 0 for the others.", "state")
	termDesc        = describe("mastership_term", "The highest term that the authority has shown, or in which a master was named.")
	masterDesc      = describe("mastership_is_master", "1 if this node is master.")
	masterKnownDesc = describe("mastership_master_known", "1 if the node knows a master.")
	masterForDesc   = describe("mastership_active_seconds", "Seconds since this node became master, 0 if it is not.")
	warningDesc     = describe("mastership_warning", "1 if there is something that an operator should fix; /v1/status says what.")
	transitionsDesc = describe("mastership_transitions_total", "Beginnings and ends of this node's masterships.")
	renewalsDesc    = describe("mastership_renewals_total", "Renewals by outcome.", "outcome")
	hearsayDesc     = describe("mastership_announcements_doubted_total", "Announcements of other nodes that were not believed: of a term that no cluster can have come to, or of another cluster; or that disputed this node's mastership, which the authority then decided.", "reason")
	latencyDesc     = describe("mastership_renewal_seconds", "Time from sending a renewal to its success.")
	votersDesc      = describe("voters", "Voters whose votes count; missing if no provider of the node has voters.")
	reachedDesc     = describe("voters_reached", "Those of the voters that have answered this node when it asked last, itself included.")

	providerCallsDesc   = describe("provider_calls_total", "Calls to the provider by operation.", "provider", "operation")
	providerErrorsDesc  = describe("provider_errors_total", "Failed calls to the provider by kind of error.", "provider", "kind")
	providerStaleDesc   = describe("provider_stale", "1 while the provider fails and the last good set of peers is used, or none is known.", "provider")
	providerPeersDesc   = describe("provider_instances", "Instances that the provider last showed.", "provider")
	providerAgeDesc     = describe("provider_read_timestamp_seconds", "When the provider was last read, or its watch reported a change, in Unix time; missing until it was.", "provider")
	providerSkippedDesc = describe("provider_skipped_total", "Entries of the provider that could not be read.", "provider")
	watchRestartsDesc   = describe("provider_watch_restarts_total", "Watches of the provider that broke and were begun again.", "provider")

	providerAuthorityDesc = describe("provider_authority", "1 if the provider grants mastership, alone or together with another.", "provider")

	registeredDesc         = describe("registered", "1 if the node's registration stands; missing if the provider takes none.", "provider", "service")
	registrationsDesc      = describe("registrations_total", "Times that the node came to be registered.", "provider")
	repairsDesc            = describe("registration_repairs_total", "Registrations that were put back while the session stood.", "provider")
	sessionsLostDesc       = describe("registration_sessions_lost_total", "Sessions that the provider ended.", "provider")
	registrationErrorsDesc = describe("registration_errors_total", "Failed calls to keep the node registered.", "provider")

	connectionsDesc = describe("link_connections", "Open connections of the one port by direction.", "direction")
	acceptedDesc    = describe("link_accepted_total", "Accepted connections by protocol.", "protocol")
	rejectedDesc    = describe("link_rejected_total", "Connections that were rejected, by reason.", "reason")
	dialsDesc       = describe("link_dials_total", "Dials by outcome.", "outcome")
	packetsDesc     = describe("link_packets_total", "Gossip packets by direction.", "direction")
	bytesDesc       = describe("link_bytes_total", "Bytes of gossip by direction.", "direction")
	queueDropsDesc  = describe("link_queue_drops_total", "Gossip packets dropped because a peer's queue was full.")
	droppedDesc     = describe("link_dropped_total", "Gossip packets that could not be sent, for whatever reason.")

	certificateExpiryDesc  = describe("certificate_expiry_timestamp_seconds", "End of the certificate in force, in Unix time, by use.", "use")
	certificateReloadsDesc = describe("certificate_reloads_total", "Changes of the certificate, or of the authorities, that came into force, by use.", "use")
	certificateStaleDesc   = describe("certificate_reload_failing", "1 while the files cannot be used as they are and the last good ones are, by use.", "use")

	proxyOpenDesc      = describe("proxy_connections", "Connections of clients that a proxy has open, those that wait for a master among them.", "listen", "app")
	proxyForwardedDesc = describe("proxy_forwarded_total", "Connections that were forwarded to a master.", "listen", "app")
	proxyRefusedDesc   = describe("proxy_refused_total", "Connections that were reset, since there were too many, no master was known, it has no such address, or it could not be dialed.", "listen", "app", "reason")
	proxyBytesDesc     = describe("proxy_bytes_total", "Bytes to the masters and from them, by direction.", "listen", "app", "direction")

	holdsDesc = describe("holds", "Other processes that do the master's work by this agent, or wait for it, as muster while-master and upgrade run.")
	stepsDesc = describe("steps", "Steps of upgrades that are recorded, the latest one of each name, by state.", "state")

	jobRunningDesc = describe("job_running", "Runs of a job that go on here.", "name")
	jobRunsDesc    = describe("job_runs_total", "Runs of a job that have ended here, by outcome: done, failed or interrupted.", "name", "outcome")
	jobMissedDesc  = describe("job_missed_total", "Times of a job's schedule that were left out here, by its policy, or since it still ran; several in a row count once.", "name")
	jobNextDesc    = describe("job_next_timestamp_seconds", "When a job is due next, on whatever node it runs, in Unix time; missing if it is never, or paused.", "name")
	jobFailedDesc  = describe("job_last_run_failed", "1 if the last run of a job has failed or was interrupted; missing on nodes that do not run it.", "name")
	jobLastDesc    = describe("job_last_run_timestamp_seconds", "When the last run of a job has ended, in Unix time; missing on nodes that do not run it.", "name")

	joinsDesc   = describe("membership_joins_total", "Dials of the merge loop by outcome.", "outcome")
	refusedDesc = describe("membership_refused_total", "Members and gossip that were rejected, by reason.", "reason")
	healthDesc  = describe("membership_health_score", "0 if the node keeps up, up to 7 if it does not.")
)

// errorKinds are those of discovery.Kind.
var errorKinds = []string{"unavailable", "denied", "invalid", "not_found", "conflict", "closed", "unsupported"}

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
	build := buildinfo.Read()
	gauge(buildDesc, 1, build.Version, build.Revision, build.Go)
	gauge(readyDesc, one(s.Ready))
	for _, reason := range node.WaitReasons() {
		gauge(waitingDesc, one(reason == s.WaitingReason), string(reason))
	}
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
	active := 0.0
	if m.State == mastership.Active {
		active = (time.Duration(clock.Now()) - m.Since).Seconds()
	}
	gauge(masterForDesc, max(active, 0))
	gauge(masterKnownDesc, one(s.View.Master != nil))
	gauge(warningDesc, one(s.View.Warning != ""))
	counter(transitionsDesc, m.Transitions)
	counter(renewalsDesc, m.Renewals, "ok")
	counter(renewalsDesc, m.RenewalFailures, "failed")
	counter(hearsayDesc, m.Hearsay.AbsurdTerms, "absurd_term")
	counter(hearsayDesc, m.Hearsay.ForeignClusters, "foreign_cluster")
	counter(hearsayDesc, m.Hearsay.Disputes, "dispute")
	out <- prometheus.MustNewConstHistogram(latencyDesc,
		m.RenewalLatency.Count, m.RenewalLatency.Sum.Seconds(), m.RenewalLatency.Cumulative())

	if v, ok := c.node.Voters(); ok {
		voters, reached := 0, 0
		for _, voter := range v.Voters {
			if voter.Votes {
				voters++
				if voter.Reached {
					reached++
				}
			}
		}
		gauge(votersDesc, float64(voters))
		gauge(reachedDesc, float64(reached))
	}

	for _, p := range s.Providers {
		gauge(providerAuthorityDesc, one(p.Authority), p.Name)
		for operation, n := range p.Discovery.Calls {
			counter(providerCallsDesc, n, p.Name, operation)
		}
		for _, kind := range errorKinds { // those that have not happened yet, too: a rate wants a 0 to start from
			counter(providerErrorsDesc, p.Discovery.Errors[kind], p.Name, kind)
		}
		gauge(providerStaleDesc, one(stale(p.Peers)), p.Name)
		peers, _ := p.Peers.Instances()
		gauge(providerPeersDesc, float64(len(peers)), p.Name)
		if p.Peers.Known {
			gauge(providerAgeDesc, float64(p.Peers.At.UnixMilli())/1000, p.Name)
		}
		counter(providerSkippedDesc, p.Discovery.Skipped, p.Name)
		counter(watchRestartsDesc, p.Discovery.WatchRestarts, p.Name)

		if p.Registration.Off == "" { // otherwise it never stands, and nobody wants to be told
			for _, i := range p.Registration.Instances {
				gauge(registeredDesc, one(i.Registered), p.Name, i.Instance.Service)
			}
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
		counter(rejectedDesc, n, reason)
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

	for _, p := range c.proxies() {
		gauge(proxyOpenDesc, float64(p.Connections), p.Listen, p.App)
		counter(proxyForwardedDesc, p.Forwarded, p.Listen, p.App)
		for reason, n := range p.Refused {
			counter(proxyRefusedDesc, n, p.Listen, p.App, reason)
		}
		counter(proxyBytesDesc, p.SentBytes, p.Listen, p.App, "out")
		counter(proxyBytesDesc, p.ReceivedBytes, p.Listen, p.App, "in")
	}

	gauge(holdsDesc, float64(c.holds.count()))
	byState := map[upgrade.State]int{upgrade.Free: 0, upgrade.Running: 0, upgrade.Done: 0, upgrade.Failed: 0, upgrade.Interrupted: 0, upgrade.Unreadable: 0}
	for _, step := range c.steps() {
		byState[step.State]++
	}
	for state, n := range byState {
		gauge(stepsDesc, float64(n), string(state))
	}
	for name, j := range c.jobs() {
		if j.Problem != "" {
			continue
		}
		gauge(jobRunningDesc, float64(j.Running), name)
		counter(jobRunsDesc, j.Done, name, "done")
		counter(jobRunsDesc, j.Failed, name, "failed")
		counter(jobRunsDesc, j.Interrupted, name, "interrupted")
		counter(jobMissedDesc, j.Missed, name)
		if !j.Next.IsZero() {
			gauge(jobNextDesc, float64(j.Next.UnixMilli())/1000, name)
		}
		if l := j.Last; l != nil && l.State != cron.Running {
			gauge(jobFailedDesc, one(l.State != cron.Done), name)
			gauge(jobLastDesc, float64(l.Ended.UnixMilli())/1000, name)
		}
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
