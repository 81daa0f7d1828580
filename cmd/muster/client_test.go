package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/node/httpapi"
)

const membersJSON = `[
 {"node_id":"n1","instance_id":"0123456789abcdef","addr":"10.0.0.5:7946","zone":"eu-1","tags":["web","blue"],"meta":{"v":"1"},"state":"alive","self":true,"master":true,"new_field":1},
 {"node_id":"n2","instance_id":"fedcba9876543210","addr":"10.0.0.6:7946","zone":"","tags":[],"meta":{},"state":"suspect","self":false,"master":false},
 {"node_id":"\u001b[31mn3","instance_id":"3","addr":"10.0.0.7:7946","zone":"","tags":[],"meta":{},"state":"alive","self":false,"master":false}
]`

const masterJSON = `{"node_id":"n1","instance_id":"0123456789abcdef","addr":"10.0.0.5:7946","app_addrs":{"http":"10.0.0.5:8080"},"term":7,"cluster_id":"c1"}`

// agentServer answers as an agent does.
func agentServer(t *testing.T, answers map[string]string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(httpapi.Error{Error: "no master is known: 1 of 3 members is seen"})
			return
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestAskAnAgent(t *testing.T) {
	addr := agentServer(t, map[string]string{
		httpapi.PathMembers: membersJSON,
		httpapi.PathMaster:  masterJSON,
		httpapi.PathView: `{"seq":12,"term":7,"cluster_id":"c1","majority":true,"members":` + membersJSON +
			`,"departed":[{"node_id":"n4","instance_id":"4","addr":"10.0.0.8:7946","zone":"","tags":[],"meta":{},"state":"left","self":false,"master":false}]}`,
	})
	const members = `NODE      INSTANCE      ADDRESS        STATE    MASTER  SELF  ZONE  TAGS
n1        0123456789ab  10.0.0.5:7946  alive    *       *     eu-1  web,blue
n2        fedcba987654  10.0.0.6:7946  suspect  -       -     -     -
?[31mn3   3             10.0.0.7:7946  alive    -       -     -     -
`
	for _, v := range []struct{ command, want string }{
		{"members", strings.ReplaceAll(members, "   3     ", "  3     ")},
		{"master", "NODE  INSTANCE      ADDRESS        TERM  CLUSTER ID  APP ADDRESSES\n" +
			"n1    0123456789ab  10.0.0.5:7946  7     c1          http=10.0.0.5:8080\n"},
		{"view", "cluster c1, term 7, view 12, a majority is seen\n\n" + members +
			"n4        4             10.0.0.8:7946  left     -       -     -     -\n"},
	} {
		status, stdout, stderr := execute(t, v.command, "--http", addr)
		if status != statusDone || stderr != "" {
			t.Errorf("%s: status %d, stderr %q", v.command, status, stderr)
		}
		if diff := cmp.Diff(columns(v.want), columns(stdout)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", v.command, diff)
		}
	}
}

// columns splits lines at white space, whose amount does not matter.
func columns(text string) [][]string {
	var lines [][]string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

// TestJSONIsTheAgents holds that -o json hands on what the agent said, with
// fields that this program does not know.
func TestJSONIsTheAgents(t *testing.T) {
	t.Setenv(httpAddrVariable, agentServer(t, map[string]string{httpapi.PathMembers: membersJSON, httpapi.PathMaster: masterJSON}))
	for command, answer := range map[string]string{"members": membersJSON, "master": masterJSON} {
		status, stdout, stderr := execute(t, command, "-o", "json")
		if status != statusDone || stderr != "" {
			t.Errorf("%s: status %d, stderr %q", command, status, stderr)
		}
		var want, got any
		if err := json.Unmarshal([]byte(answer), &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatalf("%s prints no JSON: %v\n%s", command, err, stdout)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", command, diff)
		}
	}
}

func TestNoMaster(t *testing.T) {
	addr := agentServer(t, nil)
	status, stdout, stderr := execute(t, "master", "--http", addr)
	if want := "muster: no master is known: 1 of 3 members is seen\n"; status != statusFailed || stdout != "" || stderr != want {
		t.Errorf("status %d, stdout %q, stderr %q, want status 1 and %q", status, stdout, stderr, want)
	}
}

func TestNoAgent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"members", "master", "view"} {
		status, stdout, stderr := executeProcess(t, command, "--http", addr)
		start, end := "muster: no agent answers at "+addr+": ", "; start one with muster agent or name it with --http\n"
		if status != statusFailed || stdout != "" || !strings.HasPrefix(stderr, start) || !strings.HasSuffix(stderr, end) {
			t.Errorf("%s: status %d, stdout %q, stderr %q", command, status, stdout, stderr)
		}
	}
}

func TestWhatAnswersIsNoAgent(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"another API":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"hello": "world"}`)) },
		"a web page":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"a refusal":       func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "go away", http.StatusForbidden) },
		"a broken answer": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "100") },
	} {
		server := httptest.NewServer(handler)
		status, stdout, stderr := execute(t, "members", "--http", server.Listener.Addr().String())
		server.Close()
		if status != statusFailed || stdout != "" || !strings.HasPrefix(stderr, "muster: ") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: status %d, stdout %q, stderr %q", name, status, stdout, stderr)
		}
	}
}

// What is logged of the API's port is found in the configuration.
func TestListenedAddr(t *testing.T) {
	for configured, host := range map[string]string{"0.0.0.0:0": "0.0.0.0", ":0": "", "localhost:0": "localhost"} {
		l, err := net.Listen("tcp", configured)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		if got := listenedAddr(configured, l); got != net.JoinHostPort(host, port) {
			t.Errorf("%s: %s, and it listens on %s", configured, got, l.Addr())
		}
		l.Close()
	}
}

func TestAgentAddr(t *testing.T) {
	for _, v := range []struct{ flag, env, want string }{
		{"", "", "127.0.0.1:7980"},
		{"", "10.0.0.5:80", "10.0.0.5:80"},
		{"[::1]:80", "10.0.0.5:80", "[::1]:80"},
		// Where an agent serves, as its configuration has it.
		{"", ":80", "127.0.0.1:80"},
		{"0.0.0.0:80", "", "127.0.0.1:80"},
		{"[::]:80", "", "[::1]:80"},
	} {
		t.Setenv(httpAddrVariable, v.env)
		if got, secure, err := agentService.address(v.flag); got != v.want || secure || err != nil {
			t.Errorf("flag %q, variable %q: %q, %v, want %q", v.flag, v.env, got, err, v.want)
		}
	}
}
