//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// The keys that the provider etcd writes for the cluster of these tests.
const (
	etcdKeys      = "/muster/v1/"
	etcdMaster    = etcdKeys + "clusters/demo/master"
	etcdInstances = etcdKeys + "services/demo/"
)

// A master that leaves is no longer master before it gives mastership back, gives
// it back before it takes its registration away, and is registered no longer when
// it says goodbye.
func TestLeaveInOrder(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	c, first := formCluster(t, 3, etcdProvider(etcd))
	c.waitRegistered(3)
	victim, others := c.split(first)

	deleted := watchDeletions(t, etcd)
	c.signal(victim, syscall.SIGTERM)
	c.eventually("the master ends", func(context.Context) bool { return !victim.running() })
	if status := victim.cmd.ProcessState.ExitCode(); status != statusDone {
		t.Errorf("the master ended with status %d: %s", status, victim.lastLog())
	}
	second := c.waitMaster(first.Term, 2, others...)

	// etcd's revisions tell the order of what was written there.
	released, deregistered := deleted(etcdMaster), deleted(etcdInstances+first.InstanceID)
	if released >= deregistered {
		t.Errorf("mastership was given back at revision %d, the registration taken away at %d", released, deregistered)
	}
	// The agent's own log, where the lines stand in order, tells the rest.
	ended, gone := -1, -1
	var goneAt time.Time
	for i, r := range readLog(t, victim) {
		switch r.Msg {
		case "mastership ended":
			ended = i
		case "deregistered":
			gone, goneAt = i, r.Time
		}
	}
	if ended < 0 || gone < 0 || ended > gone {
		t.Errorf("mastership ended at record %d, the registration at %d", ended, gone)
	}
	for _, agent := range others {
		c.waitDeparted(agent, victim.name, "left")
		for _, r := range readLog(t, agent) {
			if r.Msg == "member left" && r.Member == victim.name && r.Time.Before(goneAt) {
				t.Errorf("%s heard the goodbye %v before the registration was gone", agent.name, goneAt.Sub(r.Time))
			}
		}
	}
	if second.InstanceID == first.InstanceID {
		t.Errorf("the master that left is master: %+v", second)
	}
	c.stopAndCheck(t, 2)
}

// While the provider does not answer, a follower leaves within its bound, and the
// others know that it left rather than died.
func TestLeaveWhileProviderHangs(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	c, master := formCluster(t, 3, etcdProvider(etcd))
	c.waitRegistered(3)
	_, followers := c.split(master)
	leaver := followers[0]

	etcd.Pause()
	c.signal(leaver, syscall.SIGTERM)
	asked := time.Now()
	c.eventually("the follower ends", func(context.Context) bool { return !leaver.running() })
	const bound = wait.Patience / 3 // each step has one of seconds, and etcd answers nothing for as long as it takes
	if took := time.Since(asked); took > bound {
		t.Errorf("the follower took %v to leave, want at most %v", took, bound)
	}
	if leaver.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Errorf("the follower was ended by a signal: %v", leaver.cmd.ProcessState)
	}
	for _, agent := range c.agents {
		if agent == leaver {
			continue
		}
		c.waitDeparted(agent, leaver.name, "left")
		for _, r := range readLog(t, agent) {
			if r.Msg == "member failed" && r.Subject == leaver.name {
				t.Errorf("%s took %s for dead", agent.name, leaver.name)
			}
		}
	}
	etcd.Resume()
	c.stopAndCheck(t, 1)
}

// A second signal ends an agent that is still leaving.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	c := newTestCluster(t, 1, etcdProvider(etcd))
	c.start(c.agents...)
	agent := c.agents[0]
	c.waitMaster(0, 1, agent)

	etcd.Pause() // leaving takes seconds now
	defer etcd.Resume()
	c.signal(agent, syscall.SIGTERM)
	c.eventually("the agent leaves", func(ctx context.Context) bool {
		s, err := c.status(ctx, agent)
		return err == nil && s.WaitingFor == "the node is leaving"
	})
	// Again and again, since one may come before the first was dealt with in full.
	c.eventually("the agent ends", func(context.Context) bool {
		if agent.running() {
			_ = agent.cmd.Process.Signal(syscall.SIGTERM) // it may have ended just now
		}
		return !agent.running()
	})
	ended := agent.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ended.Signaled() || ended.Signal() != syscall.SIGTERM {
		t.Errorf("the agent ended with %v, want it ended by the signal", agent.cmd.ProcessState)
	}
	for _, r := range readLog(t, agent) {
		if r.Msg == "agent stopped" {
			t.Errorf("the agent left in good order in spite of the second signal")
		}
	}
}

// waitDeparted waits until the agent sees that node id has departed, and how.
func (c *testCluster) waitDeparted(agent *agentProcess, nodeID, state string) {
	c.t.Helper()
	c.eventually(agent.name+" sees "+nodeID+" as "+state, func(ctx context.Context) bool {
		s, err := c.status(ctx, agent)
		if err != nil {
			return false
		}
		for _, m := range s.View.Departed {
			if m.NodeID == nodeID {
				return m.State == state
			}
		}
		return false
	})
}

// watchDeletions follows what is deleted in etcd from now on. The function that it
// returns waits for the first deletion of a key and returns its revision.
func watchDeletions(t *testing.T, etcd *testserver.Etcd) func(key string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	t.Cleanup(cancel)
	now, err := etcd.Client().Get(ctx, etcdKeys)
	if err != nil {
		t.Fatal(err)
	}
	events := etcd.Client().Watch(ctx, etcdKeys, clientv3.WithPrefix(), clientv3.WithRev(now.Header.Revision+1))
	first := make(map[string]int64)
	return func(key string) int64 {
		t.Helper()
		for first[key] == 0 {
			answer, open := <-events
			if !open || answer.Err() != nil {
				t.Fatalf("%s was not deleted: %v", key, answer.Err())
			}
			for _, e := range answer.Events {
				deleted := string(e.Kv.Key)
				if e.Type == clientv3.EventTypeDelete && first[deleted] == 0 {
					first[deleted] = e.Kv.ModRevision
				}
			}
		}
		return first[key]
	}
}

// logRecord is one line of an agent's log.
type logRecord struct {
	Time   time.Time `json:"time"`
	Msg    string    `json:"msg"`
	Member string    `json:"member"`
	// Subject is what an alarm is about, as the member of "member failed".
	Subject string `json:"subject"`
}

func readLog(t *testing.T, agent *agentProcess) []logRecord {
	t.Helper()
	text, err := os.ReadFile(agent.logFile)
	if err != nil {
		t.Fatal(err)
	}
	var records []logRecord
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r logRecord
		if json.Unmarshal(lines.Bytes(), &r) == nil { // otherwise what the command printed
			records = append(records, r)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return records
}
