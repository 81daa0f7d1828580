//go:build unix

package main

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An operator has an agent reload, resign and leave, by commands and by SIGHUP.
func TestOperateAnAgent(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	addrs := testAddrs(t, 2)
	agent := c.add("node-1", addrs[0], addrs[1], staticProvider(addrs[:1]))
	c.start(agent)
	isMaster := func(context.Context) bool {
		status, stdout, _ := execute(t, "master", "-c", agent.config)
		return status == statusDone && strings.Contains(stdout, "node-1")
	}
	c.eventually("the agent is master", isMaster)
	text, err := os.ReadFile(agent.config)
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(text string) {
		if err := os.WriteFile(agent.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(status int, out string, args ...string) {
		t.Helper()
		got, stdout, stderr := execute(t, append(args, "--agent", agent.httpAddr)...)
		if got != status || !strings.Contains(stdout+stderr, out) {
			t.Errorf("%v: status %d, want %d with %q: %s%s", args, got, status, out, stdout, stderr)
		}
	}
	logs := func(text string) func(context.Context) bool {
		return func(context.Context) bool {
			log, err := os.ReadFile(agent.logFile)
			return err == nil && strings.Contains(string(log), text)
		}
	}
	want(statusDone, "nothing has changed", "reload")
	rewrite(strings.Replace(string(text), "level: debug", "level: info", 1))
	want(statusDone, "in force: log.level", "reload")
	want(statusDone, "nothing has changed", "reload")
	rewrite("cluster: [\n")
	want(statusFailed, "the configuration was not reloaded: "+agent.config+":", "reload")
	if !agent.running() {
		t.Fatal("a wrong configuration has ended the agent")
	}
	rewrite(string(text))
	if err := agent.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	c.eventually("SIGHUP reloads", logs(`"msg":"configuration reloaded","node_id":"node-1","keys":"log.level"`))
	want(statusDone, "node node-1 has given mastership up, of term 1", "resign")
	c.eventually("it is master again", isMaster)
	rewrite(string(text) + "\nbootstrap: {expect: 1}\n")
	want(statusDone, "ends with status 3, to be started again, for bootstrap.expect", "reload")
	select {
	case <-agent.exited:
	case <-time.After(30 * time.Second):
		t.Fatal("the agent goes on")
	}
	if status := agent.cmd.ProcessState.ExitCode(); status != statusRestart {
		t.Errorf("status %d, want %d: %s", status, statusRestart, agent.lastLog())
	}
	c.start(agent)
	c.eventually("it is master after the start", isMaster)
	want(statusDone, "node node-1 has left", "leave")
	select {
	case <-agent.exited:
	case <-time.After(30 * time.Second):
		t.Fatal("the agent goes on")
	}
	if status := agent.cmd.ProcessState.ExitCode(); status != statusDone {
		t.Errorf("status %d after leaving: %s", status, agent.lastLog())
	}
}
