package node_test

import (
	"context"
	"errors"
	"testing"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
)

func aloneNode(t testing.TB) *node.Node {
	t.Helper()
	n, err := node.Start(t.Context(), node.Config{Alone: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wait.Leave(t, n.Leave) })
	wait.For(t, "it sees itself", func() bool { return len(n.Members()) == 1 })
	return n
}

// A program in no cluster does all that one in a cluster does.
func TestAlone(t *testing.T) {
	t.Parallel()
	n := aloneNode(t)
	ctx, done := context.WithCancel(t.Context())
	err := n.WhileMaster(ctx, func(ctx context.Context, term node.Term) error {
		if term != 1 {
			t.Errorf("term %d", term)
		}
		done()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	wait.For(t, "it knows that it is master, and is ready", func() bool {
		m, ok := n.Master()
		return ok && m.InstanceID == n.InstanceID() && n.Status().Ready
	})
	if _, err := n.Store().Set(t.Context(), "k", []byte("v"), 0); err != nil {
		t.Error(err)
	}
	echo(t, n, "echo")
	conn, err := n.Dial(t.Context(), "echo", n.View().Self())
	if err != nil {
		t.Fatal(err)
	}
	check(t, n, conn, n.InstanceID())
	conn.Close()
	if err := n.Update(func(d *node.Details) { d.Version = "2" }); err != nil {
		t.Error(err)
	}
	wait.For(t, "it sees its update", func() bool { return n.View().Self().Version == "2" })
}

func TestAloneHasNoProvider(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]node.Config{
		"a provider":   {Alone: true, Registries: []*discovery.Registry{nil}},
		"an authority": {Alone: true, Mastership: node.Mastership{Authority: []string{"none"}}},
		"a witness":    {Alone: true, Mastership: node.Mastership{Eligible: new(false)}},
	} {
		if _, err := node.Start(t.Context(), cfg); !errors.Is(err, discovery.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
