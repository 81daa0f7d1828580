//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/node/httpapi"
)

// marker is what no output may hold. It is found in whole, and by what it ends with
// where something was cut off in front.
const marker = "hush-hush-hush-marker"

func leaks(t *testing.T, where, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, "hush-marker") {
			t.Errorf("%s tells a secret: %s", where, line)
		}
	}
}

// Every key, given as a secret where it is one and else as a URL with a password, by
// the environment and by the file, is shown by no command, whether it is accepted or
// wrong.
func TestNoKeyShowsASecret(t *testing.T) {
	keys, err := config.Keys()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		var values []string
		switch {
		case k.Type == "secret":
			values = []string{marker, marker + "\n\x00"}
		case k.Type == "map":
			values = []string{"k=http://me:" + marker + "@10.0.0.5:1/x", "http://me:" + marker + "@10.0.0.5:1/x"}
		default:
			values = []string{"http://me:" + marker + "@10.0.0.5:1/x", "http://me:" + marker + "@10.0.0.5:1 x%zz"}
		}
		for _, value := range values {
			for form, env := range map[string][2]string{"environment": {k.Env, value}, "file": {}} {
				file := goodFile
				if form == "file" {
					file = nested(k.Name, value, k.Type)
				}
				path := writeFile(t, "muster.yaml", file)
				t.Run(k.Name+" "+form, func(t *testing.T) {
					if env[0] != "" {
						t.Setenv(env[0], strings.ReplaceAll(env[1], "\x00", ""))
					}
					for _, command := range []string{"check", "show"} {
						_, stdout, stderr := execute(t, "config", command, "-c", path)
						leaks(t, command+" on stdout", stdout)
						leaks(t, command+" on stderr", stderr)
					}
				})
			}
		}
	}
}

// nested is a configuration with one key more.
func nested(key, value, kind string) string {
	root := map[string]any{
		"cluster":  "orders",
		"provider": map[string]any{"static": map[string]any{"peers": []string{"10.0.0.5:7946"}}},
	}
	m := root
	path := strings.Split(key, ".")
	for _, name := range path[:len(path)-1] {
		next, ok := m[name].(map[string]any)
		if !ok {
			next = make(map[string]any)
			m[name] = next
		}
		m = next
	}
	last := path[len(path)-1]
	switch kind {
	case "map":
		m[last] = map[string]any{"k": value}
	case "list":
		m[last] = []string{value}
	default:
		m[last] = value
	}
	text, err := json.Marshal(root) // JSON is YAML
	if err != nil {
		panic(err)
	}
	return string(text)
}

// An agent that holds a secret for every key that takes one, whose providers come and
// go, shows none: not at debug level, not in errors, not in its API.
func TestAgentShowsNoSecret(t *testing.T) {
	t.Parallel()
	keys, err := config.Keys()
	if err != nil {
		t.Fatal(err)
	}
	c := emptyCluster(t)
	addrs := testAddrs(t, 2)
	etcd, consul := testserver.StartEtcd(t), testserver.StartConsul(t)
	document := map[string]any{
		"http": map[string]any{"addr": addrs[1]},
		"provider": map[string]any{
			"etcd": map[string]any{"endpoints": []string{etcd.Endpoint()}, "username": "me"},
			"consul": map[string]any{"address": consul.Endpoint(), "check": map[string]any{
				"http": "http://me:" + marker + "@127.0.0.1:1/x", "header": map[string]any{"Authorization": "Bearer " + marker}}},
		},
		"mastership": map[string]any{"authority": "etcd", "ttl": "2s"},
	}
	secrets := 0
	for _, k := range keys {
		if k.Type != "secret" {
			continue
		}
		secrets++
		m := document
		path := strings.Split(k.Name, ".")
		for _, name := range path[:len(path)-1] {
			m = m[name].(map[string]any)
		}
		m[path[len(path)-1]] = marker
	}
	if secrets < 3 {
		t.Fatalf("only %d secret keys", secrets)
	}
	agent := c.add("node-1", addrs[0], addrs[1], document)
	c.start(agent)
	read := func(ctx context.Context, path string) string {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agent.httpAddr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+marker)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return ""
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return response.Status + "\n" + string(body)
	}
	look := func(when string) {
		t.Helper()
		for _, path := range []string{httpapi.PathStatus, httpapi.PathMembers, httpapi.PathMaster, httpapi.PathView, httpapi.PathReady, httpapi.PathMetrics, "/"} {
			text := read(t.Context(), path)
			if text == "" || strings.HasPrefix(text, "401") {
				t.Errorf("%s: %s: %q", when, path, text)
			}
			leaks(t, when+" "+path, text)
		}
	}
	status := func(ctx context.Context) (s httpapi.Status) {
		_, body, _ := strings.Cut(read(ctx, httpapi.PathStatus), "\n")
		_ = json.Unmarshal([]byte(body), &s)
		return s
	}
	well := func(ctx context.Context) bool {
		s := status(ctx)
		return s.Mastership.IsMaster && len(s.Providers) == 2 && s.Providers[0].Registered && s.Providers[1].Registered
	}
	c.eventually("the agent is master and registered with both", well)
	look("all is well")
	etcd.Kill()
	consul.Kill()
	c.eventually("both providers fail", func(ctx context.Context) bool {
		s := status(ctx)
		return len(s.Providers) == 2 && s.Providers[0].Error != "" && s.Providers[1].Error != ""
	})
	look("the providers are gone")
	status1, stdout, stderr := executeProcess(t, "discover", "-c", agent.config, "--timeout", "1s")
	leaks(t, fmt.Sprintf("discover (status %d)", status1), stdout+stderr)
	_, stdout, stderr = execute(t, "config", "show", "-c", agent.config)
	leaks(t, "config show", stdout+stderr)
	etcd.Restart()
	consul.Restart()
	c.eventually("the agent is master and registered with both again", well)
	look("all is well again")
	var log []byte
	readLog := func() {
		if log, err = os.ReadFile(agent.logFile); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("something is logged at debug level", func(context.Context) bool {
		readLog()
		return strings.Contains(string(log), `"level":"DEBUG"`)
	})
	c.stopAll()
	readLog()
	leaks(t, "the log", string(log))
}
