//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/testing/alarmlog"
	"github.com/musterhq/muster/internal/testing/testserver"
)

// logLines returns the lines of an agent's log, as objects.
func logLines(t *testing.T, agent *agentProcess) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(agent.logFile)
	if err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for line := range bytes.Lines(text) {
		var r map[string]any
		if err := json.Unmarshal(line, &r); err != nil {
			t.Errorf("%s: no line of a log: %s", agent.name, line)
			continue
		}
		// A key that is there twice is one for the decoder.
		if r["node_id"] != agent.name || bytes.Count(line, []byte(`"node_id":`)) != 1 {
			t.Errorf("%s: not of this node alone: %s", agent.name, line)
		}
		lines = append(lines, r)
	}
	return lines
}

// waitNoAlarm waits until every warning in the log of an agent is over.
func (c *testCluster) waitNoAlarm(agent *agentProcess) {
	c.t.Helper()
	var open []string
	defer func() {
		if c.t.Failed() {
			c.t.Logf("%s: open alarms:\n%s", agent.name, strings.Join(open, "\n"))
		}
	}()
	c.eventually("every warning of "+agent.name+" is over", func(context.Context) bool {
		text, err := os.ReadFile(agent.logFile)
		if err != nil {
			c.t.Fatal(err)
		}
		open, err = alarmlog.Open(bytes.NewReader(text), "")
		return err == nil && len(open) == 0
	})
}

// While etcd hangs, the log of each agent names the provider, its address and the error,
// and warns that the master is lost. When it goes on, each warning is over; and each line
// says which node it is of, those of the libraries too.
func TestLogWhileEtcdHangs(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	c, first := formCluster(t, 3, etcdProvider(etcd))
	c.waitRegistered(3)
	etcd.Pause()
	for _, agent := range c.agents {
		for _, name := range []string{"authority_fails", "session_fails", "master_lost"} {
			c.eventually(agent.name+" warns: "+name, func(context.Context) bool {
				return slices.ContainsFunc(logLines(t, agent), func(r map[string]any) bool {
					if r["level"] != "WARN" || r[alarm.AttrAlarm] != name {
						return false
					}
					err, _ := r["error"].(string)
					return name == "master_lost" || r["provider"] == "etcd" && r["addr"] == etcd.Endpoint() && err != ""
				})
			})
		}
	}
	etcd.Resume()
	c.waitMaster(first.Term, 3, c.agents...)
	for _, agent := range c.agents {
		c.waitNoAlarm(agent)
	}
	c.stopAndCheck(t, 2)
	for _, agent := range c.agents {
		logLines(t, agent)
	}
}

// Agents that get the interrupt of a shell together leave in good order: each sees the
// others leave and none fail, ends with status 0, and leaves no warning open.
func TestInterruptOfAllAgents(t *testing.T) {
	t.Parallel()
	for name, provider := range map[string]providerConfig{
		"static": staticProvider,
		"etcd":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if provider == nil {
				provider = etcdProvider(testserver.StartEtcd(t))
			}
			c, _ := formCluster(t, 5, provider)
			for _, agent := range c.agents {
				c.waitNoAlarm(agent)
			}
			var interrupted sync.WaitGroup
			for _, agent := range c.agents {
				interrupted.Go(func() { _ = agent.cmd.Process.Signal(syscall.SIGINT) })
			}
			interrupted.Wait()
			for _, agent := range c.agents {
				c.eventually(agent.name+" ends", func(context.Context) bool { return !agent.running() })
				if status := agent.cmd.ProcessState.ExitCode(); status != statusDone {
					t.Errorf("%s ended with status %d: %s", agent.name, status, agent.lastLog())
				}
				left := 0
				for _, r := range logLines(t, agent) {
					switch r["msg"] {
					case "member failed":
						t.Errorf("%s: %v", agent.name, r)
					case "member left":
						left++
					}
				}
				t.Logf("%s saw %d leave", agent.name, left)
				c.waitNoAlarm(agent)
			}
		})
	}
}
