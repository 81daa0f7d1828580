package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
)

// stepRuns are processes of muster upgrade run, one for each agent.
type stepRuns struct {
	cmds []*exec.Cmd
	outs []*bytes.Buffer
}

// runStep starts muster upgrade run with each agent, all at once.
func runStep(t *testing.T, agents []*agentProcess, flags []string, name, version, script string) *stepRuns {
	t.Helper()
	runs := new(stepRuns)
	for _, a := range agents {
		args := append([]string{"upgrade", "run", "--agent", a.httpAddr, "--lock-file", a.config + ".step.lock"}, flags...)
		cmd, out := program(t, append(args, name, version, "--", "sh", "-c", script)...), new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		runs.cmds, runs.outs = append(runs.cmds, cmd), append(runs.outs, out)
	}
	return runs
}

// end waits until all have ended, and holds that each has with the status, and says this.
func (r *stepRuns) end(t *testing.T, status int, says ...string) {
	t.Helper()
	for i, cmd := range r.cmds {
		_ = cmd.Wait()
		out := r.outs[i].String()
		if got := cmd.ProcessState.ExitCode(); got != status {
			t.Errorf("host %d: status %d, want %d: %s", i+1, got, status, out)
		}
		for _, text := range says {
			if !strings.Contains(out, text) {
				t.Errorf("host %d does not say %q: %s", i+1, text, out)
			}
		}
	}
}

func linesOf(path string) []string {
	text, _ := os.ReadFile(path)
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
}

// Of three hosts that start a step at once one runs it, and all return when it is done.
func TestUpgradeRun(t *testing.T) {
	c, _ := formCluster(t, 3, patientProvider)
	dir := t.TempDir()
	for round := range 5 {
		file, version := filepath.Join(dir, fmt.Sprint("rows-", round)), fmt.Sprint("1.", round)
		script := `echo "$MUSTER_RUN_NODE_ID $MUSTER_RUN_TERM" >> ` + file
		runStep(t, c.agents, nil, "schema", version, script).end(t, statusDone, "schema "+version+" is done")
		if rows := linesOf(file); len(rows) != 1 || len(strings.Fields(rows[0])) != 2 {
			t.Errorf("rows %q", rows)
		}
	}
	// What was done before is done at once, and runs nothing.
	file := filepath.Join(dir, "late")
	runStep(t, c.agents, nil, "schema", "1.3", "echo x >> "+file).end(t, statusDone)
	if rows := linesOf(file); len(rows) != 0 {
		t.Errorf("a step that is done ran: %q", rows)
	}
}

// A step that fails fails on all hosts, with its error, until an operator has decided.
func TestUpgradeRunFails(t *testing.T) {
	c, _ := formCluster(t, 3, patientProvider)
	file := filepath.Join(t.TempDir(), "rows")
	script := "echo x >> " + file + "; exit 3"
	runStep(t, c.agents, nil, "schema", "1", script).end(t, statusFailed, "schema 1 failed on node", "sh has ended with status 3", "muster upgrade retry schema 1")
	runStep(t, c.agents, nil, "schema", "1", script).end(t, statusFailed, "sh has ended with status 3")
	if rows := linesOf(file); len(rows) != 1 {
		t.Errorf("it ran %d times", len(rows))
	}
	if status, _, stderr := execute(t, "upgrade", "retry", "--agent", c.agents[0].httpAddr, "schema", "1"); status != statusDone {
		t.Fatal(stderr)
	}
	runStep(t, c.agents, nil, "schema", "1", "echo x >> "+file).end(t, statusDone)
	if rows := linesOf(file); len(rows) != 2 {
		t.Errorf("it ran %d times", len(rows))
	}
	for _, v := range [][]string{{"one"}, {"1.0", "--"}} {
		args := append([]string{"upgrade", "run", "--agent", c.agents[0].httpAddr, "schema"}, append(v, "--", "/no/such")...)
		if status, _, stderr := executeProcess(t, args...); status != 127 {
			t.Errorf("%q: status %d: %s", args, status, stderr)
		}
	}
	if status, _, stderr := executeProcess(t, "upgrade", "run", "--agent", c.agents[0].httpAddr, "schema", "one", "--", "true"); status != statusFailed || !strings.Contains(stderr, `version "one"`) {
		t.Errorf("a wrong version: status %d: %s", status, stderr)
	}
}

// The mastership goes to the host that runs the step.
func TestUpgradeRunOnAHostThatIsNotMaster(t *testing.T) {
	c, master := formCluster(t, 3, patientProvider)
	_, others := c.split(master)
	file := filepath.Join(t.TempDir(), "rows")
	runStep(t, others[:1], nil, "schema", "1", `echo "$MUSTER_RUN_NODE_ID" >> `+file).end(t, statusDone)
	if rows := linesOf(file); len(rows) != 1 || rows[0] != others[0].name {
		t.Errorf("rows %q, want one of %s", rows, others[0].name)
	}
}

// A client that is killed has interrupted its step: without --restartable that is a failure, and
// with it another host runs the step, after the command was killed.
func TestUpgradeRunIsKilled(t *testing.T) {
	c, _ := formCluster(t, 3, patientProvider)
	for _, restartable := range []bool{false, true} {
		name, flags := "once", []string(nil)
		if restartable {
			name, flags = "again", []string{"--restartable"}
		}
		file := filepath.Join(t.TempDir(), "rows")
		script := fmt.Sprintf(`if [ -e %[1]s ]; then echo "$MUSTER_RUN_NODE_ID" >> %[1]s; exit; fi; echo "$MUSTER_RUN_NODE_ID" >> %[1]s; sleep 600; echo late >> %[1]s`, file)
		runs := runStep(t, c.agents, flags, name, "1", script)
		wait.For(t, "the step runs", func() bool { return len(linesOf(file)) == 1 })
		for i, a := range c.agents {
			if a.name == linesOf(file)[0] {
				_ = runs.cmds[i].Process.Kill()
				_ = runs.cmds[i].Wait()
				runs.cmds = append(runs.cmds[:i], runs.cmds[i+1:]...)
				runs.outs = append(runs.outs[:i], runs.outs[i+1:]...)
				break
			}
		}
		rows := 1
		if restartable {
			rows = 2
			runs.end(t, statusDone)
		} else {
			runs.end(t, statusFailed, "once 1 interrupted on node", "muster upgrade resolve once 1")
		}
		if got := linesOf(file); len(got) != rows {
			t.Errorf("restartable %v: rows %q, want %d", restartable, got, rows)
		}
	}
}

// A node of -c that does not start is an error that says why, and so is one beside an agent with
// the same address.
func TestUpgradeRunWhoseNodeDoesNotStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	agent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer agent.Close()
	addrs := testAddrs(t, 2)
	for what, row := range map[string]struct{ bind, http, want string }{
		"the port is taken": {taken.Addr().String(), addrs[0], "in use"},
		"an agent runs":     {addrs[1], agent.Listener.Addr().String(), "an agent answers"},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "muster.yaml")
		text := fmt.Sprintf("cluster: demo\nnode: {id: a, bind: %q, data_dir: %q}\nprovider: {static: {peers: [%q]}}\nhttp: {addr: %q}\n", row.bind, dir, row.bind, row.http)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{{"upgrade", "run", "-c", file, "--lock-file", dir + "/lock", "schema", "1"}, {"while-master", "-c", file, "--lock-file", dir + "/lock"}} {
			status, _, stderr := executeProcess(t, append(command, "--", "true")...)
			if status != statusFailed && status != statusUsage || !strings.Contains(stderr, row.want) {
				t.Errorf("%s, %s: status %d: %s", what, command[0], status, stderr)
			}
		}
	}
}
