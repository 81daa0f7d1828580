package voter

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testnet"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/static/internal/replicated"
	"github.com/musterhq/muster/providers/static/internal/voterdir"
)

// TestBoundedLog writes more than a snapshot's worth and looks at the disk.
func TestBoundedLog(t *testing.T) {
	t.Parallel()
	port, dir := testnet.New().Port(t), t.TempDir()
	// start starts the only voter and waits until it leads.
	start := func() (v *Voter, stop func()) {
		node := port.Node()
		v, err := New(Config{
			Cluster: "test",
			Self:    port.Addr(),
			Voters:  func() ([]string, error) { return []string{port.Addr()}, nil },
			DataDir: dir,
			Network: node,
			Logger:  slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		v.Start(Hooks{
			Handle:   func(*http.ServeMux) {},
			Tick:     func(*Member) {},
			NextTick: func() time.Duration { return time.Minute },
		})
		wait.For(t, "a leader", func() bool {
			m := v.Member()
			return m != nil && m.Leader() == m.ID
		})
		return v, func() {
			if err := v.Close(); err != nil {
				t.Error(err)
			}
			node.Close()
		}
	}
	v, stop := start()
	value := bytes.Repeat([]byte("x"), 4<<10)
	var rev driver.Revision
	const writes = 4 * snapshotEvery
	for i := range writes {
		out, err := v.Member().Apply(context.Background(), replicated.Command{Op: replicated.OpSet, Key: "k", Value: value, Prev: rev})
		if err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
		rev = out.Revision
	}
	wait.For(t, "a short log", func() bool {
		first, err := v.disk.dir.Log.FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		last, err := v.disk.dir.Log.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		return last > writes && last-first <= snapshotEvery+keepEntries
	})
	snaps, err := v.disk.dir.Snapshots.List()
	if err != nil || len(snaps) == 0 || len(snaps) > voterdir.KeepSnapshots {
		t.Errorf("%d snapshots, %v", len(snaps), err)
	}
	stop()
	v, stop = start()
	defer stop()
	term, _ := v.Member().Leading()
	if err := v.Member().CatchUp(t.Context(), term); err != nil { // it may be replaying its log
		t.Fatal(err)
	}
	if r, err := v.Member().State.Get("k"); err != nil || !bytes.Equal(r.Value, value) || r.Revision != rev {
		t.Errorf("after a restart: revision %d, want %d, %v", r.Revision, rev, err)
	}
}
