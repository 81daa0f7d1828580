package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
)

// wrapped is an agent with its muster while-master.
type wrapped struct {
	agent   *agentProcess
	args    []string
	wrapper *exec.Cmd
}

func (w *wrapped) start(t testing.TB, file string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w.wrapper = program(t, append(append([]string{"while-master", "--agent", w.agent.httpAddr, "--lock-file", w.agent.config + ".lock"}, w.args...), "--", self, beatsArgument, file)...)
	log, err := os.OpenFile(w.agent.config+".wrapper.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w.wrapper.Stdout, w.wrapper.Stderr = log, log
	if err := w.wrapper.Start(); err != nil {
		t.Fatal(err)
	}
}

// childOf returns the id of the one child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	var child int
	wait.For(t, "the process has a child", func() bool {
		tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
		for _, path := range tasks {
			if text, _ := os.ReadFile(path); len(strings.Fields(string(text))) > 0 {
				child, _ = strconv.Atoi(strings.Fields(string(text))[0])
				return true
			}
		}
		return false
	})
	return child
}

// Whatever befalls the agent, the wrapper and the supervisor of the node that is master: never do
// two commands run at one time, and another one runs afterwards.
func TestWhileMaster(t *testing.T) {
	for name, args := range map[string][]string{"namespace": nil, "group": {"--no-namespace"}} {
		t.Run(name, func(t *testing.T) { testWhileMaster(t, args) })
	}
}

func testWhileMaster(t *testing.T, args []string) {
	c, _ := formCluster(t, 3, patientProvider)
	file := filepath.Join(t.TempDir(), "beats")
	nodes := make(map[string]*wrapped)
	for _, agent := range c.agents {
		nodes[agent.name] = &wrapped{agent: agent, args: append([]string{"--restart", "always"}, args...)}
		nodes[agent.name].start(t, file)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			_ = n.wrapper.Process.Kill()
			_ = n.wrapper.Wait()
			if text, _ := os.ReadFile(n.agent.config + ".wrapper.log"); t.Failed() {
				t.Logf("the wrapper of %s:\n%s", n.agent.name, text)
			}
		}
	})
	runs := func() []beatsRun { return readBeats(t, file) }
	wait.For(t, "the first run", func() bool { return len(runs()) > 0 })
	master := func() *wrapped {
		var found *wrapped
		wait.For(t, "a master whose command runs", func() bool {
			var live []*agentProcess
			for _, a := range c.agents {
				if a.running() {
					live = append(live, a)
				}
			}
			all := runs()
			m, err := live[0].master(t.Context())
			if found = nodes[m.NodeID]; err != nil || found == nil || len(all) == 0 {
				return false
			}
			return all[len(all)-1].term == m.Term && !all[len(all)-1].ended
		})
		return found
	}
	// next waits until another run has begun, and its command goes on.
	next := func(what string, before int) {
		t.Helper()
		wait.For(t, "a run after "+what, func() bool {
			all := runs()
			return len(all) > before && all[len(all)-1].last > all[len(all)-1].began
		})
	}

	m, before := master(), len(runs())
	if status, _, stderr := execute(t, "resign", "--agent", m.agent.httpAddr); status != statusDone {
		t.Fatalf("resign: %s", stderr)
	}
	next("resign", before)
	all := runs()
	gap := all[before].began.Sub(all[before-1].last)
	t.Logf("the next command began %v after the end of the one before", gap)
	if !all[before-1].ended || gap > 30*time.Second {
		t.Errorf("handed over by %+v and %+v", all[before-1], all[before])
	}

	m, before = master(), len(runs())
	supervisor := childOf(t, m.wrapper.Process.Pid)
	if err := syscall.Kill(supervisor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	next("the end of the supervisor", before)

	m, before = master(), len(runs())
	_ = m.wrapper.Process.Kill()
	_ = m.wrapper.Wait()
	m.start(t, file)
	next("the end of the wrapper", before)

	m, before = master(), len(runs())
	supervisor = childOf(t, m.wrapper.Process.Pid)
	_ = syscall.Kill(supervisor, syscall.SIGSTOP)
	c.signal(m.agent, syscall.SIGSTOP) // no renewals: the wrapper has to kill the one that is stopped
	next("the agent and the supervisor were stopped", before)
	c.signal(m.agent, syscall.SIGCONT)

	m, before = master(), len(runs())
	c.kill(m.agent)
	next("the end of the agent", before)

	all = runs()
	for i := 1; i < len(all); i++ {
		if all[i].began <= all[i-1].last {
			t.Errorf("two at one time: %+v and %+v", all[i-1], all[i])
		}
	}
	t.Logf("%d runs", len(all))
}

// The status of a command is passed on, and a signal is.
func TestWhileMasterStatus(t *testing.T) {
	c, _ := formCluster(t, 1, patientProvider)
	agent := c.agents[0]
	lock := filepath.Join(t.TempDir(), "lock")
	for _, v := range []struct {
		command []string
		want    int
	}{
		{[]string{"sh", "-c", "exit 3"}, 3},
		{[]string{"sh", "-c", "kill -9 $$"}, 137},
		{[]string{"sh", "-c", `test -n "$MUSTER_RUN_TERM" -a -n "$MUSTER_RUN_CLUSTER_ID" -a "$MUSTER_RUN_NODE_ID" = node-1`}, 0},
		{[]string{"/no/such/program"}, 127},
		{[]string{lock}, 126},
	} {
		args := append([]string{"while-master", "--agent", agent.httpAddr, "--lock-file", lock, "--"}, v.command...)
		if status, stdout, stderr := executeProcess(t, args...); status != v.want {
			t.Errorf("%q: status %d, want %d: %s%s", v.command, status, v.want, stdout, stderr)
		}
	}
	if status, _, stderr := executeProcess(t, "while-master", "--restart", "often", "--", "true"); status != statusUsage || !strings.Contains(stderr, `--restart: "often"`) {
		t.Errorf("status %d: %s", status, stderr)
	}
}
