//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/node/history"
)

// The history of an agent goes on over its restarts, in one file.
func TestAgentHistory(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, 1, staticProvider)
	agent := c.agents[0]
	c.start(agent)
	first := c.waitMaster(0, 1, agent)
	c.kill(agent)
	c.start(agent)
	second := c.waitMaster(first.Term, 1, agent)
	c.stopAll()

	f, err := os.Open(c.historyFile(agent))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var story []string
	for _, r := range checker.ReadLog(t, agent.name, f).Records {
		if r.Kind == history.Start || r.Kind == history.Active || r.Kind == history.Stop {
			story = append(story, string(r.Kind)+" "+r.InstanceID)
		}
	}
	want := []string{"start " + first.InstanceID, "active " + first.InstanceID, "start " + second.InstanceID, "active " + second.InstanceID, "stop " + second.InstanceID}
	if strings.Join(story, ", ") != strings.Join(want, ", ") {
		t.Errorf("the story is %v, want %v", story, want)
	}
}

func TestHistoryThatCannotBeOpened(t *testing.T) {
	name := filepath.Join(t.TempDir(), "missing", "history.jsonl")
	status, _, stderr := execute(t, "agent", "-c", writeFile(t, "muster.yaml", goodFile), "--history", name)
	if want := `--history: "` + name + `": cannot be written: `; status != statusUsage || !strings.Contains(stderr, want) {
		t.Errorf("status %d, stderr %q, want %s", status, stderr, want)
	}
}
