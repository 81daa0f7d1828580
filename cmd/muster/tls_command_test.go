package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestTLSCommand(t *testing.T) {
	dir := t.TempDir()
	status, stdout, stderr := execute(t, "tls", "ca", "--dir", dir)
	if status != statusDone || stderr != "" || strings.Count(stdout, "\n") != 2 || !strings.Contains(stdout, "good until 20") {
		t.Fatalf("tls ca: status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
	cert := []string{"tls", "cert", "node-1", "--dir", dir, "--host", "10.0.0.5,orders-1", "--host", "::1"}
	if status, stdout, stderr := execute(t, cert...); status != statusDone || stderr != "" || strings.Count(stdout, "\n") != 2 {
		t.Fatalf("tls cert: status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
	for _, name := range []string{"ca-key.pem", "node-1-key.pem"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want it for its owner alone", name, info, err)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, "node-1-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"tls", "ca", "--dir", dir}, cert} {
		status, stdout, stderr := execute(t, args...)
		if status != statusFailed || stdout != "" || !strings.Contains(stderr, "file already exists; write it over with --force") {
			t.Errorf("%v again: status %d, stdout %q, stderr %q", args, status, stdout, stderr)
		}
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "node-1-key.pem")); string(after) != string(before) {
		t.Error("a key was written over")
	}
	if status, _, stderr := execute(t, append(cert, "--force")...); status != statusDone {
		t.Errorf("tls cert --force: status %d, stderr %q", status, stderr)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "node-1-key.pem")); string(after) == string(before) {
		t.Error("the key is the same with --force")
	}
	file := writeFile(t, "muster.yaml", goodFile+"tls:\n  ca_file: "+filepath.Join(dir, "ca.pem")+
		"\n  cert_file: "+filepath.Join(dir, "node-1.pem")+"\n  key_file: "+filepath.Join(dir, "node-1-key.pem")+"\n")
	if status, _, stderr := execute(t, "config", "check", "-c", file); status != statusDone {
		t.Errorf("config check: %s", stderr)
	}
}

// A certificate names its node, and tls.verify_node_id wants it to.
func TestTLSCommandNamesTheNode(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"ca"}, {"cert", "n1", "--host", "10.0.0.5"}, {"cert", "n2", "--host", "10.0.0.5", "--node-id", "rack-7.n1"}} {
		if status, _, stderr := execute(t, append(append([]string{"tls"}, args...), "--dir", dir)...); status != statusDone {
			t.Fatalf("tls %v: status %d, stderr %q", args, status, stderr)
		}
	}
	for _, v := range []struct{ cert, id, problem string }{
		{"n1", "n1", ""},
		{"n2", "rack-7.n1", ""},
		{"n1", "n2", `tls.verify_node_id: "true": ` + filepath.Join(dir, "n1.pem") + " names n1, and not node.id n2; have it name node.id, as muster tls cert does"},
		{"n2", "n2", "names rack-7.n1, and not node.id n2"},
	} {
		file := writeFile(t, "muster.yaml", goodFile+"tls:\n  ca_file: "+filepath.Join(dir, "ca.pem")+
			"\n  cert_file: "+filepath.Join(dir, v.cert+".pem")+"\n  key_file: "+filepath.Join(dir, v.cert+"-key.pem")+"\n  verify_node_id: true\n")
		t.Setenv("MUSTER_NODE_ID", v.id)
		status, _, stderr := execute(t, "config", "check", "-c", file)
		if (status == statusDone) != (v.problem == "") || !strings.Contains(stderr, v.problem) {
			t.Errorf("node %q with the certificate of %s: status %d, stderr %q, want %q", v.id, v.cert, status, stderr, v.problem)
		}
	}
}

// Without its key the authority signs nothing any more.
func TestTLSCommandSparesTheAuthority(t *testing.T) {
	dir := t.TempDir()
	if status, _, stderr := execute(t, "tls", "ca", "--dir", dir); status != statusDone {
		t.Fatalf("tls ca: status %d, stderr %q", status, stderr)
	}
	files := map[string]string{"ca.pem": "", "ca-key.pem": ""}
	for name := range files {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(b)
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"ca", "--dir", dir},
		{"ca", "--dir", dir, "--force"},
		{"ca-key", "--dir", dir, "--force"},
		{"ca", "--dir", filepath.Join(sub, ".."), "--ca", filepath.Join(dir, "ca.pem"), "--ca-key", filepath.Join(dir, "ca-key.pem"), "--force"},
	} {
		status, stdout, stderr := execute(t, append([]string{"tls", "cert", "--host", "10.0.0.5"}, args...)...)
		if status != statusUsage || stdout != "" || !strings.Contains(stderr, "is a file of the authority, which is never written over; choose another name") {
			t.Errorf("tls cert %v: status %d, stdout %q, stderr %q", args, status, stdout, stderr)
		}
	}
	for name, was := range files {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != was {
			t.Errorf("%s is another than it was, %v", name, err)
		}
	}
	if status, _, stderr := execute(t, "tls", "cert", "ca", "--host", "10.0.0.5", "--dir", filepath.Join(sub, "new"), "--ca", filepath.Join(dir, "ca.pem"), "--ca-key", filepath.Join(dir, "ca-key.pem")); status != statusDone {
		t.Errorf("elsewhere: status %d, stderr %q", status, stderr)
	}
}

func TestTLSCommandUsage(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, "file", "no directory")
	for _, v := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"tls"}, statusUsage, "muster tls wants one of its commands: ca, cert"},
		{[]string{"tls", "ca", "--days", "0"}, statusUsage, `--days: "0": write a number of days`},
		{[]string{"tls", "cert"}, statusUsage, "muster: NAME: missing; write that of the node, as muster tls cert node-1 --host 10.0.0.5\n"},
		{[]string{"tls", "cert", "node-1", "10.0.0.5"}, statusUsage, `"10.0.0.5": beside the name "node-1"; write one NAME, and each host with --host`},
		{[]string{"tls", "cert", "../node-1", "--host", "a"}, statusUsage, `"../node-1": no name for files`},
		{[]string{"tls", "cert", "node-1"}, statusUsage, `--host: "": missing`},
		{[]string{"tls", "cert", "node-1", "--host", "10.0.0.5:7946"}, statusUsage, `--host: "10.0.0.5:7946": neither an IP address nor a DNS name`},
		{[]string{"tls", "cert", "node-1", "--host", "0.0.0.0"}, statusUsage, `--host: "0.0.0.0": is dialled by nobody`},
		{[]string{"tls", "cert", "node-1", "--host", "a", "--dir", dir}, statusFailed, "the authority cannot be read"},
		{[]string{"tls", "ca", "--dir", filepath.Join(file, "below")}, statusFailed, "--dir: mkdir " + file},
	} {
		status, stdout, stderr := execute(t, v.args...)
		if status != v.status || stdout != "" || !strings.Contains(stderr, v.want) {
			t.Errorf("muster %s: status %d, stdout %q, stderr %q; want status %d and %s", strings.Join(v.args, " "), status, stdout, stderr, v.status, v.want)
		}
	}
}
