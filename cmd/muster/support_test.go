//go:build unix

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/musterhq/muster/agent/doctor"
	"github.com/musterhq/muster/agent/support"
	"github.com/musterhq/muster/node/httpapi"
)

// unpack returns the files of an archive, by name.
func unpack(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for archive := tar.NewReader(zipped); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil || header.Mode != 0o600 {
			t.Fatalf("%s: mode %o, %v", header.Name, header.Mode, err)
		}
		files[filepath.Base(header.Name)] = string(text)
	}
}

// supportOf runs muster support and returns what is in the archive.
func supportOf(t *testing.T, args ...string) (files map[string]string, listed string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "support.tar.gz")
	status, stdout, stderr := executeProcess(t, append([]string{"support", "-O", out}, args...)...)
	if status != statusDone || stderr != "" {
		t.Fatalf("status %d, stderr %q", status, stderr)
	}
	if info, err := os.Stat(out); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v has mode %v, want it for its owner alone", out, info.Mode())
	}
	left, err := os.ReadDir(filepath.Dir(out))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the archive there is %v, %v", left, err)
	}
	files = unpack(t, out)
	var manifest support.Manifest
	if err := json.Unmarshal([]byte(files[support.ManifestName]), &manifest); err != nil {
		t.Fatal(err)
	}
	for _, e := range manifest.Files {
		if text, ok := files[e.Name]; !ok || len(text) != e.Bytes || (e.Error == "") == strings.HasPrefix(text, "error: ") || !strings.Contains(stdout, e.Name) {
			t.Errorf("the manifest has %+v, and the file %d bytes: %.100q; listed:\n%s", e, len(text), text, stdout)
		}
	}
	if len(manifest.Files)+1 != len(files) {
		t.Errorf("the manifest lists %d files of %d", len(manifest.Files), len(files))
	}
	return files, stdout
}

// The archive of an agent that runs has what there is to know.
func TestSupportOfAnAgent(t *testing.T) {
	t.Parallel()
	c, first := formCluster(t, 1, staticProvider)
	files, _ := supportOf(t, "-c", c.agents[0].config)
	for name, want := range map[string]string{
		"version.json": `"go": "go1.`, "build.txt": "path", "system.json": `"interfaces": [`, "config.yaml": "cluster: demo #",
		"doctor.json": `"check": "configuration"`, "status.json": `"instance_id": "` + first.InstanceID + `"`, "members.json": first.NodeID,
		"master.json": first.NodeID, "view.json": `"majority": true`, "voters.json": first.Addr, "ready.txt": "ok", "metrics.txt": "muster_mastership_",
		"history.jsonl": `"kind":"active"`,
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %q:\n%.500s", name, want, files[name])
		}
	}
	// With a file that is wrong the agent is asked all the same, and another than that of the file.
	files, _ = supportOf(t, "-c", writeFile(t, "bad.yaml", "node: ["), "--agent", c.agents[0].httpAddr)
	if text := files["config.yaml"]; !strings.HasPrefix(text, "error: ") || !strings.Contains(files["status.json"], first.InstanceID) {
		t.Errorf("with a file that is wrong the configuration is %.200q, and the status %.500s", text, files["status.json"])
	}
	files, _ = supportOf(t, "-c", c.agents[0].config, "--agent", c.agents[0].httpAddr)
	var found []doctor.Finding
	if err := json.Unmarshal([]byte(files["doctor.json"]), &found); err != nil || len(found) < 5 {
		t.Errorf("the doctor found %d things, %v", len(found), err)
	}
	// What the archive has of the history can be checked as it is.
	if found, _ := incidentOf(t, statusDone, writeFile(t, "history.jsonl", files["history.jsonl"])); len(found.Masterships) == 0 {
		t.Errorf("the history is %+v", found)
	}

	// One that hangs, and one that is down, say so, each of what it does not answer.
	c.signal(c.agents[0], syscall.SIGSTOP)
	files, _ = supportOf(t, "-c", c.agents[0].config)
	c.signal(c.agents[0], syscall.SIGCONT)
	for _, name := range []string{"status.json", "metrics.txt", "history.jsonl"} {
		if !strings.HasPrefix(files[name], "error: ") || !strings.Contains(files[name], "nothing was heard for 5s") {
			t.Errorf("%s of an agent that hangs: %s", name, files[name])
		}
	}
	if files["config.yaml"] == "" || !strings.Contains(files["system.json"], `"os"`) {
		t.Error("an agent that hangs has no archive")
	}
	c.stopAll()
	files, listed := supportOf(t, "--agent", c.agents[0].httpAddr)
	if want := "no agent answers at " + c.agents[0].httpAddr; !strings.Contains(files["status.json"], want) || !strings.Contains(listed, want) {
		t.Errorf("status of an agent that is down: %s", files["status.json"])
	}
	if !strings.Contains(files["config.yaml"], "no file is named with -c") {
		t.Errorf("the configuration that nobody named: %s", files["config.yaml"])
	}
}

// The archive of a registrar has what that says.
func TestSupportOfARegistrar(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "registrar.yaml", "services: [{name: db, address: \"10.0.0.5:5432\"}]\nregistrar: {containers: false}\nprovider: {etcd: {endpoints: [\"http://127.0.0.1:1\"]}}\n")
	files, _ := supportOf(t, "-c", file)
	if _, ok := files["registrar.json"]; !ok || files["status.json"] != "" || !strings.Contains(files["registrar.json"], "no registrar answers at") {
		t.Errorf("the files are %v", slices.Sorted(maps.Keys(files)))
	}
}

// Secrets are planted everywhere: in the file, in the files that it names, in the environment, in
// URLs, in the API, in metadata. None is in the archive, in what is printed, or in what says why
// something failed.
func TestSupportTellsNoSecret(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"tls", "ca", "--dir", dir}, {"tls", "cert", "api", "--dir", dir, "--host", "127.0.0.1"}} {
		if status, _, stderr := execute(t, args...); status != statusDone {
			t.Fatal(stderr)
		}
	}
	key, err := os.ReadFile(filepath.Join(dir, "api-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	plant := func(name string) string { return "planted-" + name + "-hush" }
	tokenFile := writeFile(t, "token", plant("token-file")+"\n")
	passwordFile := writeFile(t, "password", plant("password file with spaces")+"\n")
	t.Setenv("MUSTER_PROVIDER_CONSUL_TOKEN", plant("environment"))
	t.Setenv("MUSTER_PROVIDER_CONSUL_CHECK_HEADER", "X-Key="+plant("variable of a map")+",X-Other="+plant("another"))
	t.Setenv("MUSTER_AGENT_TOKEN", plant("agent-token"))
	t.Setenv("MUSTER_OF_NOBODY", plant("unknown-variable"))
	t.Setenv("MUSTER_AGENT", "http://me:"+plant("url-of-a-variable")+"@127.0.0.1:1")
	c := emptyCluster(t)
	addrs := testAddrs(t, 2)
	agent := c.add("node-1", addrs[0], addrs[1], map[string]any{
		"node": map[string]any{
			"id": "node-1", "bind": addrs[0], "data_dir": filepath.Join(c.files.dir, "node-1"),
			"meta": map[string]any{"url": "http://me:" + plant("meta") + "@10.0.0.5/x"},
		},
		"http": map[string]any{"addr": addrs[1], "token_file": tokenFile,
			"tls": map[string]any{"cert_file": filepath.Join(dir, "api.pem"), "key_file": filepath.Join(dir, "api-key.pem")}},
		"provider": map[string]any{
			"etcd": map[string]any{"endpoints": []string{"http://127.0.0.1:1"}, "username": "me", "password_file": passwordFile},
			"consul": map[string]any{"address": "http://127.0.0.1:2", "token": plant("consul-token"), "check": map[string]any{
				"http": "http://me:" + plant("url") + "@127.0.0.1:1/x", "header": map[string]any{"Authorization": "Bearer " + plant("header")}}},
		},
		"mastership": map[string]any{"authority": "etcd", "ttl": "2s"},
	})
	c.start(agent)
	c.eventually("the API is served", func(context.Context) bool {
		conn, err := net.Dial("tcp", addrs[1])
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	wrong := "cluster: orders\nhttp: " + plant("text-for-a-section") + "\nauth: " + plant("unknown-key") + "\nprovider: {etcd: {password: {a: " + plant("section") + "}}}\n"
	for name, args := range map[string][]string{
		"an agent that runs":         {"-c", agent.config},
		"a configuration that fails": {"-c", writeFile(t, "wrong.yaml", wrong)},
		"no configuration":           {},
	} {
		t.Run(name, func(t *testing.T) {
			files, listed := supportOf(t, args...)
			files["what was printed"] = listed
			for file, text := range files {
				for line := range strings.Lines(text) {
					if strings.Contains(line, "hush") || strings.Contains(line, "planted") {
						t.Errorf("%s tells a secret: %s", file, line)
					}
				}
				for line := range strings.Lines(string(key)) {
					if !strings.HasPrefix(line, "-----") && strings.Contains(text, strings.TrimSpace(line)) {
						t.Errorf("%s has a line of the key", file)
					}
				}
			}
			for _, want := range []string{"MUSTER_PROVIDER_CONSUL_TOKEN=[redacted]", "MUSTER_AGENT_TOKEN=[redacted]", "MUSTER_OF_NOBODY=[redacted]"} {
				if !strings.Contains(files["environment.txt"], want+"\n") {
					t.Errorf("no %s in %s", want, files["environment.txt"])
				}
			}
			if name != "an agent that runs" {
				return
			}
			if !strings.Contains(files["config.yaml"], "[redacted]") || !strings.Contains(files["config.yaml"], tokenFile) {
				t.Errorf("config.yaml:\n%s", files["config.yaml"])
			}
			var s httpapi.Status
			if err := json.Unmarshal([]byte(files["status.json"]), &s); err != nil || s.NodeID != "node-1" {
				t.Errorf("status.json is none of the agent: %v:\n%s", err, files["status.json"])
			}
		})
	}
}

func TestSupportUsage(t *testing.T) {
	there := writeFile(t, "there.tar.gz", "mine")
	for _, v := range []struct {
		args []string
		want string
	}{
		{[]string{"-O", there}, fmt.Sprintf("--file: %q: it exists; name another file", there)},
		{[]string{"-O", filepath.Join(there, "x")}, "cannot be written"},
		{[]string{"-O", filepath.Join(t.TempDir(), "missing", "x")}, "cannot be written: no such file or directory; name a file in a directory that exists"},
		{[]string{"--agent", "127.0.0.1", "-O", "x"}, "not the address of an agent"},
	} {
		status, stdout, stderr := execute(t, append([]string{"support"}, v.args...)...)
		if status != statusUsage || stdout != "" || !strings.Contains(stderr, v.want) {
			t.Errorf("%v: status %d, stderr %q; want %q", v.args, status, stderr, v.want)
		}
	}
	if text, err := os.ReadFile(there); err != nil || string(text) != "mine" {
		t.Errorf("a file was written over: %q, %v", text, err)
	}

	status, stdout, stderr := execute(t, "support", "-c", writeFile(t, "muster.yaml", "cluster: orders\n"), "-O", "-")
	if _, err := gzip.NewReader(bytes.NewReader([]byte(stdout))); err != nil || status != statusDone || !strings.Contains(stderr, "system.json") {
		t.Errorf("to standard output: status %d, %v, stderr %q", status, err, stderr)
	}
}
