package everywhere_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/musterhq/muster/examples/everywhere"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/nodetest"
)

func TestFunc(t *testing.T) {
	cluster := nodetest.Start(t, 3)
	var ran atomic.Int64
	var drops []func(context.Context, string) error
	for _, n := range cluster.Nodes() {
		mesh, err := call.Open(n, call.Options{})
		if err != nil {
			t.Fatal(err)
		}
		drops = append(drops, everywhere.Func(n, mesh, "cache.Drop", func(_ context.Context, key string) error {
			ran.Add(1)
			if key == n.ID() {
				return errors.New("no such key")
			}
			return nil
		}))
		if err := mesh.Start(); err != nil {
			t.Fatal(err)
		}
	}
	wait.For(t, "all serve", func() bool { return drops[0](t.Context(), "a") == nil })
	for key, want := range map[string]struct {
		ran int64
		err string
	}{"a": {3, ""}, "node-1": {1, "node-1: "}, "node-3": {3, "node-3: "}} {
		ran.Store(0)
		err := drops[0](t.Context(), key)
		if (err == nil) != (want.err == "") || err != nil && !strings.HasPrefix(err.Error(), want.err) || ran.Load() != want.ran {
			t.Errorf("%s: %v, ran on %d nodes, want %d", key, err, ran.Load(), want.ran)
		}
	}
}
