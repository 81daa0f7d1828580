package upgrade

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/internal/claim"
	"github.com/musterhq/muster/node/mastership"
)

// Node is what Run needs of a node. A *node.Node is one.
type Node interface {
	ID() string
	InstanceID() string
	View() node.View
	Views(ctx context.Context) iter.Seq[node.View]
	WhileMaster(ctx context.Context, fn func(context.Context, node.Term) error, o ...mastership.WhileMasterOption) error
	Resign(ctx context.Context) error
}

// abstainer is a Node that can keep from being a candidate.
type abstainer interface {
	Abstain(reason string) (end func())
}

const (
	// announceMaxWait bounds the waits of nodes that announce themselves all at once.
	announceMaxWait = 500 * time.Millisecond
	// lookRarely is how often a ledger that does not report changes is read when nothing is to be
	// done, and lookIdly one that does, in case that a report is lost.
	lookRarely = 5 * time.Second
	lookIdly   = 5 * time.Minute
	// lookTimeout bounds one look at what is recorded of one name.
	lookTimeout = 10 * time.Second
	// A step that was interrupted, or has not begun, although this node is still master, is claimed
	// again within pauseMin, doubled each time, up to pauseMax.
	pauseMin = time.Second
	pauseMax = 5 * time.Second
)

// Run runs the steps that are not done whenever this node is master, and announces them while it
// is not. It is called on every node, with the same steps in one version of a program, those of
// a name in ascending order. It blocks until ctx ends, and returns its cause, or until the node
// ends: it does not return when all is done, for a node that has all its steps still makes way
// for one that has more. That a step fails does not end it: Wait says so.
//
// It returns at once with an error that wraps discovery.ErrInvalid for steps that cannot be, and
// node.ErrNoAuthority where there is never a master; and an *OutdatedError where the cluster has
// gone on to a version that this program lacks and that all must have.
//
// With a nil n the process is its own master, see the package documentation. Run is for those
// who want no log of it: see Runner.
func Run(ctx context.Context, n Node, l Ledger, steps ...Step) error {
	r := &Runner{Node: n, Ledger: l, Steps: steps}
	return r.Run(ctx)
}

// Runner is Run with a log, and with a word on what it waits for.
type Runner struct {
	Node   Node // nil: this process is its own master
	Ledger Ledger
	Steps  []Step
	// Logger takes the beginnings and ends of steps, and what fails. Nil: none.
	Logger *slog.Logger

	byName map[string][]Step
	names  []string

	mu      sync.Mutex
	waiting string
	changed chan struct{} // closed, and replaced, when something may have changed
	pending bool
	added   map[string]Step
	more    chan struct{} // closed, and replaced, when a step is added
	// stale says that the ledger, or the steps, may have changed since they were looked at.
	stale bool
	// patience is that with announcements of which nothing comes, for follow alone.
	patience patience
	// announced are the added steps that this Runner has announced, for follow alone.
	announced map[string]bool
	// working says that a step is claimed here, or runs, and leaving that this node makes way for
	// another one. Never are both true.
	working, leaving bool
}

// Waiting says what keeps the next step from running on this node, such as members that have not
// announced it, or what fails. It is empty if nothing does, and does not block.
func (r *Runner) Waiting() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}

// Run is the function Run. It is called once.
func (r *Runner) Run(ctx context.Context) error {
	var err error
	if r.byName, err = validate(r.Steps); err != nil {
		return err
	}
	for _, s := range r.Steps {
		if !slices.Contains(r.names, s.Name) {
			r.names = append(r.names, s.Name)
		}
	}
	if r.Logger == nil {
		r.Logger = slog.New(slog.DiscardHandler)
	}
	r.mu.Lock()
	r.changed, r.more, r.pending, r.stale = make(chan struct{}), make(chan struct{}), true, true
	r.mu.Unlock()
	r.announced = make(map[string]bool)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	if r.Node == nil {
		wg.Go(func() { r.notifyOfChanges(ctx) })
		return r.runAlone(ctx)
	}
	wg.Go(func() { r.notifyOfChanges(ctx) })
	wg.Go(func() { r.notifyOfViews(ctx) })
	wg.Go(func() { cancel(r.follow(ctx)) })
	return r.Node.WhileMaster(ctx, r.whileMaster)
}

func (r *Runner) runAlone(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	r.work(ctx, claim.Owner{NodeID: host, InstanceID: rand.Text()})
	<-ctx.Done()
	return context.Cause(ctx)
}

// notify wakes those who wait for a change. stale says that it may be one of the ledger.
func (r *Runner) notify(stale bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stale = r.stale || stale
	close(r.changed)
	r.changed = make(chan struct{})
}

// next is closed with the next change, and more when a step is added.
func (r *Runner) next() (changed, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed, r.more
}

func (r *Runner) notifyOfChanges(ctx context.Context) {
	every := lookRarely
	if claim.Reports(r.Ledger) {
		every = lookIdly
	}
	last := time.Time{}
	for reported := range claim.Changes(ctx, r.Ledger, "upgrade/") {
		r.mu.Lock()
		idle := !r.pending && time.Since(last) < every
		r.mu.Unlock()
		if reported || !idle {
			last = time.Now()
			r.notify(true)
		}
	}
}

func (r *Runner) notifyOfViews(ctx context.Context) {
	seen := make(map[string]bool)
	for view := range r.Node.Views(ctx) {
		joined, members := false, make(map[string]bool)
		for _, m := range view.Members {
			members[m.InstanceID] = true
			joined = joined || !seen[m.InstanceID]
		}
		seen = members
		r.notify(joined) // no message has reported what it wrote before it was in sight
	}
}

func (r *Runner) wait(what string) {
	r.mu.Lock()
	changed := r.waiting != what
	r.waiting = what
	r.mu.Unlock()
	if changed && what != "" {
		r.Logger.Info("upgrade waits", "reason", what)
	}
}

func (r *Runner) whileMaster(ctx context.Context, term node.Term) error {
	owner := claim.Owner{Term: term, NodeID: r.Node.ID(), InstanceID: r.Node.InstanceID()}
	if token, ok := mastership.TokenFrom(ctx); ok {
		owner.ClusterID = token.ClusterID
	}
	r.work(ctx, owner)
	return nil
}

// work runs the steps that are not done, in order, until ctx ends. A name that is stuck does not
// keep the others from going on. Once all are done it looks at the ledger no more before a step is
// added.
func (r *Runner) work(ctx context.Context, owner claim.Owner) {
	pauses := make(map[string]*pause)
	for ctx.Err() == nil {
		changed, more := r.next()
		var waiting []string
		var soonest time.Time // at which a pause ends
		for _, name := range r.allNames() {
			p := pauses[name]
			if p == nil {
				p = &pause{retry: backoff.Backoff{Min: pauseMin, Max: pauseMax}}
				pauses[name] = p
			}
			if time.Until(p.until) <= 0 {
				p.why = r.workOn(ctx, owner, name, p)
			}
			if p.why != "" {
				waiting = append(waiting, p.why)
			}
			if time.Until(p.until) > 0 && (soonest.IsZero() || p.until.Before(soonest)) {
				soonest = p.until
			}
		}
		var again <-chan time.Time
		if !soonest.IsZero() {
			again = time.After(time.Until(soonest))
		}
		r.wait(strings.Join(waiting, "; "))
		if len(waiting) == 0 {
			changed = more
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
		}
	}
}

// pause keeps the steps of a name from being claimed over and over in one term.
type pause struct {
	retry backoff.Backoff
	until time.Time
	why   string // what workOn said last
}

// workOn runs the steps of name that are not done, and says why it cannot go on. It sets the pause
// after one that came to no end here.
func (r *Runner) workOn(ctx context.Context, owner claim.Owner, name string, p *pause) (why string) {
	was, found, err := recorded(ctx, r.Ledger, name)
	if err != nil {
		return err.Error()
	}
	for _, step := range r.stepsOf(name) {
		if found && was.reached(step.Version) {
			continue
		}
		if step.AfterAll && r.Node != nil {
			a, _, err := readAnnounced(ctx, r.Ledger, name)
			if err != nil {
				return err.Error()
			}
			if nodes := a.lacking(r.Node.View(), step.Version); len(nodes) > 0 {
				return fmt.Sprintf("%s %s runs after all nodes have it, which these lack: %s",
					name, step.Version, strings.Join(nodes, ", "))
			}
		}
		if !r.beginWork() {
			p.until = time.Now().Add(pauseMin)
			return fmt.Sprintf("%s %s: mastership is left to another node", name, step.Version)
		}
		record, err := r.attempt(ctx, owner, step)
		r.endWork()
		if err != nil {
			p.until = time.Now().Add(p.retry.Next())
			return err.Error()
		}
		if s := statusOf(name, record); !s.reached(step.Version) {
			if record.Owner == owner && (s.State == Interrupted || s.State == Free) {
				p.until = time.Now().Add(p.retry.Next())
			}
			return fmt.Sprintf("%s %s is %s: %s", name, s.Version, s.State, s.Error)
		}
	}
	return ""
}

// beginWork reports whether a step may be claimed: not if this node makes way.
func (r *Runner) beginWork() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.working = !r.leaving
	return r.working
}

func (r *Runner) endWork() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.working = false
}

// leave notes that this node makes way, or no longer. It returns false if it must not: a step runs
// here, which that would interrupt.
func (r *Runner) leave(leaving bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if leaving && r.working {
		return false
	}
	r.leaving = leaving
	return true
}

func (r *Runner) isWorking() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.working
}

// attempt claims and runs one step.
func (r *Runner) attempt(ctx context.Context, owner claim.Owner, step Step) (claim.Record, error) {
	_, transacts := r.Ledger.(Transactor) // nothing of a run that did not end is left
	data, err := json.Marshal(details{step.Restartable || transacts, step.AfterAll})
	if err != nil {
		return claim.Record{}, err
	}
	log := r.Logger.With("name", step.Name, "version", string(step.Version), "term", owner.Term)
	return claim.Do(ctx, claim.Attempt{
		Ledger: r.Ledger,
		Key:    stepsPrefix + step.Name,
		Goal: claim.Goal{
			What: string(step.Version), Compare: compareVersions, Restart: step.Restartable,
			OnClaim: func(claim.Record) json.RawMessage { return data },
		},
		Owner:  owner,
		Logger: r.Logger,
		Work: func(ctx context.Context, c claim.Record) error {
			log.Info("upgrade step begins", "runs", c.Runs)
			err := step.Run(ctx, c.Term)
			if err != nil {
				log.Info("upgrade step failed", "error", err)
			} else {
				log.Info("upgrade step ends")
			}
			return err
		},
	})
}

// follow announces the steps of this node while they are not done, makes way for members that
// have more, and returns an error if the cluster has gone on without this node.
func (r *Runner) follow(ctx context.Context) error {
	y := yielding{node: r.Node, logger: r.Logger, leave: r.leave}
	defer y.end()
	idle := false // the ledger had nothing about any step
	for ctx.Err() == nil {
		changed, _ := r.next()
		reason, pending := "", false
		r.mu.Lock()
		look := r.stale || !idle
		r.stale = false
		r.mu.Unlock()
		var names []string
		if look {
			var err error
			names, err = r.followed(ctx)
			idle = err == nil && len(names) == 0
		}
		for _, name := range names {
			ahead, todo, err := r.look(ctx, name)
			if outdated := (*OutdatedError)(nil); errors.As(err, &outdated) && len(r.byName[name]) > 0 {
				return err
			}
			if err != nil && ctx.Err() == nil {
				r.Logger.Info("ledger failed", "name", name, "error", err)
			}
			pending = pending || todo || err != nil
			if ahead != "" {
				reason = ahead
			}
		}
		r.mu.Lock()
		r.pending = pending
		r.mu.Unlock()
		again := y.set(ctx, reason)
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
		}
	}
	return nil
}

// followed are the names of the steps, and those that nodes have announced, if the ledger can list
// them.
func (r *Runner) followed(ctx context.Context) ([]string, error) {
	names := r.allNames()
	for name := range r.announced {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if l, ok := r.Ledger.(lister); ok {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		records, err := l.Records(ctx, nodesPrefix)
		if err != nil {
			if ctx.Err() == nil {
				r.Logger.Info("ledger failed", "error", err)
			}
			return names, err
		}
		for _, record := range records {
			if name := strings.TrimPrefix(record.Key, nodesPrefix); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// look reads what is recorded of name. It says which member should be master instead of this
// node, and whether steps of this node are still to be done.
func (r *Runner) look(ctx context.Context, name string) (ahead string, todo bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	have, steps := Version("0"), r.stepsOf(name)
	if len(steps) > 0 {
		have = steps[len(steps)-1].Version
	}
	s, found, err := recorded(ctx, r.Ledger, name)
	if err != nil {
		return "", false, err
	}
	if found && s.State == Done && s.AfterAll && s.Version.Compare(have) > 0 {
		return "", false, &OutdatedError{Name: name, Have: have, Done: s.Version}
	}
	switch {
	case len(steps) > 0 && !(found && s.reached(have)):
		todo = true
		// One that was added may be gone by now: what is announced is taken back all the same.
		r.announced[name] = r.announced[name] || len(r.byName[name]) == 0
		if err := announce(ctx, r.Ledger, name, have, r.Node.View, r.Node.ID(), r.Node.InstanceID()); err != nil {
			return "", true, err
		}
	case r.announced[name]: // it is removed, or done
		if err := withdraw(ctx, r.Ledger, name, r.Node.InstanceID()); err != nil {
			return "", true, err
		}
		delete(r.announced, name)
	}
	if found && s.Stuck() {
		return "", todo, nil // nobody runs it, or what comes after it
	}
	a, _, err := readAnnounced(ctx, r.Ledger, name)
	if err != nil {
		return "", todo, err
	}
	if own, ok := a.Instances[r.Node.InstanceID()]; ok && own.Version.Compare(have) > 0 {
		have = own.Version // of another Runner of this node
	}
	if found && s.Version.Compare(have) > 0 && s.reached(s.Version) {
		have = s.Version // what is done is no reason to make way
	}
	view := r.Node.View()
	trusted := r.patience.trusted(time.Now(), name, a.instancesAhead(view, have), view.Master, r.isWorking())
	if id, version, ok := a.ahead(trusted, have); ok {
		ahead = fmt.Sprintf("node %s has %s %s, which this node lacks", id, name, version)
	}
	return ahead, todo, nil
}
