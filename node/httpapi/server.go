package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/routes"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/upgrade"
	"github.com/musterhq/muster/tlsfiles"
)

// defaultStreams is Options.MaxStreams where that is 0.
const defaultStreams = 64

// New returns the API of a node for every client that can reach it. Serve it where only
// those clients can that may know the cluster, or use NewWith. A route of POST
// changes something, and is not for every client.
func New(n *node.Node) http.Handler { return NewWith(n, Options{}) }

// NewWith returns the API of a node for those who show what o demands. Serve it with
// NewServer, which bounds what a client can cost.
func NewWith(n *node.Node, o Options) http.Handler {
	s := &server{node: n, options: o, streams: make(chan struct{}, cmp.Or(o.MaxStreams, defaultStreams))}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(newCollector(s), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	return o.Protect(s.routes(promhttp.HandlerFor(oneAtATime(metrics), promhttp.HandlerOpts{})).Handler())
}

// routes are all that the API serves.
func (s *server) routes(metrics http.Handler) routes.Table {
	return routes.Table{
		{Method: http.MethodGet, Path: PathStatus, Serve: s.status},
		{Method: http.MethodGet, Path: PathMembers, Serve: s.members},
		{Method: http.MethodGet, Path: PathMaster, Serve: s.master},
		{Method: http.MethodGet, Path: PathIsMaster, Serve: s.isMaster},
		{Method: http.MethodGet, Path: PathMastership, Serve: s.mastership, Stream: true, ContentType: eventStream},
		{Method: http.MethodGet, Path: PathView, Serve: s.view},
		{Method: http.MethodGet, Path: PathVoters, Serve: s.voters},
		{Method: http.MethodPost, Path: PathFoundVoters, Serve: s.operation(s.foundVoters, statusOfFounding)},
		{Method: http.MethodGet, Path: PathEvents, Serve: s.events, Stream: true, ContentType: eventStream},
		{Method: http.MethodGet, Path: PathHistory, Serve: s.history},
		{Method: http.MethodGet, Path: PathUpgrades, Serve: s.upgrades},
		{Method: http.MethodGet, Path: PathUpgradeWait, Serve: s.waitUpgrade, Stream: true, ContentType: eventStream},
		{Method: http.MethodGet, Path: PathJobs, Serve: s.jobs},
		{Method: http.MethodGet, Path: PathJobRuns, Serve: s.jobRuns},
		{Method: http.MethodGet, Path: PathJobOutput, Serve: s.jobOutput},
		{Method: http.MethodGet, Path: PathHealth, Serve: s.health},
		{Method: http.MethodGet, Path: PathReady, Serve: s.ready},
		{Method: http.MethodGet, Path: PathMetrics, Serve: metrics.ServeHTTP},

		{Method: http.MethodPost, Path: PathHold, Serve: s.hold},
		{Method: http.MethodPost, Path: PathAlive, Serve: s.alive},
		{Method: http.MethodPost, Path: PathDone, Serve: s.done},
		{Method: http.MethodPost, Path: PathUpgradeRun, Serve: s.runUpgrade},
		{Method: http.MethodPost, Path: PathUpgradeRetry, Serve: s.amendUpgrade(upgrade.Retry)},
		{Method: http.MethodPost, Path: PathUpgradeResolve, Serve: s.resolveUpgrade},
		{Method: http.MethodPost, Path: PathJobAdd, Serve: s.changeJob(s.addJob)},
		{Method: http.MethodPost, Path: PathJobRemove, Serve: s.changeJob(s.removeJob)},
		{Method: http.MethodPost, Path: PathJobTrigger, Serve: s.changeJob(s.editJob(cron.Trigger))},
		{Method: http.MethodPost, Path: PathJobPause, Serve: s.changeJob(s.editJob(cron.Pause))},
		{Method: http.MethodPost, Path: PathJobResume, Serve: s.changeJob(s.editJob(cron.Resume))},
		{Method: http.MethodPost, Path: PathResign, Serve: s.operation(s.resign, statusOfOperation)},
		{Method: http.MethodPost, Path: PathLeave, Serve: s.operation(s.leave, statusOfOperation)},
		{Method: http.MethodPost, Path: PathReload, Serve: s.operation(s.reload, statusOfOperation)},
		{Method: http.MethodPost, Path: PathCall, Serve: s.call},
		{Method: http.MethodPost, Path: PathCallConnect, Serve: s.connect},
	}
}

// historyType is the type of a history: lines of JSON.
const historyType = "application/jsonl"

// history answers with the last records, which it holds back for no slow client: NewServer bounds
// how long that may take.
func (s *server) history(w http.ResponseWriter, r *http.Request) {
	if s.options.History == nil {
		routes.WriteError(w, http.StatusNotFound, errors.New("this node keeps no history"))
		return
	}
	w.Header().Set("Content-Type", historyType)
	if r.Method != http.MethodHead {
		_, _ = s.options.History.WriteTo(w) // the client may be gone
	}
}

// operationTimeout bounds what an operator asks for, beside the end of the master's work. A node
// leaves within less.
const operationTimeout = 20 * time.Second

// operationContext is for something that an operator asked for. It goes on where the client does
// not wait for it, and has the time that the master's work may take to end: twice, as each step of
// leaving has half of what is left.
func (s *server) operationContext(w http.ResponseWriter, r *http.Request) (context.Context, context.CancelFunc) {
	bound := operationTimeout + 2*s.node.DrainTimeout()
	// A server that cannot extend the time to write ends the connection, and no operation.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(bound + writeTimeout - operationTimeout))
	return context.WithTimeout(context.WithoutCancel(r.Context()), bound)
}

// conflict is an error of a request that does not go with the state of the node.
type conflict struct{ error }

func statusOfOperation(err error) int {
	if wrong := (conflict{}); errors.As(err, &wrong) {
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

// operation serves what changes something to those who may ask for it. A failure is answered
// with the status that statusOf says.
func (s *server) operation(do func(context.Context) (any, error), statusOf func(error) int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if status, err := s.options.operable(r); err != nil {
			routes.WriteError(w, status, err)
			return
		}
		ctx, cancel := s.operationContext(w, r)
		defer cancel()
		answer, err := do(ctx)
		if err != nil {
			routes.WriteError(w, statusOf(err), err)
			return
		}
		routes.WriteJSON(w, http.StatusOK, answer)
	}
}

func (s *server) resign(ctx context.Context) (any, error) {
	proof, err := s.node.Check()
	if err != nil {
		return nil, conflict{err} // which names the master, where one is known
	}
	if err := s.node.Resign(ctx); err != nil {
		return nil, fmt.Errorf("node %s: resigning: %w", s.node.ID(), err)
	}
	return Resigned{NodeID: s.node.ID(), Term: uint64(proof.Term)}, nil
}

func (s *server) leave(ctx context.Context) (any, error) {
	if err := s.options.Operator.Leave(ctx); err != nil {
		return nil, fmt.Errorf("node %s: leaving: %w", s.node.ID(), err)
	}
	return Left{NodeID: s.node.ID()}, nil
}

func (s *server) reload(ctx context.Context) (any, error) {
	r, err := s.options.Operator.Reload(ctx)
	r.Applied, r.Restart = orEmpty(r.Applied), orEmpty(r.Restart)
	return r, err
}

type server struct {
	node    *node.Node
	options Options
	// streams has an element for each stream of events that is read.
	streams chan struct{}
	holds   holds
}

// certificates returns the states of the TLS configurations that there are, by use.
func (s *server) certificates() map[string]tlsfiles.State {
	states := make(map[string]tlsfiles.State)
	status := s.node.Status()
	if status.TLS != nil {
		states[useNodes] = *status.TLS
	}
	for _, p := range status.Providers {
		if p.TLS != nil {
			states[p.Name] = *p.TLS
		}
	}
	if s.options.TLS != nil {
		states[useHTTP] = s.options.TLS.State()
	}
	return states
}

func (s *server) members(w http.ResponseWriter, _ *http.Request) {
	view := s.node.View()
	routes.WriteJSON(w, http.StatusOK, membersOf(view.Members, view.Master))
}

func (s *server) master(w http.ResponseWriter, _ *http.Request) {
	status := s.node.Status()
	if status.View.Master == nil {
		routes.WriteJSON(w, http.StatusNotFound, Error{Error: "no master is known: " + status.WaitingFor, Reason: string(status.WaitingReason)})
		return
	}
	answer := masterOf(*status.View.Master)
	if proof, err := s.node.Check(); err == nil && answer.InstanceID == s.node.InstanceID() {
		answer.ValidNS = int64(max(proof.Deadline-time.Duration(clock.Now()), 0))
	}
	routes.WriteJSON(w, http.StatusOK, answer)
}

func (s *server) view(w http.ResponseWriter, _ *http.Request) {
	routes.WriteJSON(w, http.StatusOK, viewOf(s.node.View()))
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) {
	status := statusOf(s.node.Status(), s.node.IsMaster())
	status.Mastership.DrainTimeoutNS = int64(s.node.DrainTimeout())
	status.Certificates = certificatesOf(s.certificates())
	status.Proxies = s.options.proxies()
	routes.WriteJSON(w, http.StatusOK, status)
}

// health answers as long as the process can.
func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "ok")
}

// ready answers whether the node has joined a cluster that is formed. One that is ready and
// knows no master says why on a line of its own.
func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	status := s.node.Status()
	if !status.Ready {
		routes.WriteJSON(w, http.StatusServiceUnavailable, Error{Error: "not ready: " + status.WaitingFor, Reason: string(status.WaitingReason)})
		return
	}
	fmt.Fprintln(w, "ok")
	if status.WaitingReason != "" {
		fmt.Fprintf(w, "no master: %s (reason %s)\n", status.WaitingFor, status.WaitingReason)
	}
}

func memberOf(m node.Member, master *node.Master) Member {
	return Member{
		NodeID:      m.NodeID,
		InstanceID:  m.InstanceID,
		Addr:        m.Addr,
		Zone:        m.Zone,
		Tags:        orEmpty(m.Tags),
		Meta:        orEmptyMap(m.Meta),
		AppAddrs:    m.AppAddrs,
		Version:     m.Version,
		Authorities: m.Authorities,
		State:       string(m.State),
		Self:        m.Self,
		Master:      master != nil && master.InstanceID == m.InstanceID,
	}
}

func membersOf(members []node.Member, master *node.Master) []Member {
	out := make([]Member, 0, len(members)) // an empty array, not null
	for _, m := range members {
		out = append(out, memberOf(m, master))
	}
	return out
}

func masterOf(m node.Master) Master {
	return Master{
		NodeID:     m.NodeID,
		InstanceID: m.InstanceID,
		Addr:       m.Addr,
		AppAddrs:   orEmptyMap(m.AppAddrs),
		Term:       uint64(m.Term),
		ClusterID:  m.ClusterID,
	}
}

func viewOf(v node.View) View {
	return View{
		Seq:       v.Seq,
		Term:      uint64(v.Term),
		ClusterID: v.ClusterID,
		Majority:  v.Majority,
		Warning:   v.Warning,
		Members:   membersOf(v.Members, v.Master),
		Departed:  membersOf(v.Departed, nil),
	}
}

func eventOf(e node.Event) Event {
	out := Event{
		Kind:      string(e.Kind),
		Changed:   e.Changed,
		Seq:       e.View.Seq,
		Term:      uint64(e.View.Term),
		ClusterID: e.View.ClusterID,
		Majority:  e.View.Majority,
		BootNS:    int64(clock.Now()),
	}
	if e.Member != nil {
		m := memberOf(*e.Member, e.View.Master)
		out.Member = &m
	}
	if e.Master != nil {
		m := masterOf(*e.Master)
		out.Master = &m
	}
	return out
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func orEmptyMap(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
