package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// What is found to be wrong only when an agent or a registrar runs says where the value was
// given, as config check does: in the file, in a variable or by a flag.
func TestRunTimeErrorsNameTheSource(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	inUse := held.Addr().String()
	dir := t.TempDir()
	notADir := writeFile(t, "a-file", "")
	empty := writeFile(t, "peers", "# nobody\n")
	const static = "provider: {static: {peers: [\"127.0.0.1:1\", \"127.0.0.1:2\"]}}"
	const voter = "voter: \"127.0.0.1:1\""
	for _, test := range []struct {
		name   string
		yaml   string
		env    string
		args   []string
		want   []string // parts of one line
		status int
		of     string // the command; agent by default
	}{
		{name: "the API's port, by the file", yaml: fmt.Sprintf("cluster: demo\nnode: {bind: \"127.0.0.1:0\"}\n%s\nhttp: {addr: %q}", static, inUse),
			want: []string{"muster.yaml:4: http.addr: \"" + inUse + "\"", "address already in use"}, status: statusFailed},
		{name: "the API's port, by a variable", yaml: "cluster: demo\nnode: {bind: \"127.0.0.1:0\"}\n" + static, env: "MUSTER_HTTP_ADDR=" + inUse,
			want: []string{"MUSTER_HTTP_ADDR: http.addr: \"" + inUse + "\"", "address already in use"}, status: statusFailed},
		{name: "the API's port, by a flag", yaml: "cluster: demo\nnode: {bind: \"127.0.0.1:0\"}\n" + static, args: []string{"--http-addr", inUse},
			want: []string{"--http-addr: http.addr: \"" + inUse + "\"", "address already in use"}, status: statusFailed},
		{name: "the API's port of a registrar", yaml: fmt.Sprintf("registrar: {containers: false}\n%s\nhttp: {addr: %q}\nservices: [{name: a, address: \"127.0.0.1:1\"}]",
			"provider: {etcd: {endpoints: [\"http://127.0.0.1:1\"]}}", inUse), of: "registrar",
			want: []string{"muster.yaml:3: http.addr: \"" + inUse + "\"", "address already in use"}, status: statusFailed},
		{name: "the one port, by the file", yaml: fmt.Sprintf("cluster: demo\nnode:\n  bind: %q\n%s\nhttp: {addr: \"127.0.0.1:0\"}", inUse, static),
			want: []string{"muster.yaml:3: node.bind: link: bind \"" + inUse + "\"", "the port is in use"}, status: statusFailed},
		{name: "the one port, by a flag", yaml: "cluster: demo\n" + static + "\nhttp: {addr: \"127.0.0.1:0\"}", args: []string{"--node-bind", inUse},
			want: []string{"--node-bind: node.bind: link: bind \"" + inUse + "\"", "the port is in use"}, status: statusFailed},
		{name: "the directory", yaml: fmt.Sprintf("cluster: demo\nnode:\n  bind: \"127.0.0.1:0\"\n  %s\n  data_dir: %q\n%s\nhttp: {addr: \"127.0.0.1:0\"}",
			voter, filepath.Join(notADir, "below"), static),
			want: []string{"muster.yaml:5: ", "node.data_dir: \"" + notADir, "cannot be used"}, status: statusFailed},
		{name: "the directory, by a variable", yaml: fmt.Sprintf("cluster: demo\nnode:\n  bind: \"127.0.0.1:0\"\n  %s\n%s\nhttp: {addr: \"127.0.0.1:0\"}", voter, static),
			env:  "MUSTER_NODE_DATA_DIR=" + filepath.Join(notADir, "below"),
			want: []string{"MUSTER_NODE_DATA_DIR: ", "node.data_dir: \"" + notADir, "cannot be used"}, status: statusFailed},
		{name: "the length of a grant", yaml: fmt.Sprintf("cluster: demo\nnode: {bind: \"127.0.0.1:0\", %s, data_dir: %q}\n%s\nhttp: {addr: \"127.0.0.1:0\"}\nmastership:\n  ttl: 1h",
			voter, dir, static),
			want: []string{"muster.yaml:6: mastership.ttl: ", "1m0s"}, status: statusUsage},
		{name: "a list of nobody", yaml: fmt.Sprintf("cluster: demo\nnode: {bind: \"127.0.0.1:0\", %s, data_dir: %q}\nprovider:\n  static:\n    file: %q\nhttp: {addr: \"127.0.0.1:0\"}",
			voter, dir, empty),
			want: []string{"muster.yaml:5: ", "provider.static.file: ", "lists no voter"}, status: statusFailed},
		{name: "the address", yaml: fmt.Sprintf("cluster: demo\nnode:\n  bind: \"127.0.0.1:0\"\n  advertise: \"interface:no-such-one\"\n  data_dir: %q\n%s\nhttp: {addr: \"127.0.0.1:0\"}", dir, static),
			want: []string{"muster.yaml:4: node.advertise: \"interface:no-such-one\""}, status: statusFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			if name, value, ok := strings.Cut(test.env, "="); ok {
				t.Setenv(name, value)
			}
			of := test.of
			if of == "" {
				of = "agent"
			}
			status, _, stderr := execute(t, append([]string{of, "-c", writeFile(t, "muster.yaml", test.yaml)}, test.args...)...)
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
			found := false
			for line := range strings.Lines(stderr) {
				rest, all := line, true
				for _, part := range test.want {
					_, after, ok := strings.Cut(rest, part)
					rest, all = after, all && ok
				}
				found = found || all
			}
			if !found {
				t.Errorf("no line has %q:\n%s", test.want, stderr)
			}
		})
	}
}
