package agent

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/upgrade"
)

// runSteps runs the steps that clients of the API add, and has the node make way as master for a
// member that has a step which it lacks, until the node ends or stop is called.
func runSteps(n *node.Node, o *httpapi.Operator) (stop func()) {
	o.Upgrades = &upgrade.Runner{Node: n, Ledger: n.Store()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = o.Upgrades.Run(ctx) // the node has ended, or is never master
	}()
	return func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(stopTimeout): // a step of a client that is gone ends with its deadline
		}
	}
}

// stepStuck is of a step that waits for an operator, or for a node that is gone.
var stepStuck = alarm.Kind{Name: "step_stuck", Raised: "step is stuck", Cleared: "step is done, or runs again", Patience: 10 * time.Second}

// steps follows what is recorded of the steps of upgrades.
type steps struct {
	node   *node.Node
	alarms *alarm.Set

	mu      sync.Mutex
	all     []upgrade.Status
	changed chan struct{} // holds one element
}

// followSteps follows until the node ends or stop is called.
func followSteps(n *node.Node, log *slog.Logger) (s *steps, stop func()) {
	s = &steps{node: n, alarms: alarm.New(log), changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		for all, err := range upgrade.Watch(ctx, n.Store()) {
			if err != nil {
				continue // it is said when that is over
			}
			s.mu.Lock()
			s.all = all
			s.mu.Unlock()
			select {
			case s.changed <- struct{}{}:
			default:
			}
		}
	})
	following.Go(func() { s.watch(ctx) })
	return s, func() {
		cancel()
		following.Wait()
		s.alarms.Close()
	}
}

// watch judges what is recorded when that changes, and again and again while a step is not done:
// whether it is stuck is for the members in view to say as well.
func (s *steps) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if s.judge() {
			tick.Reset(time.Second)
		} else {
			tick.Stop()
		}
		select {
		case <-s.changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// status returns the steps that were last read.
func (s *steps) status() []upgrade.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// judge raises the alarms of what is stuck, on the master alone: otherwise each node would. It
// reports whether a step is not done.
func (s *steps) judge() (undone bool) {
	master := s.node.IsMaster()
	stuck := make(map[string]bool)
	for _, step := range s.status() {
		undone = undone || step.State != upgrade.Done
		if !master {
			continue
		}
		if step.Stuck() || step.State == upgrade.Running && !s.alive(step.InstanceID) {
			stuck[step.Name] = true
			s.alarms.Raise(stepStuck, step.Name, "version", string(step.Version), "state", string(step.State), "master", step.NodeID,
				"error", strings.TrimSpace(step.Error))
		}
	}
	if master {
		s.alarms.Keep(stepStuck, stuck)
		return undone
	}
	for _, name := range s.alarms.Raised(stepStuck) {
		s.alarms.Forget(stepStuck, name)
	}
	return undone
}

func (s *steps) alive(instance string) bool {
	return slices.ContainsFunc(s.node.View().Members, func(m node.Member) bool { return m.InstanceID == instance })
}
