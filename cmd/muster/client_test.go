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
	"github.com/musterhq/muster/secret"
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
		status, stdout, stderr := execute(t, v.command, "--agent", addr)
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
	t.Setenv(agentVariable, agentServer(t, map[string]string{httpapi.PathMembers: membersJSON, httpapi.PathMaster: masterJSON}))
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
	status, stdout, stderr := execute(t, "master", "--agent", addr)
	if want := "muster: no master is known: 1 of 3 members is seen\n"; status != statusFailed || stdout != "" || stderr != want {
		t.Errorf("status %d, stdout %q, stderr %q, want status 1 and %q", status, stdout, stderr, want)
	}
}

func TestNoAgent(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"members", "master", "view", "status", "voters", "resign", "leave"} {
		status, stdout, stderr := executeProcess(t, command, "--agent", addr)
		start, end := "muster: no agent answers at "+addr+" (of --agent): ", "; start one with muster agent or name it with --agent\n"
		if status != statusFailed || stdout != "" || !strings.HasPrefix(stderr, start) || !strings.HasSuffix(stderr, end) {
			t.Errorf("%s: status %d, stdout %q, stderr %q", command, status, stdout, stderr)
		}
	}
}

func TestWhatAnswersIsNoAgent(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"another API":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"hello": "world"}`)) },
		"an empty object": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) },
		"a web page":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"a refusal":       func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "go away", http.StatusForbidden) },
		"a broken answer": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "100") },
	} {
		server := httptest.NewServer(handler)
		for _, command := range []string{"members", "master", "view", "status", "voters", "resign", "leave"} {
			status, stdout, stderr := execute(t, command, "--agent", server.Listener.Addr().String())
			if status != statusFailed || stdout != "" || !strings.HasPrefix(stderr, "muster: ") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%s of %s: status %d, stdout %q, stderr %q", command, name, status, stdout, stderr)
			}
		}
		server.Close()
	}
}

// What is logged of the API's port is found in the configuration.
func TestAgentAddr(t *testing.T) {
	for given, want := range map[string]string{
		"10.0.0.5:80": "10.0.0.5:80",
		"[::1]:80":    "[::1]:80",
		// Where an agent serves, as its configuration has it.
		":80":        "127.0.0.1:80",
		"0.0.0.0:80": "127.0.0.1:80",
		"[::]:80":    "[::1]:80",
	} {
		if got, secure, err := agentService.address(given); got != want || secure || err != nil {
			t.Errorf("%q: %q, %v, want %q", given, got, err, want)
		}
	}
}

// What configures an agent leads no command, and what leads commands configures none.
func TestWhichAgentIsAsked(t *testing.T) {
	named := writeFile(t, "named.yaml", `
cluster: [not, what, a, client, reads]
http: {addr: "127.0.0.1:81", token: 0123456789abcdef-file, token_file: ""}
`)
	silent := writeFile(t, "silent.yaml", goodFile)
	for _, v := range []struct {
		name         string
		flags        askFlags
		env          map[string]string
		addr, source string
		token        secret.String
	}{
		{name: "nothing", addr: "127.0.0.1:7980"},
		{name: "what configures an agent", env: map[string]string{
			"MUSTER_HTTP_ADDR": "10.0.0.1:1", "MUSTER_HTTP_TOKEN": "another", "MUSTER_HTTP_TLS_CERT_FILE": "/none", "MUSTER_HTTP_TOKEN_FILE": "/none",
		}, addr: "127.0.0.1:7980"},
		{name: "the environment", env: map[string]string{agentVariable: "127.0.0.1:82", agentTokenVariable: "tok", fileVariable: named},
			addr: "127.0.0.1:82", source: agentVariable, token: "tok"},
		{name: "a flag before the environment", flags: askFlags{addr: "127.0.0.1:83"}, env: map[string]string{agentVariable: "127.0.0.1:82", fileVariable: named},
			addr: "127.0.0.1:83", source: "--agent"},
		{name: "a file before the environment", flags: askFlags{file: named}, env: map[string]string{agentVariable: "127.0.0.1:82", agentTokenVariable: "tok"},
			addr: "127.0.0.1:81", source: named + ":3", token: "0123456789abcdef-file"},
		{name: "the file of the environment", env: map[string]string{fileVariable: named, "MUSTER_HTTP_ADDR": "10.0.0.1:1", agentTokenVariable: "tok"},
			addr: "127.0.0.1:81", source: named + ":3", token: "0123456789abcdef-file"},
		{name: "a file without an address", flags: askFlags{file: silent}, addr: "127.0.0.1:7980", source: silent},
	} {
		t.Run(v.name, func(t *testing.T) {
			for name, value := range v.env {
				t.Setenv(name, value)
			}
			v.flags.service = agentService
			a, err := v.flags.agent()
			if err != nil || a.addr != v.addr || a.source != v.source || a.token != v.token || a.tls != nil {
				t.Errorf("%s of %q with the token %q, %v; want %s of %q with %q", a.addr, a.source, string(a.token), err, v.addr, v.source, string(v.token))
			}
		})
	}
	if _, err := (askFlags{service: agentService, addr: "127.0.0.1:1", file: named}).agent(); err == nil || !strings.Contains(err.Error(), "keep one of the two") {
		t.Errorf("--agent and -c: %v", err)
	}
	bad := writeFile(t, "bad.yaml", "http: {adr: x}\n")
	if _, err := (askFlags{service: agentService, file: bad}).agent(); err == nil || !strings.Contains(err.Error(), bad+`:1: http.adr: "x": unknown key`) {
		t.Errorf("a wrong key: %v", err)
	}
	t.Setenv(agentVariable, "10.0.0.9")
	if _, err := (askFlags{service: agentService}).agent(); err == nil || !strings.HasPrefix(err.Error(), `MUSTER_AGENT: "10.0.0.9": not the address`) {
		t.Errorf("a wrong variable: %v", err)
	}
}

// The variables of commands are none of an agent's that is started in the same shell.
func TestAgentIgnoresTheVariablesOfCommands(t *testing.T) {
	for _, name := range []string{agentVariable, agentTokenVariable, agentTokenFileVariable, agentCAFileVariable, agentCertFileVariable, agentKeyFileVariable} {
		t.Setenv(name, "127.0.0.1:1")
	}
	if status, _, stderr := execute(t, "config", "check", "-c", writeFile(t, "muster.yaml", goodFile)); status != statusDone {
		t.Error(stderr)
	}
}
