package upgrade

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/musterhq/muster/discovery/driver"
)

// Add has the Runner run one more step until remove is called: that of somebody who comes and goes,
// as a process beside an agent. It may be called before Run, and while that runs. A name has one
// such step at a time, and none if it is among Steps: then the error wraps discovery.ErrConflict.
// Where the cluster has gone on to a version that all must have, Run goes on.
//
// remove does not interrupt the step, and may be called more than once. A step that is removed
// before it is done is not announced any longer, so that the node, as master, makes way for a
// member that has it. Neither waits for the ledger.
func (r *Runner) Add(s Step) (remove func(), err error) {
	if _, err := validate([]Step{s}); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, taken := r.added[s.Name]
	if taken || slices.ContainsFunc(r.Steps, func(o Step) bool { return o.Name == s.Name }) {
		return nil, fmt.Errorf("upgrade: step %q: %w: this node has one of that name already", s.Name, driver.ErrConflict)
	}
	if r.added == nil {
		r.added = make(map[string]Step)
	}
	r.added[s.Name] = s
	r.renew()
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.added, s.Name)
		r.renew()
	}), nil
}

// renew wakes all who wait, with r.mu held, if the Runner runs.
func (r *Runner) renew() {
	if r.changed == nil {
		return
	}
	r.stale = true
	close(r.changed)
	close(r.more)
	r.changed, r.more = make(chan struct{}), make(chan struct{})
}

// allNames are those of Steps, in order, and of the added ones.
func (r *Runner) allNames() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(slices.Clone(r.names), slices.Sorted(maps.Keys(r.added))...)
}

// stepsOf are the steps of a name, in order.
func (r *Runner) stepsOf(name string) []Step {
	if steps := r.byName[name]; len(steps) > 0 {
		return steps
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.added[name]; ok {
		return []Step{s}
	}
	return nil
}
