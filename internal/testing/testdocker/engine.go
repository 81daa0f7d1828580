package testdocker

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// envRequire makes the lack of an engine a failure.
const envRequire = "MUSTER_REQUIRE_DOCKER"

// The labels of all that is made here.
const (
	labelRun   = "muster.test.run"   // the test process
	labelStart = "muster.test.start" // when that began, in seconds since 1970
)

// callTimeout bounds each call of the docker command.
const callTimeout = 60 * time.Second

// Engine is the container engine of this machine, as one test uses it.
type Engine struct {
	t testing.TB
}

// process is what all tests of a process share.
var process struct {
	run   string
	start time.Time
	once  sync.Once
	arch  string
	err   error
}

func init() {
	process.run, process.start = strings.ToLower(rand.Text()[:10]), time.Now()
}

// Require returns the engine. Where none answers it skips the test, or fails it if
// MUSTER_REQUIRE_DOCKER is 1.
func Require(t testing.TB) *Engine {
	t.Helper()
	process.once.Do(func() {
		process.arch, process.err = find()
		if process.err == nil {
			removeLeftovers()
		}
	})
	switch {
	case process.err == nil:
		return &Engine{t}
	case os.Getenv(envRequire) == "1":
		t.Fatalf("%s=1, but no container engine answers: %v", envRequire, process.err)
	default:
		t.Skipf("no container engine answers (%v); %s=1 makes this a failure", process.err, envRequire)
	}
	return nil
}

// find returns the architecture of the engine.
func find() (string, error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return "", err
	}
	// The first call may have to start the engine, where systemd does that on demand.
	out, err := run(10*time.Second, nil, "version", "--format", "{{.Server.Os}} {{.Server.Arch}}")
	if err != nil {
		return "", err
	}
	system, arch, _ := strings.Cut(strings.TrimSpace(out), " ")
	if system != "linux" {
		return "", fmt.Errorf("it runs containers of %s, not of linux", system)
	}
	return arch, nil
}

// docker runs the docker command and returns what it prints.
func docker(args ...string) (string, error) { return run(callTimeout, nil, args...) }

func run(timeout time.Duration, stdin *bytes.Buffer, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(problem.Bytes()))
	}
	return out.String(), nil
}

// Docker runs the docker command and returns what it prints on its standard output,
// without the space around it.
func (e *Engine) Docker(args ...string) string {
	e.t.Helper()
	out, err := docker(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// RunLabel is the label that all that this process makes has, as KEY=value: a filter for
// what is the test's own.
func (e *Engine) RunLabel() string { return labelRun + "=" + process.run }

// labels are the flags that put the labels on what is made.
func labels() []string {
	return []string{
		"--label", labelRun + "=" + process.run,
		"--label", labelStart + "=" + strconv.FormatInt(process.start.Unix(), 10),
	}
}

// unique returns a name that nothing else has.
func unique() string { return "muster-test-" + strings.ToLower(rand.Text()[:10]) }

// kinds are what is made, in the order in which it can be removed.
var kinds = []struct{ list, remove []string }{
	{[]string{"ps", "-a"}, []string{"rm", "-f", "-v"}},
	{[]string{"network", "ls"}, []string{"network", "rm"}},
	{[]string{"volume", "ls"}, []string{"volume", "rm", "-f"}},
	{[]string{"images"}, []string{"rmi", "-f"}},
}

// removeLeftovers removes what runs that were killed have left behind. A run lasts no
// hour; one that is younger may be going on beside this one.
func removeLeftovers() {
	for _, k := range kinds {
		for id, start := range labelled(k.list, labelRun) {
			if time.Since(start) > time.Hour {
				docker(append(k.remove, id)...)
			}
		}
	}
}

// removeOwn removes all that this process has made.
func removeOwn() {
	for _, k := range kinds {
		for id := range labelled(k.list, labelRun+"="+process.run) {
			docker(append(k.remove, id)...)
		}
	}
}

// labelled returns the ids of what has a label, with the start of the run that has
// made it.
func labelled(list []string, label string) map[string]time.Time {
	out, err := docker(append(list, "-q", "--filter", "label="+label)...)
	if err != nil {
		return nil
	}
	found := map[string]time.Time{}
	for _, id := range strings.Fields(out) {
		found[id] = startOf(id)
	}
	return found
}

// startOf reads the label of what was made. Where it cannot be read, it is young.
func startOf(id string) time.Time {
	out, err := docker("inspect", id)
	if err != nil {
		return time.Now()
	}
	var all []struct {
		Labels map[string]string // of networks and volumes
		Config struct{ Labels map[string]string }
	}
	if json.Unmarshal([]byte(out), &all) != nil || len(all) != 1 {
		return time.Now()
	}
	for _, labels := range []map[string]string{all[0].Labels, all[0].Config.Labels} {
		if seconds, err := strconv.ParseInt(labels[labelStart], 10, 64); err == nil {
			return time.Unix(seconds, 0)
		}
	}
	return time.Now()
}

// Main wraps the *testing.M of a TestMain and removes the images after the tests:
//
//	func TestMain(m *testing.M) { os.Exit(testdocker.Main(m).Run()) }
func Main(m interface{ Run() int }) interface{ Run() int } { return main{m} }

type main struct{ m interface{ Run() int } }

func (m main) Run() int {
	code := m.m.Run()
	if used() {
		removeOwn()
	}
	return code
}

// used reports whether a test of this process has found an engine.
func used() bool {
	process.once.Do(func() { process.err = errUnused })
	return process.err == nil
}

var errUnused = fmt.Errorf("no test has asked for an engine")
