package httpapi_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/secret"
)

// browser keeps a cookie, as one does for one host.
type browser struct {
	options httpapi.Options
	cookie  *http.Cookie
}

// request returns one of the browser, with these headers, in pairs. A host of https has TLS.
func (b *browser) request(method, target string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(url.Values{}.Encode()))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	return r
}

func (b *browser) login(t *testing.T, target, shown string, headers ...string) int {
	t.Helper()
	w := httptest.NewRecorder()
	status, err := b.options.Login(w, b.request("POST", target, headers...), shown)
	if cookies := w.Result().Cookies(); err == nil {
		b.cookie = cookies[0]
	} else if len(cookies) > 0 {
		t.Errorf("a cookie with the error %v", err)
	}
	return status
}

func (b *browser) check(method, target string, headers ...string) int {
	status, _ := b.options.Check(b.request(method, target, headers...))
	return status
}

func newBrowser() *browser {
	return &browser{options: httpapi.Options{Token: func() secret.String { return token }, Sessions: new(httpapi.Sessions)}}
}

func TestSessionCookie(t *testing.T) {
	b := newBrowser()
	if status := b.login(t, "http://127.0.0.1:7980/login", token); status != 0 {
		t.Fatalf("status %d", status)
	}
	c := b.cookie
	if c.Name != "muster_session_7980" || !c.HttpOnly || c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.MaxAge != 12*60*60 {
		t.Errorf("%+v", c)
	}
	if len(c.Value) < 52 || strings.Contains(c.Value, token) {
		t.Errorf("the cookie holds %q", c.Value)
	}
	if status := b.login(t, "https://node-1/login", token); status != 0 {
		t.Fatalf("status %d", status)
	}
	if c := b.cookie; c.Name != "__Host-muster_session" || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("%+v", c)
	}
}

// A session reads, from its own page, and does nothing else.
func TestWhatASessionMay(t *testing.T) {
	const at = "http://127.0.0.1:7980/"
	b := newBrowser()
	if got := b.check("GET", at); got != http.StatusUnauthorized {
		t.Errorf("without a session: %d", got)
	}
	if got := b.login(t, at, token); got != 0 {
		t.Fatalf("status %d", got)
	}
	for _, v := range []struct {
		method, target string
		headers        []string
		want           int
	}{
		{"GET", at, nil, 0},
		{"HEAD", at, nil, 0},
		{"GET", at, []string{"Sec-Fetch-Site", "none"}, 0},
		{"GET", at, []string{"Sec-Fetch-Site", "same-site"}, http.StatusUnauthorized}, // another port of this host
		{"GET", at, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusUnauthorized},
		{"POST", at, nil, http.StatusUnauthorized},
		{"DELETE", at, nil, http.StatusUnauthorized},
		{"GET", "http://127.0.0.1:7981/", nil, http.StatusUnauthorized}, // it has another name there
		{"GET", at, []string{"Authorization", "Bearer " + token}, 0},
		{"POST", at, []string{"Authorization", "Bearer " + token}, 0},
	} {
		if got := b.check(v.method, v.target, v.headers...); got != v.want {
			t.Errorf("%s %s %q: %d, want %d", v.method, v.target, v.headers, got, v.want)
		}
	}
	planted := b.request("GET", at)
	planted.Header.Set("Cookie", b.cookie.Name+"=planted; "+planted.Header.Get("Cookie"))
	if status, err := b.options.Check(planted); err != nil {
		t.Errorf("with a cookie that another server of this host set: %d: %v", status, err)
	}
	b.cookie.Value = strings.Repeat("A", len(b.cookie.Value))
	if got := b.check("GET", at); got != http.StatusUnauthorized {
		t.Errorf("with a cookie of its own making: %d", got)
	}
}

func TestWhoMayLogIn(t *testing.T) {
	const at = "http://127.0.0.1:7980/login"
	for name, v := range map[string]struct {
		change  func(*httpapi.Options)
		shown   string
		headers []string
		want    int
	}{
		"another token":       {shown: token + "x", want: http.StatusUnauthorized},
		"a part of it":        {shown: token[1:], want: http.StatusUnauthorized},
		"none":                {want: http.StatusUnauthorized},
		"another site":        {shown: token, headers: []string{"Sec-Fetch-Site", "cross-site"}, want: http.StatusForbidden},
		"another port":        {shown: token, headers: []string{"Sec-Fetch-Site", "same-site"}, want: http.StatusForbidden},
		"an old browser":      {shown: token, headers: []string{"Sec-Fetch-Site", "", "Origin", "http://evil.example"}, want: http.StatusForbidden},
		"without sessions":    {change: func(o *httpapi.Options) { o.Sessions = nil }, shown: token, want: http.StatusNotFound},
		"no token is wanted":  {change: func(o *httpapi.Options) { o.Token = nil }, want: http.StatusNotFound},
		"no token is known":   {change: func(o *httpapi.Options) { o.Token = func() secret.String { return "" } }, want: http.StatusUnauthorized},
		"without certificate": {change: func(o *httpapi.Options) { o.ClientCertificates = true }, shown: token, want: http.StatusForbidden},
		"the token":           {shown: token},
	} {
		b := newBrowser()
		if v.change != nil {
			v.change(&b.options)
		}
		if got := b.login(t, at, v.shown, v.headers...); got != v.want {
			t.Errorf("%s: %d, want %d", name, got, v.want)
		}
	}
}

func TestSessionsEnd(t *testing.T) {
	const at = "http://127.0.0.1:7980/"
	synctest.Test(t, func(t *testing.T) {
		current := secret.String(token)
		b := newBrowser()
		b.options.Token = func() secret.String { return current }
		begin := func() {
			t.Helper()
			if status := b.login(t, at, string(current)); status != 0 || b.check("GET", at) != 0 {
				t.Fatalf("no session: %d", status)
			}
		}
		over := func(why string) {
			t.Helper()
			if status := b.check("GET", at); status != http.StatusUnauthorized {
				t.Errorf("%s: %d", why, status)
			}
		}

		begin()
		time.Sleep(12*time.Hour - time.Second)
		if status := b.check("GET", at); status != 0 {
			t.Errorf("before its end: %d", status)
		}
		time.Sleep(time.Second)
		over("at its end")

		begin()
		current = "another-token-of-this-agent"
		over("another token")

		begin()
		w := httptest.NewRecorder()
		if status, err := b.options.Logout(w, b.request("POST", at+"logout", "Sec-Fetch-Site", "same-site")); err == nil || b.check("GET", at) != 0 {
			t.Errorf("another port of this host ends it: %d", status)
		}
		if status, err := b.options.Logout(w, b.request("POST", at+"logout")); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		if c := w.Result().Cookies(); len(c) != 1 || c[0].MaxAge >= 0 || c[0].Value != "" {
			t.Errorf("the cookie is not removed: %v", c)
		}
		over("after logout")

		begin()
		first := b.cookie
		for range 64 {
			begin()
		}
		last := b.cookie
		b.cookie = first
		over("the first of 65")
		b.cookie = last
		if status := b.check("GET", at); status != 0 {
			t.Errorf("the last of 65: %d", status)
		}
	})
}

// A stream of events ends with the session that it was opened with, and with the token.
func TestSessionEndsStream(t *testing.T) {
	current := make(chan secret.String, 1)
	b := newBrowser()
	b.options.Token = func() secret.String { s := <-current; current <- s; return s }
	for name, v := range map[string]struct {
		bearer bool
		end    func(at string)
	}{
		"logout":           {end: func(at string) { _, _ = b.options.Logout(httptest.NewRecorder(), b.request("POST", at+"/logout")) }},
		"another token":    {end: func(string) { <-current; current <- "another-token-of-this-agent" }},
		"the token itself": {bearer: true, end: func(string) { <-current; current <- "another-token-of-this-agent" }},
	} {
		t.Run(name, func(t *testing.T) {
			current <- token
			defer func() { <-current }()
			n, addr := serveWith(t, b.options, nil)
			at := "http://" + addr
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+httpapi.PathEvents, nil)
			if err != nil {
				t.Fatal(err)
			}
			if v.bearer {
				r.Header.Set("Authorization", "Bearer "+token)
			} else {
				if status := b.login(t, at, token); status != 0 {
					t.Fatalf("status %d", status)
				}
				r.AddCookie(b.cookie)
			}
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			lines := bufio.NewScanner(response.Body)
			next := func(kind string) bool {
				for lines.Scan() {
					if lines.Text() == "event: "+kind {
						return true
					}
				}
				return false
			}
			if !next("master_changed") {
				t.Fatalf("%s: no master: %v", response.Status, lines.Err())
			}
			v.end(at)
			if err := n.Resign(t.Context()); err != nil {
				t.Fatal(err)
			}
			if next("master_lost") {
				t.Error("it says that the master is lost")
			} else if err := lines.Err(); err != nil {
				t.Errorf("it did not end: %v", err)
			}
		})
	}
}
