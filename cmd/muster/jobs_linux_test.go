package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/httpapi"
)

// jobsOf asks an agent for its jobs.
func jobsOf(t *testing.T, agent *agentProcess) map[string]httpapi.Job {
	t.Helper()
	status, stdout, stderr := execute(t, "jobs", "list", "--agent", agent.httpAddr, "-o", "json")
	if status != statusDone {
		t.Logf("jobs list: %s", stderr)
		return nil
	}
	var all []httpapi.Job
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]httpapi.Job)
	for _, j := range all {
		byName[j.Name] = j
	}
	return byName
}

// Jobs of the configuration run on one node, or on each, each time once, and go on when the
// master is killed. Any agent answers for them, and changes them for all.
func TestJobs(t *testing.T) {
	dir := t.TempDir()
	fires, each := filepath.Join(dir, "fires"), filepath.Join(dir, "each")
	note := func(file string) []string {
		return []string{"/bin/sh", "-c", `echo "$MUSTER_RUN_SCHEDULED $MUSTER_RUN_NODE_ID" >> ` + file + `; echo "in term $MUSTER_RUN_TERM"`}
	}
	c := newTestCluster(t, 3, func(peers []string) map[string]any {
		config := patientProvider(peers)
		config["jobs"] = []any{
			map[string]any{"name": "tick", "schedule": "@every 3s", "command": note(fires)},
			map[string]any{"name": "each", "where": "all", "command": note(each)},
			map[string]any{"name": "by-hand", "command": []string{"/bin/sh", "-c", "echo by hand; exit 3"}},
			map[string]any{"name": "slow", "command": []string{"/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"}, "timeout": "1s"},
		}
		return config
	})
	c.start(c.agents...)
	master := c.waitMaster(0, 3, c.agents...)
	_, others := c.split(master)
	asked := others[0]
	change := func(args ...string) {
		t.Helper()
		wait.For(t, strings.Join(args, " "), func() bool {
			status, _, stderr := execute(t, append([]string{"jobs", args[0], "--agent", asked.httpAddr}, args[1:]...)...)
			if status != statusDone {
				t.Log(stderr)
			}
			return status == statusDone
		})
	}
	scheduled := func() (all []string) {
		for _, line := range linesOf(fires) {
			all = append(all, strings.Fields(line)[0])
		}
		return all
	}
	wait.For(t, "the job has run on the master", func() bool { return len(scheduled()) >= 2 })
	change("trigger", "each")
	wait.For(t, "the job of each node has run on all", func() bool {
		nodes := make(map[string]bool)
		for _, line := range linesOf(each) {
			nodes[strings.Fields(line)[1]] = true
		}
		return len(nodes) == 3
	})

	for _, name := range []string{"by-hand", "slow"} {
		change("trigger", name)
		wait.For(t, "a run of "+name+" has failed, which all agents know", func() bool {
			for _, a := range c.agents {
				last := jobsOf(t, a)[name].Last
				if last != nil && last.State == cron.Interrupted { // the master has changed, on a busy machine
					change("trigger", name)
				}
				if last == nil || last.State != cron.Failed {
					return false
				}
			}
			return true
		})
	}
	says := func(want string, args ...string) {
		t.Helper()
		wait.For(t, want+" from jobs "+args[0], func() bool {
			status, stdout, stderr := execute(t, append([]string{"jobs", args[0], "--agent", asked.httpAddr}, args[1:]...)...)
			t.Log(stdout, stderr)
			return status == statusDone && strings.Contains(stdout, want)
		})
	}
	says("by hand\n", "output", "by-hand")
	says("status 3", "runs", "by-hand")
	wait.For(t, "a metric says that it failed", func() bool {
		return slices.ContainsFunc(c.agents, func(a *agentProcess) bool {
			value, err := a.metric(t.Context(), `muster_job_last_run_failed{name="by-hand"}`)
			return err == nil && value == 1
		})
	})

	change("add", "more", "--runs", "by-hand", "--schedule", "@every 3s")
	wait.For(t, "the job that was added has run", func() bool { return jobsOf(t, c.agents[0])["more"].Last != nil })
	change("remove", "more")
	wait.For(t, "it is gone", func() bool { all := jobsOf(t, c.agents[0]); return all != nil && all["more"].Name == "" })
	for _, args := range [][]string{
		{"add", "evil", "--runs", "rm", "--schedule", "@every 1s"},
		{"add", "more", "--runs", "by-hand", "--schedule", "every second"},
		{"trigger", "nobody"},
	} {
		if status, _, stderr := execute(t, append([]string{"jobs", args[0], "--agent", asked.httpAddr}, args[1:]...)...); status == statusDone || stderr == "" {
			t.Errorf("%q: status %d: %s", args, status, stderr)
		}
	}

	// The agent of the master is killed: the others go on with the job, and nothing runs twice.
	killed, live := c.split(master)
	c.signal(killed, syscall.SIGKILL)
	asked = live[0]
	next := c.waitMaster(master.Term, 2, live...)
	before := len(scheduled())
	wait.For(t, "the job goes on", func() bool { return len(scheduled()) >= before+2 })
	change("pause", "tick")
	wait.For(t, "it is paused, and nothing of it runs", func() bool {
		j := jobsOf(t, asked)["tick"]
		return j.Paused && j.Last != nil && j.Last.State != cron.Running
	})
	all := scheduled()
	slices.Sort(all)
	for i := range len(all) - 1 {
		if all[i] == all[i+1] {
			t.Errorf("%s ran twice", all[i])
		}
	}
	if next.Term <= master.Term {
		t.Errorf("the master is %+v, and was %+v", next, master)
	}
}
