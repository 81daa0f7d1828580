//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/tlsfiles"
)

// An API that other hosts can reach is refused at the start unless it has TLS and a
// token.
func TestAPIBeyondLoopback(t *testing.T) {
	ca := newCommandCA(t)
	cert, key := ca.issue(t, "api", "--host", "127.0.0.1")
	token := writeFile(t, "token", "0123456789abcdef-token\n")
	withTLS, withToken := "tls: {cert_file: "+cert+", key_file: "+key+"}", "token_file: "+token
	for _, v := range []struct{ http, want string }{
		{`addr: "0.0.0.0:0"`, "configure http.tls and http.token_file, or write an address of loopback"},
		{`addr: ":0"`, "configure http.tls and http.token_file"},
		{`addr: "[::]:0"`, "configure http.tls and http.token_file"},
		{`addr: "0.0.0.0:0", ` + withTLS, "configure http.token_file, or"},
		{`addr: "0.0.0.0:0", ` + withToken, "configure http.tls, or"},
	} {
		file := writeFile(t, "muster.yaml", goodFile+"http: {"+v.http+"}\n")
		status, stdout, stderr := executeProcess(t, "agent", "-c", file)
		if status != statusUsage || stdout != "" || !strings.HasPrefix(stderr, "muster: "+file+":4: http.addr: \"") || !strings.Contains(stderr, v.want) {
			t.Errorf("%s: status %d, stderr %q", v.http, status, stderr)
		}
	}
	file := writeFile(t, "muster.yaml", goodFile+`http: {addr: "0.0.0.0:0", `+withTLS+", "+withToken+"}\n")
	if status, _, stderr := execute(t, "config", "check", "-c", file); status != statusDone {
		t.Errorf("with both: %s", stderr)
	}
}

// The commands reach an agent whose API has TLS and a token, by flags and by the
// environment, and say what is missing where something is.
func TestCommandsOverTLSWithAToken(t *testing.T) {
	c := emptyCluster(t)
	addrs := testAddrs(t, 2)
	ca := newCommandCA(t)
	cert, key := ca.issue(t, "api", "--host", "127.0.0.1")
	token := writeFile(t, "token", "0123456789abcdef-token\n")
	config := staticProvider(addrs[:1])
	config["http"] = map[string]any{
		"addr":       "0.0.0.0:" + addrs[1][strings.LastIndexByte(addrs[1], ':')+1:],
		"token_file": token,
		"tls":        map[string]any{"cert_file": cert, "key_file": key},
	}
	agent := c.add("node-1", addrs[0], addrs[1], config)
	c.start(agent)
	flags := []string{"--agent", "https://" + agent.httpAddr, "--ca-file", ca.file(), "--token-file", token}
	c.eventually("the agent knows its master", func(context.Context) bool {
		status, stdout, _ := execute(t, append([]string{"master"}, flags...)...)
		return status == statusDone && strings.Contains(stdout, "node-1")
	})
	for _, command := range []string{"members", "view"} {
		if status, stdout, stderr := execute(t, append([]string{command}, flags...)...); status != statusDone || !strings.Contains(stdout, "node-1") {
			t.Errorf("%s: status %d, stdout %q, stderr %q", command, status, stdout, stderr)
		}
	}
	for _, v := range []struct{ name, want string }{
		{"no token", "a token is wanted, as Authorization: Bearer TOKEN (none is shown); name its file with --token-file or MUSTER_AGENT_TOKEN_FILE"},
		{"wrong token", "the token is not the one that is wanted"},
		{"no TLS", "speaks TLS; write --agent https://"},
		{"another CA", "is not believed"},
		{"another host", "is for api, 127.0.0.1, and not for localhost; name a host that it is for with --agent"},
		{"no token file", "--token-file: "},
	} {
		args := append([]string{"members"}, flags...)
		switch v.name {
		case "no token":
			args = args[:5]
		case "wrong token":
			args[6] = writeFile(t, "other", "another")
		case "no TLS":
			args = []string{"members", "--agent", agent.httpAddr}
		case "another CA":
			args[4] = newCommandCA(t).file()
		case "another host":
			args[2] = strings.Replace(args[2], "127.0.0.1", "localhost", 1)
		case "no token file":
			args[6] = filepath.Join(t.TempDir(), "none")
		}
		status, stdout, stderr := execute(t, args...)
		if status == statusDone || stdout != "" || !strings.Contains(stderr, v.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: status %d, stdout %q, stderr %q, want %s", v.name, status, stdout, stderr, v.want)
		}
	}
	// Its own file has all of it, be the certificate for another name.
	for _, args := range [][]string{{"members", "-c", agent.config}, {"agent", "health", "-c", agent.config}} {
		if status, _, stderr := execute(t, args...); status != statusDone || stderr != "" {
			t.Errorf("%v: status %d, %s", args, status, stderr)
		}
	}
	other := writeFile(t, "other.yaml", "http: {addr: "+agent.httpAddr+", token: not the one that it wants, tls: {cert_file: "+cert+", key_file: "+key+"}}\n")
	if status, _, stderr := execute(t, "members", "-c", other); status != statusFailed || !strings.Contains(stderr, "the agent at "+agent.httpAddr+" (of "+other+":1): ") ||
		!strings.Contains(stderr, "(shown is that of "+other+")") {
		t.Errorf("with the token of another file: status %d, %s", status, stderr)
	}
	t.Setenv(agentVariable, "https://"+agent.httpAddr)
	t.Setenv(agentTokenFileVariable, token)
	t.Setenv(agentCAFileVariable, ca.file())
	if status, _, stderr := execute(t, "members"); status != statusDone {
		t.Errorf("by the environment: %s", stderr)
	}
	t.Setenv(agentTokenVariable, "not the one that it wants")
	if status, _, stderr := execute(t, "members"); status != statusFailed || !strings.Contains(stderr, "(of MUSTER_AGENT): ") || !strings.Contains(stderr, "(shown is that of MUSTER_AGENT_TOKEN)") {
		t.Errorf("with another token in the environment: status %d, %s", status, stderr)
	}
	// What probes a container has no token.
	known, err := tlsfiles.Config{CAFile: ca.file()}.Client()
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: known}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("https://" + agent.httpAddr + httpapi.PathReady)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("%s without a token: status %d", httpapi.PathReady, response.StatusCode)
	}
	if _, err := tls.Dial("tcp", agent.httpAddr, &tls.Config{RootCAs: known.RootCAs, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	c.stopAll()
	log, err := os.ReadFile(agent.logFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "0123456789abcdef-token") {
		t.Error("the token is in the log")
	}
}

func TestAskUsage(t *testing.T) {
	token := writeFile(t, "token", "0123456789abcdef-token\n")
	for _, v := range []struct {
		args []string
		want string
	}{
		{[]string{"--agent", "10.0.0.5:7980", "--token-file", token}, "the token would travel in the clear; write https://10.0.0.5:7980"},
		{[]string{"--agent", "http://10.0.0.5:7980", "--ca-file", token}, "plain HTTP beside --ca-file"},
		{[]string{"--agent", "https://127.0.0.1:7980", "--ca-file", token}, `--ca-file or MUSTER_AGENT_CA_FILE: "` + token + `": holds no PEM certificate`},
		{[]string{"--agent", "https://127.0.0.1:7980", "--cert-file", token}, `--key-file or MUSTER_AGENT_KEY_FILE: "": missing`},
		{[]string{"--agent", "https://me:hush@127.0.0.1:7980"}, `"[redacted]@127.0.0.1:7980": not the address of an agent`},
		{[]string{"--agent", "https://127.0.0.1"}, "not the address of an agent"},
	} {
		status, stdout, stderr := execute(t, append([]string{"members"}, v.args...)...)
		if status != statusUsage || stdout != "" || !strings.Contains(stderr, v.want) || strings.Contains(stderr, "hush") {
			t.Errorf("%v: status %d, stdout %q, stderr %q, want %s", v.args, status, stdout, stderr, v.want)
		}
	}
}
