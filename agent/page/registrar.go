package page

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar/host"
)

// Registrar returns the page of r and, at all other paths, api: that of r, guarded as o says. The
// page is for those who may ask the API. Close it; that ends the timeline.
func Registrar(r *host.Registrar, api http.Handler, o httpapi.Options) *Page {
	return newPage(&registrarSource{registrar: r}, api, o)
}

type registrarSource struct{ registrar *host.Registrar }

// refreshRegistrar is how often the page of a registrar is asked for: it has no stream of events.
const refreshRegistrar = 2 * time.Second

func (s *registrarSource) view(time.Time) view { return viewOfRegistrar(s.registrar.Status()) }

// viewOfRegistrar has the sections of a registrar.
func viewOfRegistrar(status host.Status) view {
	report := status.Report()
	v := view{
		Heading: "Registrar of " + report.Hostname, Headline: "Not all that runs is registered", Good: report.Ready,
		Every: int(refreshRegistrar / time.Millisecond),
	}
	if report.Ready {
		v.Headline = "All that runs is registered"
	}
	v.Title = report.Hostname + ": " + v.Headline
	if len(report.Problems) > 0 {
		v.Sections = append(v.Sections, section{ID: "problems", Title: "Problems", Wide: true, Data: report.Problems})
	}
	v.Sections = append(v.Sections,
		section{ID: "host", Title: "This host", Wide: true, Data: report},
		section{ID: "containers", Title: "Containers", Wide: true, Data: containersOf(status, report)},
	)
	if declared := servicesOf(report, func(source string) bool { return !strings.HasPrefix(source, containerSource) }); len(declared) > 0 {
		v.Sections = append(v.Sections, section{ID: "services", Title: "Other services", Wide: true, Data: declared})
	}
	v.Sections = append(v.Sections, section{ID: "registries", Title: "Providers", Wide: true, Data: report.Providers})
	return v
}

// containerSource is how the source of a service begins that is a container's.
const containerSource = "container "

// container is one that runs, or is kept, and what becomes of it.
type container struct {
	Name string
	// State is running, or why it is kept.
	State    string
	Services []service
	LeftOut  []string
	Error    string
}

// service is a service, and where it is registered.
type service struct {
	host.ServiceReport
	Labels, Notes []string
}

func containersOf(s host.Status, r host.Report) []container {
	if s.Engine == nil {
		return nil
	}
	bySource := make(map[string][]service)
	for _, one := range servicesOf(r, func(source string) bool { return strings.HasPrefix(source, containerSource) }) {
		bySource[one.Source] = append(bySource[one.Source], one)
	}
	var out []container
	for _, c := range s.Engine.Containers {
		row := container{Name: c.Name, State: "running", Services: bySource[containerSource+c.Name], LeftOut: c.LeftOut, Error: oneLine(text(c.Err))}
		switch {
		case c.Kept != "":
			row.State = "kept: " + c.Kept
		case !c.Running:
			row.State = "ended"
		}
		out = append(out, row)
	}
	return out
}

func servicesOf(r host.Report, of func(source string) bool) []service {
	var out []service
	for _, s := range r.Services {
		if !of(s.Source) {
			continue
		}
		row := service{ServiceReport: s, Labels: append(append([]string(nil), s.Tags...), pairs(s.Meta)...)}
		for _, conflict := range pairs(s.Conflict) {
			row.Notes = append(row.Notes, "in conflict: "+conflict)
		}
		row.Notes = append(row.Notes, pairs(s.Warnings)...)
		out = append(out, row)
	}
	return out
}

// follow has nothing to follow: a registrar has no events.
func (s *registrarSource) follow(context.Context, *timeline) {}

// facts are what is wrong, and what is registered.
func (s *registrarSource) facts() map[string]fact { return factsOf(s.registrar.Status().Report()) }

func factsOf(report host.Report) map[string]fact {
	facts := make(map[string]fact)
	for _, problem := range report.Problems {
		facts[problem] = fact{kind: kindWarning, text: problem}
	}
	if e := report.Engine; e != nil && !e.Connected && e.Error != "" {
		facts["container engine"] = fact{kind: kindWarning, text: "container engine: " + e.Error}
	}
	for _, p := range report.Providers {
		if p.Error != "" {
			facts["provider "+p.Name] = fact{kind: kindWarning, text: "provider " + p.Name + ": " + p.Error}
		}
	}
	for _, s := range report.Services {
		for _, provider := range s.Registered {
			facts[provider+" "+s.Service+" "+s.ID] = fact{
				kind: kindService, text: fmt.Sprintf("%s at %s is registered with %s", s.Service, s.Addr, provider),
				overKind: kindService, over: fmt.Sprintf("%s at %s is no longer registered with %s", s.Service, s.Addr, provider),
			}
		}
	}
	return facts
}
