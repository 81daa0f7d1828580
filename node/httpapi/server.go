package httpapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/membership"
)

// keepAlive is how often a stream of events is written to when there are none, so
// that proxies keep it open and a client that is gone is noticed.
const keepAlive = 15 * time.Second

// defaultStreams is Options.MaxStreams where that is 0.
const defaultStreams = 64

// New returns the API of a node for everyone who can reach it. Serve it where only
// those can who may know the cluster, or use NewWith. It changes nothing.
func New(n *node.Node) http.Handler { return NewWith(n, Options{}) }

// NewWith returns the API of a node for those who show what o demands. Serve it with
// NewServer, which bounds what a client can cost.
func NewWith(n *node.Node, o Options) http.Handler {
	s := &server{node: n, options: o, streams: make(chan struct{}, cmp.Or(o.MaxStreams, defaultStreams))}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(newCollector(n, s.certificates), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PathStatus, s.status)
	mux.HandleFunc("GET "+PathMembers, s.members)
	mux.HandleFunc("GET "+PathMaster, s.master)
	mux.HandleFunc("GET "+PathView, s.view)
	mux.HandleFunc("GET "+PathEvents, s.events)
	mux.HandleFunc("GET "+PathHealth, s.health)
	mux.HandleFunc("GET "+PathReady, s.ready)
	mux.Handle("GET "+PathMetrics, promhttp.HandlerFor(oneAtATime(metrics), promhttp.HandlerOpts{}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			writeError(w, http.StatusMethodNotAllowed, fmt.Errorf("%s %s: the API changes nothing; use GET", r.Method, r.URL.Path))
			return
		}
		writeError(w, http.StatusNotFound, fmt.Errorf("no such path: %s %s", r.Method, r.URL.Path))
	})
	return o.Protect(mux)
}

type server struct {
	node    *node.Node
	options Options
	// streams has an element for each stream of events that is read.
	streams chan struct{}
}

// certificates returns the states of the TLS configurations that there are, by use.
func (s *server) certificates() map[string]driver.TLSState {
	states := make(map[string]driver.TLSState)
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
	writeJSON(w, http.StatusOK, membersOf(view.Members, view.Master))
}

func (s *server) master(w http.ResponseWriter, _ *http.Request) {
	master, ok := s.node.Master()
	if !ok {
		writeError(w, http.StatusNotFound, fmt.Errorf("no master is known: %s", s.node.Status().WaitingFor))
		return
	}
	writeJSON(w, http.StatusOK, masterOf(master))
}

func (s *server) view(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, viewOf(s.node.View()))
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) {
	status := statusOf(s.node.Status(), s.node.IsMaster())
	status.Certificates = certificatesOf(s.certificates())
	writeJSON(w, http.StatusOK, status)
}

// health answers as long as the process can.
func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "ok")
}

// ready answers whether the node has joined a cluster that is formed.
func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	if status := s.node.Status(); !status.Ready {
		writeError(w, http.StatusServiceUnavailable, fmt.Errorf("not ready: %s", status.WaitingFor))
		return
	}
	fmt.Fprintln(w, "ok")
}

// events streams the events of the node as server-sent events, each with the name
// of its kind and an Event as data. The first ones tell what there is.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		writeError(w, http.StatusServiceUnavailable, fmt.Errorf("%d streams of events are read already; close one of them", cap(s.streams)))
		return
	}
	stream := http.NewResponseController(w)
	// The server's bound is for requests that end.
	_ = stream.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if err := stream.Flush(); err != nil {
		return
	}
	events := make(chan node.Event)
	go func() {
		defer close(events)
		for event := range s.node.Events(r.Context()) {
			select {
			case events <- event:
			case <-r.Context().Done():
				return
			}
		}
	}()
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	for {
		// A client that does not read is not waited for.
		_ = stream.SetWriteDeadline(time.Now().Add(2 * keepAlive))
		select {
		case event, open := <-events:
			if !open {
				return
			}
			data, err := json.Marshal(eventOf(event))
			if err != nil {
				return
			}
			fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event.Kind, data)
		case <-idle.C:
			fmt.Fprint(w, ": no news\n\n")
		case <-r.Context().Done():
			return
		}
		if stream.Flush() != nil {
			return // the client is gone; its context ends the goroutine
		}
	}
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // the client may be gone
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, Error{Error: err.Error()})
}

func memberOf(m membership.Member, master *node.Master) Member {
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

func membersOf(members []membership.Member, master *node.Master) []Member {
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
