package host

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/buildinfo"
	"github.com/musterhq/muster/internal/routes"
)

// PathRegistrar is where the API has what is registered: a Report.
const PathRegistrar = "/v1/registrar"

// DefaultAddr is where a registrar serves its API unless http.addr says otherwise.
const DefaultAddr = "127.0.0.1:7981"

// Report is what a registrar says of itself. The JSON is public: it only ever gains
// fields.
type Report struct {
	Hostname string `json:"hostname"`
	// Address is that of the host, and AddressSource how it is known.
	Address       string `json:"address"`
	AddressSource string `json:"address_source"`
	Ready         bool   `json:"ready"`
	// WaitingFor says why it is not ready, and WaitingReason is the code of the first thing
	// that it says, one of WaitReasons.
	WaitingFor    string           `json:"waiting_for,omitempty"`
	WaitingReason string           `json:"waiting_reason,omitempty"`
	Engine        *EngineReport    `json:"engine,omitempty"`
	Providers     []ProviderReport `json:"providers"`
	Services      []ServiceReport  `json:"services"`
	// LeftOut says of what runs and is not registered why, where nothing is wrong.
	LeftOut []string `json:"left_out"`
	// Problems names what is wrong.
	Problems []string `json:"problems"`
}

// EngineReport is what is said of the container engine.
type EngineReport struct {
	Connected  bool   `json:"connected"`
	Containers int    `json:"containers"`
	Error      string `json:"error,omitempty"`
}

// ProviderReport is what is said of one provider.
type ProviderReport struct {
	Name string `json:"name"`
	// Off says why nothing is ever registered with it.
	Off        string  `json:"off,omitempty"`
	Session    bool    `json:"session"`
	TTLSeconds float64 `json:"ttl_seconds"`
	Wanted     int     `json:"wanted"`
	Registered int     `json:"registered"`
	Evictions  uint64  `json:"evictions"`
	Error      string  `json:"error,omitempty"`
}

// ServiceReport is one service that is to be registered.
type ServiceReport struct {
	Service string            `json:"service"`
	ID      string            `json:"id"`
	Addr    string            `json:"addr"`
	Tags    []string          `json:"tags"`
	Meta    map[string]string `json:"meta"`
	// Source is the container that it is of, or the configuration.
	Source string `json:"source"`
	Reason string `json:"reason"`
	// Up is false for a service whose check does not pass, and which is not to be
	// registered as long as it does not.
	Up bool `json:"up"`
	// Registered has the providers that it is registered with.
	Registered []string `json:"registered"`
	Error      string   `json:"error,omitempty"`
	// Conflict names, by provider, the services that it would keep in the same record: only
	// one of them is registered.
	Conflict map[string]string `json:"conflict,omitempty"`
	// Warnings says, by provider, who does not find the service though it is registered.
	Warnings map[string]string `json:"warnings,omitempty"`
}

// Report returns s as the API has it.
func (s Status) Report() Report {
	r := Report{
		Hostname: s.Hostname, Address: s.HostIP, AddressSource: s.HostSource,
		Providers: []ProviderReport{}, Services: []ServiceReport{}, LeftOut: []string{}, Problems: []string{},
	}
	if waits := s.waits(); len(waits) > 0 {
		r.WaitingFor, r.WaitingReason = oneLine(s.Ready()), string(waits[0].reason)
	} else {
		r.Ready = true
	}
	if s.HostErr != nil {
		r.Problems = append(r.Problems, "the address of this host: "+oneLine(s.HostErr))
	}
	if s.Engine != nil {
		r.Engine = &EngineReport{Connected: s.Engine.Connected, Containers: len(s.Engine.Containers), Error: oneLine(s.Engine.Err)}
		for _, c := range s.Engine.Containers {
			if c.Err != nil {
				r.Problems = append(r.Problems, oneLine(c.Err))
			}
			r.LeftOut = append(r.LeftOut, c.LeftOut...)
		}
	}
	registered, failing := s.outcomes()
	conflict, warnings := s.remarks()
	for _, d := range s.Desired {
		i := d.Instance
		key := [2]string{i.Service, i.InstanceID}
		service := ServiceReport{
			Service: i.Service, ID: i.InstanceID, Addr: i.Addr, Tags: i.Tags, Meta: i.Meta,
			Source: d.Source, Reason: d.Reason, Up: true, Registered: registered[key], Error: failing[key],
		}
		if d.Err != nil {
			service.Error, service.Registered = oneLine(d.Err), nil
		}
		service.Conflict, service.Warnings = conflict[key], warnings[key]
		r.Services = append(r.Services, service.filled())
	}
	for _, c := range s.Checks {
		if c.Up {
			continue
		}
		service := ServiceReport{
			Service: c.Service.Name, ID: c.Service.Key(s.Hostname), Addr: c.Service.Addr(s.HostIP), Tags: c.Service.Tags, Meta: c.Service.Meta,
			Source: "configuration", Reason: "its check does not pass", Error: oneLine(c.Err),
		}
		r.Services = append(r.Services, service.filled())
	}
	for _, p := range s.Providers {
		wanted, stands := p.Wanted()
		r.Providers = append(r.Providers, ProviderReport{
			Name: p.Name, Off: p.Off, Session: p.Session.Open, TTLSeconds: p.Session.TTL.Seconds(),
			Wanted: wanted, Registered: stands, Evictions: p.Evictions, Error: oneLine(p.Err()),
		})
		r.Problems = append(r.Problems, p.unfit()...)
		r.Problems = append(r.Problems, p.remarks()...)
		r.Problems = append(r.Problems, p.rivals(s.Hostname)...)
		if p.CleanupErr != nil {
			r.Problems = append(r.Problems, fmt.Sprintf("clean-up of provider %s: %s", p.Name, oneLine(p.CleanupErr)))
		}
	}
	return r
}

// unfit reports what the provider can never take: a few lines, and how many more.
func (p ProviderStatus) unfit() []string {
	const most = 4
	var problems []string
	more := 0
	for _, i := range p.Instances {
		switch {
		case i.Leaving || i.Registered || i.Yields || !unfit(i):
		case len(problems) == most:
			more++
		default:
			problems = append(problems, fmt.Sprintf("provider %s: service %s, id %s is not registered: %s", p.Name, i.Instance.Service, i.Instance.InstanceID, oneLine(i.Err)))
		}
	}
	if more > 0 {
		problems = append(problems, fmt.Sprintf("provider %s: %d more services are not registered, for a reason like that", p.Name, more))
	}
	return problems
}

// rivals reports others that register under the name of this host: one line, whose example
// stands for all.
func (p ProviderStatus) rivals(hostname string) []string {
	var problems []string
	for _, i := range p.Instances {
		if i.Contested {
			problems = append(problems, fmt.Sprintf("provider %s: somebody else registers service %s with id %s at %s, and this registrar at %s; %s",
				p.Name, i.Instance.Service, i.Instance.InstanceID, cmp.Or(i.Rival, "no address, or takes it away"), i.Instance.Addr, hintOfName(hostname)))
			break
		}
	}
	if len(p.Kept) > 0 {
		i := slices.MinFunc(p.Kept, func(a, b discovery.Instance) int {
			return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.InstanceID, b.InstanceID))
		})
		problems = append(problems, fmt.Sprintf("provider %s: somebody else keeps service %s with id %s registered at %s, of a container that does not run here; %s",
			p.Name, i.Service, i.InstanceID, i.Addr, hintOfKept(hostname)))
	}
	return problems
}

// outcomes returns the providers that each service is registered with, and why it is not.
func (s Status) outcomes() (registered map[[2]string][]string, failing map[[2]string]string) {
	registered, failing = make(map[[2]string][]string), make(map[[2]string]string)
	for _, p := range s.Providers {
		for _, i := range p.Instances {
			key := [2]string{i.Instance.Service, i.Instance.InstanceID}
			if i.Registered && !i.Leaving {
				registered[key] = append(registered[key], p.Name)
			}
			if i.Err != nil {
				failing[key] = strings.TrimPrefix(failing[key]+"; "+p.Name+": "+oneLine(i.Err), "; ")
			}
		}
	}
	return registered, failing
}

// remarks returns what the providers say of each service, by their names.
func (s Status) remarks() (conflict, warnings map[[2]string]map[string]string) {
	conflict, warnings = make(map[[2]string]map[string]string), make(map[[2]string]map[string]string)
	add := func(to map[[2]string]map[string]string, i discovery.Instance, provider, text string) {
		key := [2]string{i.Service, i.InstanceID}
		if text == "" {
			return
		}
		if to[key] == nil {
			to[key] = make(map[string]string)
		}
		to[key][provider] = text
	}
	for _, p := range s.Providers {
		for _, i := range p.Instances {
			add(conflict, i.Instance, p.Name, i.Conflict)
			add(warnings, i.Instance, p.Name, i.Warning)
		}
	}
	return conflict, warnings
}

// filled has empty lists and maps in place of none.
func (s ServiceReport) filled() ServiceReport {
	if s.Tags == nil {
		s.Tags = []string{}
	}
	if s.Meta == nil {
		s.Meta = map[string]string{}
	}
	if s.Registered == nil {
		s.Registered = []string{}
	}
	return s
}

func oneLine(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// Handler returns the HTTP API: PathRegistrar, /healthz, /readyz and /metrics. It has no
// authentication, and changes nothing.
func (r *Registrar) Handler() http.Handler {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collector{r}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r.routes(promhttp.HandlerFor(metrics, promhttp.HandlerOpts{})).Handler()
}

// routes are all that the API serves.
func (r *Registrar) routes(metrics http.Handler) routes.Table {
	return routes.Table{
		{Method: http.MethodGet, Path: PathRegistrar, Serve: func(w http.ResponseWriter, _ *http.Request) {
			routes.WriteJSON(w, http.StatusOK, r.Status().Report())
		}},
		{Method: http.MethodGet, Path: "/healthz", Serve: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }},
		{Method: http.MethodGet, Path: "/readyz", Serve: func(w http.ResponseWriter, _ *http.Request) {
			if report := r.Status().Report(); !report.Ready {
				routes.WriteJSON(w, http.StatusServiceUnavailable, map[string]string{"error": "not ready: " + report.WaitingFor, "reason": report.WaitingReason})
				return
			}
			fmt.Fprintln(w, "ok")
		}},
		{Method: http.MethodGet, Path: "/metrics", Serve: metrics.ServeHTTP},
	}
}

// collector reads the status when it is scraped.
type collector struct{ r *Registrar }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("muster_registrar_"+name, help, labels, nil)
}

var (
	readyDesc      = describe("ready", "1 if all that is known to run is registered with every provider.")
	buildDesc      = describe("build_info", "Always 1; the labels say which version of muster runs.", "version", "revision", "goversion")
	waitingDesc    = describe("waiting", "1 for each reason for which the registrar is not ready, 0 for the others; docs/waiting.md has them.", "reason")
	containersDesc = describe("containers", "Containers by state: running, kept after a failure, failing to be inspected.", "state")
	servicesDesc   = describe("services", "Services that are to be registered, by where they come from.", "source")
	checksDesc     = describe("checks", "Services with a check, by its outcome.", "state")
	problemsDesc   = describe("problems", "Things that are wrong; /v1/registrar names them.")

	connectedDesc  = describe("engine_connected", "1 while the events of the container engine arrive.")
	reconnectsDesc = describe("engine_reconnects_total", "Times that the events of the engine began to arrive again.")
	engineErrsDesc = describe("engine_errors_total", "Times that the engine could not be followed, and inspections that failed.", "operation")
	eventsDesc     = describe("engine_events_total", "Events of the engine that mattered.")

	wantedDesc     = describe("wanted", "Services that are to be registered with the provider.", "provider")
	registeredDesc = describe("registered", "Services that are registered with the provider.", "provider")
	sessionDesc    = describe("session", "1 while a session with the provider stands.", "provider")
	timesDesc      = describe("registrations_total", "Times that a service came to be registered.", "provider")
	repairsDesc    = describe("repairs_total", "Registrations that were put back while the session stood.", "provider")
	failuresDesc   = describe("failures_total", "Failed calls to the provider.", "provider", "operation")
	lostDesc       = describe("sessions_lost_total", "Sessions that the provider ended.", "provider")
	evictionsDesc  = describe("evictions_total", "Registrations taken away that containers had left behind.", "provider")
)

func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		readyDesc, buildDesc, waitingDesc, containersDesc, servicesDesc, checksDesc, problemsDesc, connectedDesc, reconnectsDesc, engineErrsDesc, eventsDesc,
		wantedDesc, registeredDesc, sessionDesc, timesDesc, repairsDesc, failuresDesc, lostDesc, evictionsDesc,
	} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.r.Status()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	report := s.Report()
	gauge(readyDesc, one(report.Ready))
	build := buildinfo.Read()
	gauge(buildDesc, 1, build.Version, build.Revision, build.Go)
	waits := s.waits()
	for _, reason := range WaitReasons() {
		gauge(waitingDesc, one(slices.ContainsFunc(waits, func(p pending) bool { return p.reason == reason })), string(reason))
	}
	gauge(problemsDesc, len(report.Problems))
	if v := s.Engine; v != nil {
		running, kept, failing := 0, 0, 0
		for _, c := range v.Containers {
			running += one(c.Running)
			kept += one(c.Kept != "")
			failing += one(c.Err != nil)
		}
		gauge(containersDesc, running, "running")
		gauge(containersDesc, kept, "kept")
		gauge(containersDesc, failing, "failing")
		gauge(connectedDesc, one(v.Connected))
		counter(reconnectsDesc, max(v.Counters.Connects, 1)-1)
		counter(engineErrsDesc, v.Counters.ConnectErrors, "follow")
		counter(engineErrsDesc, v.Counters.InspectErrors, "inspect")
		counter(eventsDesc, v.Counters.Events)
	}
	sources := map[string]int{"container": 0, "configuration": 0}
	for _, d := range s.Desired {
		source, _, _ := strings.Cut(d.Source, " ")
		sources[source]++
	}
	for source, n := range sources {
		gauge(servicesDesc, n, source)
	}
	passing, failing := 0, 0
	for _, c := range s.Checks {
		if c.Service.Check.Enabled() {
			passing += one(c.Up)
			failing += one(!c.Up)
		}
	}
	gauge(checksDesc, passing, "passing")
	gauge(checksDesc, failing, "failing")
	for _, p := range s.Providers {
		wanted, registered := p.Wanted()
		gauge(wantedDesc, wanted, p.Name)
		gauge(registeredDesc, registered, p.Name)
		gauge(sessionDesc, one(p.Session.Open), p.Name)
		counter(timesDesc, p.Counters.Registrations, p.Name)
		counter(repairsDesc, p.Counters.Repairs, p.Name)
		counter(failuresDesc, p.Counters.OpenErrors, p.Name, "open_session")
		counter(failuresDesc, p.Counters.RenewErrors, p.Name, "renew")
		counter(failuresDesc, p.Counters.RegisterErrors, p.Name, "register")
		counter(failuresDesc, p.Counters.DeregisterErrors, p.Name, "deregister")
		counter(lostDesc, p.Counters.SessionsLost, p.Name)
		counter(evictionsDesc, p.Evictions, p.Name)
	}
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}
