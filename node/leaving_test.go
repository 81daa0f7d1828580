package node_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
)

// logBuffer keeps what is logged, as lines of JSON.
type logBuffer struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lines.Write(line)
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// records returns what was logged so far.
func (b *logBuffer) records(t testing.TB) []map[string]any {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var records []map[string]any
	for line := range strings.Lines(b.lines.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		records = append(records, r)
	}
	return records
}

// Nodes that leave at the same time have left, to each other too: nobody failed. On a machine that
// is starved a goodbye may be read after the news that nobody answers there any more; what is wrong
// happens each time.
func TestLeaveTogether(t *testing.T) {
	t.Parallel()
	var failed []string
	for range 5 {
		if failed = leaveTogether(t, 5); len(failed) == 0 {
			return
		}
		t.Log(failed)
	}
	t.Errorf("each time a node was said to have failed: %v", failed)
}

// leaveTogether has nodes leave at the same time, and returns who said that another failed.
func leaveTogether(t *testing.T, size int) (failed []string) {
	c := newCluster(t)
	logs := make([]*logBuffer, size)
	nodes := make([]*node.Node, size)
	for i := range size {
		logs[i] = new(logBuffer)
		nodes[i] = c.start(fmt.Sprintf("n%d", i), patient, func(cfg *node.Config) { cfg.Logger = logs[i].logger() })
	}
	c.waitMaster(0, nodes...)
	c.waitMembers(size, nodes...)
	var leaving sync.WaitGroup
	for _, n := range nodes {
		leaving.Go(func() { wait.Leave(t, n.Leave) })
	}
	leaving.Wait()
	for i, log := range logs {
		for _, r := range log.records(t) {
			if r["msg"] == "member failed" {
				failed = append(failed, fmt.Sprintf("%s: %v", nodes[i].ID(), r))
			}
		}
	}
	return failed
}
