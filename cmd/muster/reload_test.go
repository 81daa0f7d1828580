//go:build unix

package main

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
)

// A list of voters that has changed in the configuration is not taken into use by a process
// that runs: on SIGHUP, as on muster reload, the agent says which key wants a restart, hands
// mastership over, leaves in good order, and votes by the new list once it is started again.
func TestReloadOfVoters(t *testing.T) {
	t.Parallel()
	c, first := formCluster(t, 3, staticProvider)
	late := testAddrs(t, 1)[0]
	list := func(agent *agentProcess) (text, changed string) {
		b, err := os.ReadFile(agent.config)
		if err != nil {
			t.Fatal(err)
		}
		old := c.agents[2].nodeAddr
		changed = strings.ReplaceAll(string(b), "- "+old+"\n", "- "+old+"\n            - "+late+"\n")
		if changed == string(b) {
			changed = strings.ReplaceAll(string(b), `"`+old+`"`, `"`+old+`","`+late+`"`)
		}
		return string(b), changed
	}
	master, others := c.split(first)
	text, changed := list(master)
	if text == changed {
		t.Fatalf("no list was found in %s", text)
	}
	if err := os.WriteFile(master.config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	c.signal(master, syscall.SIGHUP)
	c.eventually("the master ends", func(context.Context) bool { return !master.running() })
	if status := master.cmd.ProcessState.ExitCode(); status != statusRestart {
		t.Errorf("status %d, want %d: %s", status, statusRestart, master.lastLog())
	}
	log, err := os.ReadFile(master.logFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"msg":"the changed configuration wants a restart","node_id":"` + master.name + `","keys":"provider.static.peers"`,
		"the configuration has changed and wants a restart: provider.static.peers",
	} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	for _, agent := range others {
		c.waitDeparted(agent, master.name, "left")
	}
	second := c.waitMaster(first.Term, 2, others...)
	if second.ClusterID != first.ClusterID {
		t.Errorf("cluster id %s, and %s before", second.ClusterID, first.ClusterID)
	}

	// One that is asked by the command answers with the key before it goes.
	follower := others[0]
	if follower.name == second.NodeID {
		follower = others[1]
	}
	c.start(master)
	c.waitMaster(second.Term-1, 3, c.agents...)
	_, changed = list(follower)
	if err := os.WriteFile(follower.config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := execute(t, "reload", "--agent", follower.httpAddr)
	if status != statusDone || !strings.Contains(stdout, "to be started again, for provider.static.peers\n") {
		t.Errorf("reload: status %d: %s%s", status, stdout, stderr)
	}
	c.eventually("the follower ends", func(context.Context) bool { return !follower.running() })
	if status := follower.cmd.ProcessState.ExitCode(); status != statusRestart {
		t.Errorf("status %d, want %d", status, statusRestart)
	}
	c.start(follower)
	last := c.waitMaster(second.Term-1, 3, c.agents...)
	if last.ClusterID != first.ClusterID {
		t.Errorf("cluster id %s at last, and %s at first", last.ClusterID, first.ClusterID)
	}
	c.stopAll()
}
