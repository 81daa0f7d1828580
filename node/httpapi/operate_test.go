package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/secret"
)

// post asks for a path that changes something, with these headers, in pairs.
func post(t *testing.T, url string, headers ...string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
		}
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := newClient(t, nil).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var body strings.Builder
	_ = response.Write(&body)
	return response.StatusCode, body.String()
}

// What changes something is for those who may: with the token where one is wanted, and never
// for a page of another site in a browser of this host.
func TestWhoMayChangeSomething(t *testing.T) {
	asked := 0
	operator := &httpapi.Operator{
		Leave:  func(context.Context) error { asked++; return nil },
		Reload: func(context.Context) (httpapi.Reloaded, error) { asked++; return httpapi.Reloaded{}, nil },
		Call:   func(context.Context, httpapi.Call) ([]httpapi.CallReply, error) { asked++; return nil, nil },
	}
	shown := func() secret.String { return token }
	const kind, json = "Content-Type", "application/json"
	for _, v := range []struct {
		name    string
		options httpapi.Options
		headers []string
		want    int
	}{
		{"on loopback", httpapi.Options{LocalNames: true}, []string{kind, json}, 200},
		{"with a charset", httpapi.Options{LocalNames: true}, []string{kind, json + "; charset=utf-8"}, 200},
		{"a page of its own", httpapi.Options{LocalNames: true}, []string{kind, json, "Sec-Fetch-Site", "same-origin"}, 200},
		{"with the token", httpapi.Options{Token: shown}, []string{kind, json, "Authorization", "Bearer " + token}, 200},
		{"without the token", httpapi.Options{Token: shown}, []string{kind, json}, 401},
		{"with another", httpapi.Options{Token: shown}, []string{kind, json, "Authorization", "Bearer x" + token}, 401},
		{"without a certificate", httpapi.Options{ClientCertificates: true}, []string{kind, json}, 403},
		{"a form", httpapi.Options{LocalNames: true}, []string{kind, "application/x-www-form-urlencoded"}, 415},
		{"plain text", httpapi.Options{LocalNames: true}, []string{kind, "text/plain"}, 415},
		{"no type", httpapi.Options{LocalNames: true}, nil, 415},
		{"a page of another site", httpapi.Options{LocalNames: true}, []string{kind, json, "Origin", "https://example.org"}, 403},
		{"a page of another port", httpapi.Options{LocalNames: true}, []string{kind, json, "Origin", "http://127.0.0.1:1"}, 403},
		{"by what the browser says", httpapi.Options{LocalNames: true}, []string{kind, json, "Sec-Fetch-Site", "cross-site"}, 403},
		{"a page of another site with the token", httpapi.Options{Token: shown}, []string{kind, json, "Authorization", "Bearer " + token, "Origin", "https://example.org"}, 403},
		{"a name that leads to loopback", httpapi.Options{LocalNames: true}, []string{kind, json, "Host", "example.org"}, 403},
		{"an API that nothing guards", httpapi.Options{}, []string{kind, json}, 403},
	} {
		t.Run(v.name, func(t *testing.T) {
			v.options.Operator = operator
			_, addr := serveWith(t, v.options, nil)
			for _, path := range []string{httpapi.PathLeave, httpapi.PathReload, httpapi.PathCall + "?method=a"} {
				before := asked
				status, body := post(t, "http://"+addr+path, v.headers...)
				if status != v.want || (asked > before) != (v.want == 200) {
					t.Errorf("%s: status %d, want %d; asked %d times: %s", path, status, v.want, asked-before, body)
				}
			}
			want := v.want
			if want == 200 {
				want = 400 // this node has no voters
			}
			if status, body := post(t, "http://"+addr+httpapi.PathFoundVoters, v.headers...); status != want {
				t.Errorf("%s: status %d, want %d: %s", httpapi.PathFoundVoters, status, want, body)
			}
		})
	}
	for name, options := range map[string]httpapi.Options{"without an operator": {LocalNames: true}, "without anything": {}} {
		_, addr := serveWith(t, options, nil)
		for _, path := range []string{httpapi.PathResign, httpapi.PathLeave, httpapi.PathReload, httpapi.PathFoundVoters, httpapi.PathCall + "?method=a", httpapi.PathCallConnect} {
			if status, _ := post(t, "http://"+addr+path, kind, json); status != 403 {
				t.Errorf("%s: %s: status %d", name, path, status)
			}
		}
	}
}

func TestResignByTheAPI(t *testing.T) {
	n, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{
		Leave:  func(context.Context) error { return errors.New("it hangs") },
		Reload: func(context.Context) (httpapi.Reloaded, error) { return httpapi.Reloaded{}, errors.New("line 7") },
	}}, nil)
	wait.For(t, "the node is master", n.IsMaster)
	status, body := post(t, "http://"+addr+httpapi.PathResign, "Content-Type", "application/json")
	if status != 200 || !strings.Contains(body, `{"node_id":"a","term":1}`) || n.IsMaster() {
		t.Errorf("status %d, master: %v: %s", status, n.IsMaster(), body)
	}
	if status, body := post(t, "http://"+addr+httpapi.PathResign, "Content-Type", "application/json"); status != http.StatusConflict || !strings.Contains(body, "no master is known") {
		t.Errorf("of a node that is not master: status %d: %s", status, body)
	}
	for path, want := range map[string]string{httpapi.PathLeave: "node a: leaving: it hangs", httpapi.PathReload: "line 7"} {
		if status, body := post(t, "http://"+addr+path, "Content-Type", "application/json"); status != 500 || !strings.Contains(body, want) {
			t.Errorf("%s: status %d: %s", path, status, body)
		}
	}
}

// The master's work takes longer to end than a server has to write an answer: there is one all
// the same.
func TestResignAnswersHoweverLongTheWorkTakes(t *testing.T) {
	t.Parallel()
	const writeTimeout = 100 * time.Millisecond
	n, addr := serveWith(t, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{}}, func(s *http.Server) { s.WriteTimeout = writeTimeout })
	working := make(chan struct{})
	go func() {
		_ = n.WhileMaster(t.Context(), func(ctx context.Context, _ node.Term) error {
			close(working)
			<-ctx.Done()
			time.Sleep(3 * writeTimeout) // the work ends slowly
			return nil
		})
	}()
	<-working
	if status, body := post(t, "http://"+addr+httpapi.PathResign, "Content-Type", "application/json"); status != http.StatusOK && !strings.Contains(body, "resigning") {
		t.Errorf("status %d: %s", status, body)
	}
}
