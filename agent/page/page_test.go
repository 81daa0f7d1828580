package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/internal/testing/routestest"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "0123456789abcdef-token"

func withToken() httpapi.Options {
	return httpapi.Options{Token: func() secret.String { return token }, Sessions: new(httpapi.Sessions), Operator: new(httpapi.Operator)}
}

// serve starts a node and serves its page and its API, as an agent does.
func serve(t *testing.T, o httpapi.Options, change func(*node.Config)) (*httptest.Server, *Page) {
	t.Helper()
	registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
	config := node.Config{
		Cluster: "orders", NodeID: "orders-1", Bind: "127.0.0.1:0", Zone: "eu-1", Tags: []string{"web"},
		AppAddrs: map[string]string{"http": "10.0.0.5:80"}, Registries: []*discovery.Registry{registry},
	}
	if change != nil {
		change(&config)
	}
	n, err := node.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	p := Node(n, httpapi.NewWith(n, o), o)
	server := httptest.NewServer(p)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		p.Close()
		if err := n.Leave(wait.Context(t)); err != nil {
			t.Error(err)
		}
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	return server, p
}

// browser is a client that keeps cookies, and follows no redirect by itself.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func ask(t *testing.T, c *http.Client, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if strings.Contains(response.Header.Get("Content-Type"), "event-stream") {
		return response, ""
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

// The routes of the page answer as those of the API do, and are documented.
func TestRoutes(t *testing.T) {
	server, p := serve(t, httpapi.Options{}, nil)
	table := p.table()
	routestest.CheckPage(t, "../../docs/http-api.md", "The page", table)
	routestest.Run(t, table, server.Config.Handler)
}

var (
	inlineScript = regexp.MustCompile(`(?i)<script(?: [^>]*)?>[^<]|\son[a-z]+=|javascript:|\sstyle=|<style`)
	foreign      = regexp.MustCompile(`(?i)(?:src|href|action)="([^"]*)"`)
)

// Whatever is shown needs no exception from the policy, and nothing from elsewhere.
func TestPolicy(t *testing.T) {
	for name, o := range map[string]httpapi.Options{"open": {}, "with a token": withToken()} {
		server, _ := serve(t, o, nil)
		for _, path := range []string{"/", "/?failed", "/page.css", "/page.js", "/page.svg"} {
			response, body := ask(t, browser(t), "GET", server.URL+path, "")
			for header, want := range map[string]string{
				"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
					"base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
				"X-Content-Type-Options": "nosniff",
				"X-Frame-Options":        "DENY",
			} {
				if got := response.Header.Get(header); got != want {
					t.Errorf("%s: GET %s: %s: %q", name, path, header, got)
				}
			}
			if !strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") {
				continue
			}
			if found := inlineScript.FindString(body); found != "" {
				t.Errorf("%s: GET %s has %q", name, path, found)
			}
			links := foreign.FindAllStringSubmatch(body, -1)
			if len(links) < 3 || response.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: GET %s: %d links, Cache-Control %q", name, path, len(links), response.Header.Get("Cache-Control"))
			}
			for _, link := range links {
				if u, err := url.Parse(link[1]); err != nil || u.IsAbs() || u.Host != "" || strings.HasPrefix(u.Path, "/") {
					t.Errorf("%s: GET %s leads to %q", name, path, link[1])
				}
			}
		}
	}
	if inlineScript.FindString(`<script src="page.js" defer></script>`) != "" || inlineScript.FindString(`<p onclick="x">`) == "" {
		t.Error("inline scripts are not found")
	}
}

// The script makes no markup of what arrives. The policy holds that, too.
func TestScriptMakesNoMarkup(t *testing.T) {
	script, err := staticFiles.ReadFile("static/page.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, forbidden := range []string{"innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "parseFromString"} {
		if strings.Contains(string(script), forbidden) {
			t.Errorf("the script has %s", forbidden)
		}
	}
}

func TestLogin(t *testing.T) {
	server, _ := serve(t, withToken(), nil)
	c := browser(t)
	login := func(shown string, headers ...string) *http.Response {
		t.Helper()
		headers = append(headers, "Content-Type", "application/x-www-form-urlencoded")
		response, body := ask(t, c, "POST", server.URL+"/login", url.Values{"token": {shown}}.Encode(), headers...)
		if strings.Contains(body, token) || strings.Contains(fmt.Sprint(response.Header), token) {
			t.Errorf("the answer to the login has the token: %s", body)
		}
		return response
	}
	page := func() (int, string) {
		t.Helper()
		response, body := ask(t, c, "GET", server.URL, "")
		return response.StatusCode, body
	}

	if status, body := page(); status != http.StatusUnauthorized || !strings.Contains(body, `action="login"`) || strings.Contains(body, "orders") {
		t.Fatalf("status %d\n%s", status, body)
	}
	response := login("not the token")
	if to := response.Header.Get("Location"); response.StatusCode != http.StatusSeeOther || to != "./?failed" || len(response.Cookies()) > 0 {
		t.Errorf("a wrong token: status %d, to %q, %v", response.StatusCode, to, response.Cookies())
	}
	if response, body := ask(t, c, "GET", server.URL+"/?failed", ""); response.StatusCode != http.StatusUnauthorized || !strings.Contains(body, `role="alert"`) {
		t.Errorf("status %d\n%s", response.StatusCode, body)
	}
	if response := login(token, "Sec-Fetch-Site", "cross-site"); response.StatusCode != http.StatusForbidden || len(response.Cookies()) > 0 {
		t.Errorf("from another site: status %d, %v", response.StatusCode, response.Cookies())
	}
	if response := login(strings.Repeat("x", 1<<20)); response.StatusCode != http.StatusBadRequest {
		t.Errorf("a form of a megabyte: status %d", response.StatusCode)
	}
	if response, _ := ask(t, c, "GET", server.URL+"/?token="+token, ""); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("the token in a URL: status %d", response.StatusCode)
	}
	if response, _ := ask(t, c, "POST", server.URL+"/login?token="+token, ""); response.Header.Get("Location") != "./?failed" {
		t.Errorf("the token in the URL of the form: to %q", response.Header.Get("Location"))
	}

	response = login(token)
	if to := response.Header.Get("Location"); response.StatusCode != http.StatusSeeOther || to != "./" || len(response.Cookies()) != 1 {
		t.Fatalf("status %d, to %q, %v", response.StatusCode, to, response.Cookies())
	}
	if cookie := response.Cookies()[0]; !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || strings.Contains(cookie.Value, token) {
		t.Errorf("the cookie %v", cookie)
	}
	if status, body := page(); status != http.StatusOK || !strings.Contains(body, "Cluster orders") || !strings.Contains(body, `action="logout"`) {
		t.Errorf("status %d\n%s", status, body)
	}
	for _, path := range []string{httpapi.PathStatus, httpapi.PathEvents} {
		if response, _ := ask(t, c, "GET", server.URL+path, ""); response.StatusCode != http.StatusOK {
			t.Errorf("GET %s in a session: status %d", path, response.StatusCode)
		}
	}
	if response, _ := ask(t, c, "POST", server.URL+httpapi.PathResign, "", "Content-Type", "application/json"); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("a session resigns: status %d", response.StatusCode)
	}
	if response, _ := ask(t, c, "POST", server.URL+"/logout", ""); response.StatusCode != http.StatusSeeOther {
		t.Errorf("logout: status %d", response.StatusCode)
	}
	if status, _ := page(); status != http.StatusUnauthorized {
		t.Errorf("after logout: status %d", status)
	}
	// A client without cookies shows the token itself.
	if response, body := ask(t, browser(t), "GET", server.URL, "", "Authorization", "Bearer "+token); response.StatusCode != http.StatusOK || strings.Contains(body, "logout") {
		t.Errorf("with the token: status %d\n%s", response.StatusCode, body)
	}
}

// On loopback without a token everyone of this host sees the page, but no page of a browser that
// has led a name of its own there.
func TestWithoutAToken(t *testing.T) {
	server, _ := serve(t, httpapi.Options{LocalNames: true}, nil)
	c := browser(t)
	if response, body := ask(t, c, "GET", server.URL, ""); response.StatusCode != http.StatusOK || !strings.Contains(body, "Cluster orders") || strings.Contains(body, "logout") {
		t.Errorf("status %d\n%s", response.StatusCode, body)
	}
	for _, path := range []string{"/", "/login"} {
		method := map[string]string{"/": "GET", "/login": "POST"}[path]
		if response, body := ask(t, c, method, server.URL+path, "", "Host", "evil.example:7980"); response.StatusCode != http.StatusForbidden || strings.Contains(body, "orders") {
			t.Errorf("%s %s by another name: status %d\n%s", method, path, response.StatusCode, body)
		}
	}
	if response, _ := ask(t, c, "POST", server.URL+"/login", "token="); response.StatusCode != http.StatusNotFound || len(response.Cookies()) > 0 {
		t.Errorf("login: status %d", response.StatusCode)
	}
}

// The page changes nothing about the API.
func TestAPIStaysAsItIs(t *testing.T) {
	server, p := serve(t, withToken(), nil)
	for _, path := range []string{httpapi.PathStatus, httpapi.PathMembers, httpapi.PathHealth, httpapi.PathReady, httpapi.PathVoters, "/v1/nothing", "/index.html"} {
		for _, header := range []string{"", "Bearer " + token} {
			r := httptest.NewRequest("GET", path, nil)
			r.Header.Set("Authorization", header)
			var with, without *httptest.ResponseRecorder
			// What they answer may change between the two, as when the node has become ready.
			wait.Until(wait.Context(t), func() bool {
				with, without = httptest.NewRecorder(), httptest.NewRecorder()
				p.ServeHTTP(with, r)
				p.api.ServeHTTP(without, r)
				return with.Code == without.Code
			})
			if with.Code != without.Code || with.Header().Get("Content-Type") != without.Header().Get("Content-Type") || with.Header().Get("Content-Security-Policy") != "" {
				t.Errorf("GET %s: %d %v, without the page %d %v", path, with.Code, with.Header(), without.Code, without.Header())
			}
		}
	}
	response, body := ask(t, browser(t), "GET", server.URL+httpapi.PathStatus, "", "Authorization", "Bearer "+token)
	var status httpapi.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil || status.Cluster != "orders" {
		t.Errorf("%d %s: %v", response.StatusCode, body, err)
	}
}

// All that is known is in the markup, without a script.
func TestFacts(t *testing.T) {
	server, _ := serve(t, httpapi.Options{}, nil)
	c := browser(t)
	var body string
	has := func(texts ...string) bool {
		for _, text := range texts {
			if !strings.Contains(body, text) {
				return false
			}
		}
		return true
	}
	want := []string{
		"<title>orders: orders-1 is master in term 1</title>", `<p id="headline" class="good">orders-1 is master in term 1</p>`,
		"<dt>Term</dt><dd>1</dd>", " more if it is not renewed", "in sight", "Zone eu-1: 1", "orders-1 <span class=\"good\">master</span>",
		"http=10.0.0.5:80", "<code>web</code>", `data-label="Found by">memory<`, "<dd><span class=\"good\">ready</span></dd>", "found by: ",
		`data-label="This agent">registered<`, "grants mastership", "orders-1 joined at 127.0.0.1:", "</span> orders-1 is master in term 1",
		"the cluster is formed, with the id ", "this agent is ready",
	}
	wait.For(t, "all facts", func() bool { _, body = ask(t, c, "GET", server.URL, ""); return has(want...) }, func() string {
		var missing []string
		for _, text := range want {
			if !has(text) {
				missing = append(missing, text)
			}
		}
		return fmt.Sprintf("missing %q in\n%s", missing, body)
	})
	head, _ := ask(t, c, "HEAD", server.URL, "")
	if head.StatusCode != http.StatusOK {
		t.Errorf("HEAD: status %d", head.StatusCode)
	}
}

// A fault of the provider is a warning for as long as it lasts, and stays in the timeline.
func TestWarnings(t *testing.T) {
	provider := memory.New()
	server, _ := serve(t, httpapi.Options{}, func(c *node.Config) {
		registry := discovery.New("other", provider.Driver(), discovery.Options{PollInterval: 100 * time.Millisecond})
		t.Cleanup(func() { registry.Close() })
		c.Registries = append(c.Registries, registry)
		c.Mastership.Authority = []string{"memory"}
	})
	c := browser(t)
	shows := func(what string, holds func(body string) bool) {
		t.Helper()
		var body string
		wait.For(t, what, func() bool { _, body = ask(t, c, "GET", server.URL, ""); return holds(body) }, func() string { return body })
	}
	shows("both registrations", func(body string) bool { return strings.Count(body, `data-label="This agent">registered<`) == 2 })
	provider.Fail(fmt.Errorf("%w: the disk is <full>", driver.ErrUnavailable))
	shows("the warning", func(body string) bool {
		return strings.Contains(body, `<section id="warnings"`) && strings.Contains(body, "the disk is &lt;full&gt;") &&
			strings.Contains(body, `<span class="warn">warning</span> provider other: `)
	})
	provider.Fail(nil)
	shows("its end", func(body string) bool {
		return !strings.Contains(body, `<section id="warnings"`) && strings.Contains(body, `<span class="good">over</span> provider other, after `)
	})
}

// hostile is what a member, a provider or a container may say of itself.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `</title><script>alert(1)</script>`,
	`{{.}}`, `javascript:alert(1)`, "\x00\u202e\u2028evil", strings.Repeat("long", 5000),
}

// fixed is a source that shows what a test has made up.
type fixed struct{ shown view }

func (f fixed) view(time.Time) view                     { return f.shown }
func (f fixed) facts() map[string]fact                  { return nil }
func (f fixed) follow(ctx context.Context, _ *timeline) { <-ctx.Done() }

// body returns the page of a source.
func body(t *testing.T, s source, timeline ...string) string {
	t.Helper()
	p := newPage(s, http.NotFoundHandler(), httpapi.Options{})
	defer p.Close()
	for _, text := range timeline {
		p.timeline.add(time.Now(), kindWarning, text)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// hostileNode is a node among n members, all of which say hostile things.
func hostileNode(n int) seen {
	s := seen{Status: node.Status{Cluster: hostile[0], NodeID: hostile[1], WaitingFor: hostile[2]}}
	for i := range n {
		text := hostile[i%len(hostile)]
		m := node.Member{
			NodeID: fmt.Sprintf("%d%s", i, text), InstanceID: fmt.Sprint(i), Addr: text, Zone: fmt.Sprint("zone ", i%7, text), Tags: []string{text}, Reason: text,
			Meta: map[string]string{text: text}, AppAddrs: map[string]string{text: text}, Version: text, State: node.StateAlive,
		}
		if i%10 == 9 {
			m.State = node.StateDead
			s.View.Departed = append(s.View.Departed, m)
			continue
		}
		s.View.Members = append(s.View.Members, m)
	}
	for _, text := range hostile {
		s.Providers = append(s.Providers, node.Provider{Name: text, Addrs: []string{text}, Peers: discovery.Snapshot{Err: errors.New(text)}})
	}
	s.View.Warning, s.View.ClusterID = hostile[3], hostile[0]
	s.View.Master = &node.Master{Holder: driver.Holder{NodeID: hostile[1], Addr: hostile[0]}, Term: 7}
	s.Mastership = mastership.Status{Err: errors.New(hostile[0])}
	s.Voters = &driver.Voters{Voters: []driver.Voter{{Addr: hostile[0], State: hostile[1], Problem: hostile[2], Reached: true}}}
	return s
}

// Whatever others say of themselves is text.
func TestHostileTexts(t *testing.T) {
	checkHostile(t, body(t, fixed{viewOfNode(hostileNode(500))}, hostile...))
}

func checkHostile(t *testing.T, page string) {
	t.Helper()
	if got := strings.Count(page, "<script"); got != 1 {
		t.Errorf("%d scripts", got)
	}
	for _, raw := range []string{"<img", "alert(1)>", `' onmouseover='`} {
		if strings.Contains(page, raw) {
			t.Errorf("%s is markup", raw)
		}
	}
	if !strings.Contains(page, "&lt;script&gt;alert(1)&lt;/script&gt;") || !strings.HasSuffix(page, "</html>\n") {
		t.Error("the texts are not shown")
	}
}

// The page is light: all files, and the page of three members.
func TestWeight(t *testing.T) {
	total := 0
	for _, name := range []string{"page.css", "page.js", "page.svg"} {
		content, err := staticFiles.ReadFile("static/" + name)
		if err != nil {
			t.Fatal(err)
		}
		total += len(content)
		t.Logf("%s: %d bytes", name, len(content))
	}
	s := seen{Status: node.Status{Cluster: "orders"}, Voters: new(driver.Voters)}
	for i := range 3 {
		s.View.Members = append(s.View.Members, node.Member{NodeID: fmt.Sprint("orders-", i), Addr: "10.0.0.5:7946", State: node.StateAlive})
		s.Voters.Voters = append(s.Voters.Voters, driver.Voter{Addr: "10.0.0.5:7946"})
	}
	page := body(t, fixed{viewOfNode(s)}, make([]string, 30)...)
	t.Logf("the page: %d bytes", len(page))
	if total += len(page); total > 30<<10 {
		t.Errorf("%d bytes, want 30 KiB at most", total)
	}
}

// BenchmarkLargePage renders the page of 500 members with a full timeline.
func BenchmarkLargePage(b *testing.B) {
	s := seen{Status: node.Status{Cluster: "orders"}}
	for i := range 500 {
		s.View.Members = append(s.View.Members, node.Member{
			NodeID: fmt.Sprint("orders-", i), InstanceID: fmt.Sprint(i), Addr: fmt.Sprintf("10.0.%d.%d:7946", i/250, i%250), Zone: fmt.Sprint("eu-", i%3),
			Tags: []string{"web"}, AppAddrs: map[string]string{"http": "10.0.0.5:8080"}, State: node.StateAlive,
		})
	}
	p := newPage(fixed{viewOfNode(s)}, http.NotFoundHandler(), httpapi.Options{})
	defer p.Close()
	for i := range maxEntries {
		p.timeline.add(time.Now(), kindMember, fmt.Sprintf("orders-%d joined at 10.0.0.5:7946", i))
	}
	for b.Loop() {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		b.ReportMetric(float64(w.Body.Len())/1024, "KiB")
	}
}
