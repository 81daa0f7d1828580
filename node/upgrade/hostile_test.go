package upgrade_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/nodetest"
	"github.com/musterhq/muster/node/upgrade"
)

// overwrite puts value at key, whatever is there.
func overwrite(t *testing.T, l upgrade.Ledger, key, value string) {
	t.Helper()
	r, err := l.Get(t.Context(), key)
	if err != nil && !errors.Is(err, driver.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := l.Set(t.Context(), key, []byte(value), r.Revision); err != nil {
		t.Fatal(err)
	}
}

// What has no version opens no gate and runs no step, until an operator decides.
func TestAVersionThatIsNone(t *testing.T) {
	t.Parallel()
	n := nodetest.Start(t, 1).Nodes()[0]
	var runs atomic.Int32
	for i, record := range []string{
		`{"what":"schema","state":"failed"}`, `{"what":"v1","state":"free"}`, `{"what":"","state":"done"}`,
		`{"what":"-1","state":"running"}`, `{"what":"1.x","state":"running"}`, `{"what":"99999","state":"what"}`,
	} {
		name := fmt.Sprint("s", i)
		overwrite(t, n.Store(), "upgrade/steps/"+name, record)
		if err := upgrade.Wait(wait.Context(t), n.Store(), name, "1.1"); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: Wait: %v", record, err)
		}
		if err := upgrade.Retry(t.Context(), n.Store(), name, "1"); !errors.Is(err, driver.ErrConflict) {
			t.Errorf("%s: Retry: %v", record, err)
		}
		r, stop := run(t, n, n.Store(), upgrade.Step{Name: name, Version: "1.1",
			Run: func(context.Context, node.Term) error { runs.Add(1); return nil }})
		wait.For(t, "Run to meet the record", func() bool { return r.Waiting() != "" })
		if runs.Load() != 0 {
			t.Fatalf("%s: a step ran", record)
		}
		if err := upgrade.Resolve(t.Context(), n.Store(), name, "1"); err != nil {
			t.Fatalf("%s: Resolve: %v", record, err)
		}
		open(t, n.Store(), name, "1.1")
		stop()
		runs.Store(0)
	}
}

// What nobody has begun is not taken for done because a name or a version was mistyped.
func TestAStepThatNoRecordNames(t *testing.T) {
	t.Parallel()
	l := nodetest.Start(t, 1).Nodes()[0].Store()
	overwrite(t, l, "upgrade/steps/schema", `{"what":"1.2","state":"failed"}`)
	for _, decide := range []func(context.Context, upgrade.Ledger, string, upgrade.Version) error{upgrade.Retry, upgrade.Resolve} {
		if err := decide(t.Context(), l, "shcema", "1.2"); !errors.Is(err, driver.ErrNotFound) {
			t.Errorf("another name: %v", err)
		}
		for _, v := range []upgrade.Version{"12", "1.3", "1.1"} {
			if err := decide(t.Context(), l, "schema", v); !errors.Is(err, driver.ErrConflict) {
				t.Errorf("version %s: %v", v, err)
			}
		}
	}
	if all, err := upgrade.Statuses(t.Context(), l, "shcema", "schema"); err != nil || len(all) != 1 || all[0].State != upgrade.Failed {
		t.Errorf("recorded is %+v, %v", all, err)
	}
	if err := upgrade.Resolve(t.Context(), l, "schema", "1.2.0"); err != nil {
		t.Errorf("the same version: %v", err)
	}

	// Where it is said that the record was lost, none is wanted, nor one of that version.
	for name, v := range map[string]upgrade.Version{"index": "7", "schema": "1.3"} {
		if err := upgrade.ResolveLost(t.Context(), l, name, v); err != nil {
			t.Error(err)
		}
		open(t, l, name, v)
	}
	if err := upgrade.ResolveLost(t.Context(), l, "schema", "1.2"); !errors.Is(err, driver.ErrConflict) {
		t.Errorf("it goes back: %v", err)
	}
}

// A record names the cluster, and a term that no master will ever have.
func TestATermThatIsNone(t *testing.T) {
	t.Parallel()
	n := nodetest.Start(t, 1).Master()
	token, err := n.Check()
	if err != nil {
		t.Fatal(err)
	}
	for i, ahead := range []driver.Term{1000, 1 << 63} {
		name := fmt.Sprint("s", i)
		overwrite(t, n.Store(), "upgrade/steps/"+name,
			fmt.Sprintf(`{"what":"1","state":"failed","cluster_id":%q,"term":%d}`, token.ClusterID, token.Term+ahead))
		if err := upgrade.Retry(t.Context(), n.Store(), name, "1"); err != nil {
			t.Fatal(err)
		}
		_, stop := run(t, n, n.Store(), upgrade.Step{Name: name, Version: "1", Run: func(context.Context, node.Term) error { return nil }})
		open(t, n.Store(), name, "1")
		stop()
	}
}

// A step ends its goroutine. It has failed, and Run goes on.
func TestAStepThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	n := nodetest.Start(t, 1).Nodes()[0]
	_, stop := run(t, n, n.Store(), upgrade.Step{Name: "s", Version: "1",
		Run: func(context.Context, node.Term) error { runtime.Goexit(); return nil }})
	var failed *upgrade.FailedError
	if err := upgrade.Wait(wait.Context(t), n.Store(), "s", "1"); !errors.As(err, &failed) || !strings.Contains(err.Error(), "Goexit") {
		t.Errorf("Wait: %v", err)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
}

// abstaining counts how often a node makes way: it may lose mastership for other reasons.
type abstaining struct {
	*node.Node
	abstained atomic.Int32
}

func (a *abstaining) Abstain(reason string) (end func()) {
	a.abstained.Add(1)
	return a.Node.Abstain(reason)
}

// A record says of every node that it has a step which none has: they make way for one of them, and
// not each for another.
func TestAnnouncementsThatAreFalse(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 3)
	cluster.Master()
	instances := make(map[string]any)
	for i, n := range cluster.Nodes() {
		instances[n.InstanceID()] = map[string]any{"node_id": n.ID(), "version": fmt.Sprint(2 + i%2)}
	}
	value, err := json.Marshal(map[string]any{"instances": instances})
	if err != nil {
		t.Fatal(err)
	}
	chosen := &abstaining{Node: cluster.Nodes()[1]}
	overwrite(t, chosen.Store(), "upgrade/nodes/ghost", string(value))
	for _, n := range []upgrade.Node{cluster.Nodes()[0], chosen, cluster.Nodes()[2]} {
		run(t, n, chosen.Store(), upgrade.Step{Name: "schema", Version: "1", Run: func(context.Context, node.Term) error { return nil }})
	}
	isMaster := func() bool { _, err := chosen.Check(); return err == nil }
	wait.For(t, "the one that is said to have most to be master", isMaster)
	open(t, chosen.Store(), "schema", "1")
	soon, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if wait.Until(soon, func() bool { return chosen.abstained.Load() > 0 }) {
		t.Error("it gave the mastership away")
	}
}
