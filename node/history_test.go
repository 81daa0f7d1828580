package node_test

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/history"
)

// sharedBuffer can be read while it is written.
type sharedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *sharedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *sharedBuffer) records(t *testing.T) []history.Record {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	records, err := history.Read(bytes.NewReader(b.text.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func TestHistory(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var kept sharedBuffer
	n := c.start("a", func(cfg *node.Config) { cfg.History = &kept })
	wait.For(t, "a renewal and the master are on record", func() bool {
		records := kept.records(t)
		return slices.ContainsFunc(records, func(r history.Record) bool { return r.Kind == history.Renewed }) &&
			slices.ContainsFunc(records, func(r history.Record) bool { return r.Kind == history.View && r.View.Master != nil })
	})
	token, err := n.Check()
	if err != nil {
		t.Fatal(err)
	}
	wait.Leave(t, n.Leave)
	records := kept.records(t)
	var story []history.Kind
	var last history.Record
	for i, r := range records {
		if r.NodeID != "a" || r.InstanceID != n.InstanceID() || r.BootNS <= 0 {
			t.Errorf("record %d: %+v", i, r)
		}
		switch r.Kind {
		case history.View, history.Renewed:
		default:
			story = append(story, r.Kind)
		}
		switch r.Kind {
		case history.Active, history.Renewed, history.Ended:
			if r.Term != uint64(token.Term) || r.ClusterID != token.ClusterID || r.DeadlineNS < last.DeadlineNS {
				t.Errorf("record %d: %+v after %+v, in term %d", i, r, last, token.Term)
			}
			last = r
		}
	}
	if want := []history.Kind{history.Start, history.Active, history.Ended, history.Leaving, history.Stop}; !slices.Equal(sortedStory(story), sortedStory(want)) || story[0] != history.Start || story[len(story)-1] != history.Stop {
		t.Errorf("the story is %v, want %v", story, want)
	}
	if last.Kind != history.Ended || last.Reason != "draining" && last.Reason != "resigned" || last.UntilNS > last.BootNS {
		t.Errorf("the end is %+v", last)
	}
}

// sortedStory is for what may come in either order: leaving, and the end that follows.
func sortedStory(kinds []history.Kind) []history.Kind { return slices.Sorted(slices.Values(kinds)) }

type brokenDisk struct{}

func (brokenDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// A history that cannot be written costs nothing but itself.
func TestHistoryThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.start("a", func(cfg *node.Config) { cfg.History = brokenDisk{} })
	wait.For(t, "the node is master", n.IsMaster)
}
