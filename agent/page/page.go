package page

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/routes"
	"github.com/musterhq/muster/node/httpapi"
)

// The paths of a page.
const (
	pathPage   = "/"
	pathStyle  = "/page.css"
	pathScript = "/page.js"
	pathIcon   = "/page.svg"
	pathLogin  = "/login"
	pathLogout = "/logout"
)

// policy lets a page use the files of this package and nothing else: no inline script or style,
// no frame around it, and no text that becomes markup in a script.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
	"base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// maxForm bounds the bytes of a form.
const maxForm = 4 << 10

// source is what a page is about.
type source interface {
	// view returns what there is to see now, but for the timeline.
	view(now time.Time) view
	// facts returns what lasts for a while and belongs into the timeline.
	facts() map[string]fact
	// follow adds to the timeline what happens, until ctx ends.
	follow(ctx context.Context, t *timeline)
}

// view is what a template shows.
type view struct {
	// Title is that of the window, and Heading the one of the page.
	Title, Heading string
	// Headline is the sentence that a reader is told when it changes.
	Headline string
	Good     bool
	// Events is the path of the stream of events, relative to the page; empty if there is none.
	Events string
	// Every is after how many milliseconds the script asks again.
	Every    int
	Sections []section
}

// section is a part of a page. viewOfNode and viewOfRegistrar list those that there are.
type section struct {
	// ID names it in the page, and is that of its template: ID.html.
	ID, Title string
	// Wide sections take the whole width.
	Wide bool
	Data any
	// Body is what the template makes of Data.
	Body template.HTML
}

// Page is the handler of a page, and of the API beside it.
type Page struct {
	source   source
	timeline *timeline
	options  httpapi.Options
	routes   http.Handler
	paths    map[string]bool
	api      http.Handler

	cancel  context.CancelFunc
	running sync.WaitGroup
}

// newPage returns the page of s, which is guarded as o says. What is not of the page is for api,
// which guards itself. Close it.
func newPage(s source, api http.Handler, o httpapi.Options) *Page {
	p := &Page{source: s, timeline: newTimeline(), options: o, api: api, paths: make(map[string]bool)}
	table := p.table()
	p.routes = table.Handler()
	for _, r := range table {
		p.paths[r.Path] = true
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.running.Go(func() { s.follow(ctx, p.timeline) })
	p.running.Go(func() { p.timeline.watch(ctx, s.facts) })
	return p
}

// Close ends what keeps the timeline. It does not end the handler.
func (p *Page) Close() {
	p.cancel()
	p.running.Wait()
}

// table has the routes of a page.
func (p *Page) table() routes.Table {
	return routes.Table{
		{Method: http.MethodGet, Path: pathPage, Serve: p.page},
		{Method: http.MethodGet, Path: pathStyle, Serve: file("page.css", "text/css; charset=utf-8")},
		{Method: http.MethodGet, Path: pathScript, Serve: file("page.js", "text/javascript; charset=utf-8")},
		{Method: http.MethodGet, Path: pathIcon, Serve: file("page.svg", "image/svg+xml")},
		{Method: http.MethodPost, Path: pathLogin, Serve: p.login},
		{Method: http.MethodPost, Path: pathLogout, Serve: p.logout},
	}
}

// ServeHTTP serves the page at /, and the API at every path that is not the page's.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.paths[r.URL.Path] {
		p.api.ServeHTTP(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin") // so that a form says where it is from
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	p.routes.ServeHTTP(w, r)
}

// page shows who may see it the page, and others a form for the token or why not even that.
func (p *Page) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch status, err := p.options.Check(r); {
	case err == nil:
	case status == http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="muster"`)
		w.Header().Set("Connection", "close") // a stranger keeps no place
		p.render(w, status, "login.html", map[string]any{"Failed": r.URL.Query().Has("failed"), "Possible": p.options.Sessions != nil})
		return
	default:
		w.Header().Set("Connection", "close")
		routes.WriteError(w, status, err)
		return
	}
	now := time.Now()
	v := p.source.view(now)
	v.Sections = append(v.Sections, section{ID: "timeline", Title: "Timeline", Wide: true, Data: p.timeline.newest()})
	for i := range v.Sections {
		var body bytes.Buffer
		if err := templates.ExecuteTemplate(&body, v.Sections[i].ID+".html", v.Sections[i].Data); err != nil {
			routes.WriteError(w, http.StatusInternalServerError, err)
			return
		}
		v.Sections[i].Body = template.HTML(body.String()) // in which the template has escaped all data
	}
	p.render(w, http.StatusOK, "page.html", map[string]any{"View": v, "Now": now, "Session": p.options.HasSession(r)})
}

// login starts a session for the token of a form. The answer leads to the page, so that the
// token is in no history of a browser and is not sent again with a reload.
func (p *Page) login(w http.ResponseWriter, r *http.Request) {
	p.form(w, r, func() (int, error) { return p.options.Login(w, r, r.PostForm.Get("token")) })
}

func (p *Page) logout(w http.ResponseWriter, r *http.Request) {
	p.form(w, r, func() (int, error) { return p.options.Logout(w, r) })
}

func (p *Page) form(w http.ResponseWriter, r *http.Request, do func() (int, error)) {
	w.Header().Set("Cache-Control", "no-store")
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		routes.WriteError(w, http.StatusBadRequest, err)
		return
	}
	to := "./" // relative: the page may be served below another path
	switch status, err := do(); {
	case err == nil:
	case status == http.StatusUnauthorized:
		w.Header().Set("Connection", "close")
		to = "./?failed"
	default:
		w.Header().Set("Connection", "close")
		routes.WriteError(w, status, err)
		return
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

var (
	//go:embed templates/*.html
	templateFiles embed.FS
	//go:embed static
	staticFiles embed.FS
)

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"clock":   func(t time.Time) string { return t.UTC().Format("15:04:05") },
	"instant": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"day":     func(t time.Time) string { return t.UTC().Format(time.DateOnly) },
}).ParseFS(templateFiles, "templates/*.html"))

func (p *Page) render(w http.ResponseWriter, status int, name string, data any) {
	var out bytes.Buffer // so that an error is one, and no half of a page
	if err := templates.ExecuteTemplate(&out, name, data); err != nil {
		routes.WriteError(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // the client may be gone
}

// file serves a file of this package. A browser asks each time whether it has changed, as it may
// with another version of the agent.
func file(name, contentType string) http.HandlerFunc {
	content, err := fs.ReadFile(staticFiles, "static/"+name)
	if err != nil {
		panic(err) // it is part of the program
	}
	sum := sha256.Sum256(content)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	}
}
