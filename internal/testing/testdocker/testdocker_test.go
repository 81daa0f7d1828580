package testdocker

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m).Run()) }

// TestRequire is run by TestWithoutAnEngine too.
func TestRequire(t *testing.T) { Require(t) }

func TestWithoutAnEngine(t *testing.T) {
	for _, tc := range []struct {
		required string
		want     string
		fails    bool
	}{
		{"", "--- SKIP", false},
		{"1", "--- FAIL", true},
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRequire$", "-test.v")
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix:///no/such/socket", "DOCKER_CONTEXT=", envRequire+"="+tc.required)
		out, err := cmd.CombinedOutput()
		if (err != nil) != tc.fails || !strings.Contains(string(out), tc.want) || !strings.Contains(string(out), "no container engine answers") {
			t.Errorf("%s=%q: %v\n%s", envRequire, tc.required, err, out)
		}
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	e := Require(t)
	young := e.Network()
	old := unique()
	long := strconv.FormatInt(time.Now().Add(-2*time.Hour).Unix(), 10)
	e.Docker("network", "create", "--label", labelRun+"=killed", "--label", labelStart+"="+long, old)
	removeLeftovers()
	names := e.Docker("network", "ls", "--format", "{{.Name}}")
	if strings.Contains(names, old) || !strings.Contains(names, young) {
		t.Errorf("%s is from a run that was killed, %s from this one; there are now\n%s", old, young, names)
	}
}

// The containers of a test go when it ends, and the log was there before.
func TestContainersGo(t *testing.T) {
	e := Require(t)
	var id string
	t.Run("inner", func(t *testing.T) {
		e := Require(t)
		image := e.Build("./internal/hello")
		c := e.Run(Options{Image: image, Env: []string{"WHO=you"}, Labels: map[string]string{"a": "b c"}}, "one", "two")
		c.WaitLog("hello you [one two]")
		if got := c.Inspect(`{{index .Config.Labels "a"}}`); got != "b c" {
			t.Errorf("label %q", got)
		}
		if status := c.Wait(); status != 3 || c.Running() {
			t.Errorf("status %d", status)
		}
		id = c.ID
		if again := e.Build("./internal/hello"); again != image {
			t.Errorf("built %s, then %s", image, again)
		}
	})
	if got := e.Docker("ps", "-aq", "--no-trunc", "--filter", "label="+e.RunLabel()); strings.Contains(got, id) {
		t.Errorf("container %s is still there", id)
	}
}
