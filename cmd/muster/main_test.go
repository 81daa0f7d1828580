package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/node/httpapi"
)

// runMainVariable makes the test binary be the program, for tests that want a
// process of their own and its exit status.
const runMainVariable = "TEST_RUN_MUSTER"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == beatsArgument {
		beats(os.Args[2])
	}
	if os.Getenv(runMainVariable) != "" {
		os.Exit(mainStatus())
	}
	// What the tests start is this binary, as the program. The race detector would make
	// each such process wait for a second when it ends.
	os.Setenv(runMainVariable, "1")
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	os.Exit(testdocker.Main(testserver.Main(m)).Run())
}

// execute runs a command line in this process.
func execute(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, &out, &errs)
	return status, out.String(), errs.String()
}

// program returns a command that runs the program as a process of its own.
func program(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), self, args...)
}

// executeProcess runs a command line in a process of its own.
func executeProcess(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := program(t, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// writeFile writes text to a file of the name in a directory of the test's own.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWrongUsage(t *testing.T) {
	file := writeFile(t, "muster.yaml", goodFile)
	for _, v := range []struct {
		args []string
		want string // of stderr
	}{
		{[]string{"frobnicate"}, `unknown command "frobnicate"`},
		{[]string{"membres"}, "members"}, // what may have been meant
		{[]string{"members", "--frobnicate"}, "unknown flag: --frobnicate"},
		{[]string{"members", "all"}, `unknown command "all" for "muster members"`},
		{[]string{"members", "-o", "xml"}, `--output: "xml": unknown; write table or json`},
		{[]string{"members", "--agent", "localhost"}, `--agent: "localhost": not the address of an agent; write HOST:PORT, as 127.0.0.1:7980`},
		{[]string{"master", "--agent", "127.0.0.1:0"}, `--agent: "127.0.0.1:0"`},
		{[]string{"config"}, "muster config wants one of its commands: check, show"},
		{[]string{"config", "frobnicate"}, `unknown command "frobnicate" for "muster config"`},
		{[]string{"completion", "frobnicate"}, `unknown command "frobnicate" for "muster completion"`},
		{[]string{"version", "-o", "yaml"}, `--output: "yaml": unknown; write text or json`},
		{[]string{"discover", "-c", file, "--meta", "version"}, `--meta: "version": not a fact; write NAME=VALUE`},
		{[]string{"discover", "-c", file, "--timeout", "soon"}, `"soon"`},
		{[]string{"discover", "-c", file, "--timeout", "-1s"}, `--timeout: "-1s": negative`},
		{[]string{"discover", "-c", file, "-o", "xml"}, `--output: "xml"`},
		{[]string{"config", "show", "-c", file, "--log-level", "loud"}, `muster: --log-level: log.level: "loud": unknown; write debug, info, warn or error`},
		{[]string{"config", "check"}, `cluster: "": missing`},
		{[]string{"demo", "--keep", "--restart-after", "-1s"}, `--restart-after: "-1s": negative`},
		{[]string{"doctor", "-c", file, "-o", "xml"}, `--output: "xml"`},
		{[]string{"doctor", "-c", file, "--timeout", "0s"}, `--timeout: "0s"`},
	} {
		status, stdout, stderr := execute(t, v.args...)
		if status != statusUsage || stdout != "" || !strings.Contains(stderr, v.want) {
			t.Errorf("muster %s: status %d, stdout %q, stderr:\n%s\nwant status 2 and %s", strings.Join(v.args, " "), status, stdout, stderr, v.want)
		}
		for line := range strings.Lines(stderr) {
			if !strings.HasPrefix(line, "muster: ") {
				t.Errorf("muster %s: a line that does not name the program: %q", strings.Join(v.args, " "), line)
			}
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--help"}, {"agent", "--help"}, {"config", "--help"}, {"config", "check", "--help"}, {"config", "show", "--help"}, {"doctor", "--help"},
		{"demo", "--help"}, {"discover", "--help"}, {"members", "--help"}, {"master", "--help"}, {"view", "--help"}, {"version", "--help"},
		{"tls", "--help"}, {"tls", "ca", "--help"}, {"tls", "cert", "--help"},
		{"registrar", "--help"}, {"registrar", "doctor", "--help"}, {"registrar", "status", "--help"}, {"registrar", "explain", "--help"}, {"status", "--help"}, {"history", "--help"}, {"support", "--help"},
	} {
		status, stdout, stderr := execute(t, args...)
		if status != statusDone || stderr != "" {
			t.Errorf("muster %v: status %d, stderr %q", args, status, stderr)
		}
		if !strings.Contains(stdout, "Usage:") {
			t.Errorf("muster %v prints no usage:\n%s", args, stdout)
		}
		group := len(args) == 2 && (args[0] == "config" || args[0] == "tls")
		if !group && !strings.Contains(stdout, "Examples:") {
			t.Errorf("muster %v prints no examples:\n%s", args, stdout)
		}
		if strings.Contains(stdout, "--provider-") && !strings.Contains(stdout, "discover") {
			t.Errorf("muster %v is buried under the flags of providers", args)
		}
	}
}

func TestVersion(t *testing.T) {
	status, stdout, _ := execute(t, "version")
	if status != statusDone || !strings.HasPrefix(stdout, "muster ") || !strings.Contains(stdout, " go1.") {
		t.Errorf("status %d, stdout %q", status, stdout)
	}
	status, stdout, _ = execute(t, "version", "-o", "json")
	if status != statusDone || !strings.Contains(stdout, `"version": `) || !strings.Contains(stdout, `"go": "go1.`) {
		t.Errorf("status %d, stdout %q", status, stdout)
	}
}

func TestVersionLine(t *testing.T) {
	commit := "e376431671f13d4503648206566e66e536120256"
	for _, tt := range []struct {
		info versionInfo
		want string
	}{
		{versionInfo{Version: "(devel)"}, "muster (devel) go1.26 linux/arm64"},
		{versionInfo{Version: "v0.1.0", Revision: commit, Time: "2026-11-30T14:47:51Z"}, "muster v0.1.0 (commit e376431671f1 of 2026-11-30) go1.26 linux/arm64"},
		{versionInfo{Version: "v0.1.0", Revision: commit, Modified: true}, "muster v0.1.0 (commit e376431671f1 modified) go1.26 linux/arm64"},
	} {
		tt.info.Go, tt.info.OS, tt.info.Arch = "go1.26", "linux", "arm64"
		if got := tt.info.String(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		status, stdout, stderr := execute(t, "completion", shell)
		if status != statusDone || !strings.Contains(stdout, "muster") {
			t.Errorf("%s: status %d, stderr %q", shell, status, stderr)
		}
	}
	if _, stdout, _ := execute(t, "__complete", "members", "-o", ""); !strings.Contains(stdout, "table") || !strings.Contains(stdout, "json") {
		t.Errorf("the forms of output are not completed: %q", stdout)
	}
}

// TestDefaultsAgree holds that a command finds the agent of a configuration that
// does not say where it serves.
func TestDefaultsAgree(t *testing.T) {
	c, err := config.Load(config.Options{Path: writeFile(t, "muster.yaml", goodFile), Env: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTP.Addr != httpapi.DefaultAddr {
		t.Errorf("http.addr is %s by default, and commands ask %s", c.HTTP.Addr, httpapi.DefaultAddr)
	}
}
