package watcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// maxRetry bounds the wait between two tries at anything.
const maxRetry = 15 * time.Second

// settled is how long events must have arrived for the next outage to count as a new
// one, which is tried at once.
const settled = 10 * time.Second

// Run follows the engine until ctx ends, tries again without end, and then joins what it
// started. It is to be called once.
func (w *Watcher) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	l := &loop{
		Watcher: w, ctx: ctx, inbox: make(chan func()),
		items: make(map[string]*item), dirty: make(map[*item]bool), awaited: make(map[string]bool),
		reconnect: backoff.Backoff{Max: maxRetry},
	}
	defer l.tasks.Wait()
	defer cancel()
	for {
		l.start()
		l.publish()
		var due <-chan time.Time
		var timer *time.Timer
		if at := l.nextDue(); !at.IsZero() {
			timer = time.NewTimer(time.Until(at))
			due = timer.C
		}
		select {
		case f := <-l.inbox:
			f()
			l.drain()
		case <-due:
		case <-w.resync:
			if l.connected {
				l.listAt = time.Now()
			}
		case <-ctx.Done():
			return
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// loop is what one Run knows. It is touched by the goroutine of Run alone; what others
// find out they post to it.
type loop struct {
	*Watcher
	ctx   context.Context
	inbox chan func()
	tasks sync.WaitGroup

	stream    *stream // nil while there is none
	reconnect backoff.Backoff
	connectAt time.Time // when the next may be begun
	connected bool      // the stream is up, and the containers were listed since
	listAt    time.Time // when they are to be listed, zero for not
	listing   bool
	err       error

	items     map[string]*item
	dirty     map[*item]bool  // those to be inspected
	awaited   map[string]bool // listed, and not inspected since
	busy      int
	counters  Counters
	changed   bool      // there is news
	counted   bool      // there is none but in the counters
	published time.Time // when the last news was
}

// stream is one sequence of events.
type stream struct {
	end   context.CancelFunc
	since time.Time // when it began, zero before
}

// item is one container.
type item struct {
	id        string
	container engine.Container
	inspected bool
	running   bool
	kept      string
	services  []grammar.Service
	leftOut   []string
	problem   error // with its services
	err       error // why it could not be inspected

	dirty     bool // to be inspected
	busy      bool // being inspected
	notBefore time.Time
	retry     backoff.Backoff
}

func (i *item) label() string {
	if i.inspected {
		return i.container.Label()
	}
	return engine.Container{ID: i.id}.Label()
}

func (l *loop) post(f func()) {
	select {
	case l.inbox <- f:
	case <-l.ctx.Done():
	}
}

// drain takes in what else has come, so that many changes are published as one.
func (l *loop) drain() {
	for range 256 {
		select {
		case f := <-l.inbox:
			f()
		default:
			return
		}
	}
}

// start starts what is due.
func (l *loop) start() {
	now := time.Now()
	if l.stream == nil {
		if !now.Before(l.connectAt) {
			l.connect()
		}
		return // nothing is asked of an engine that is not there
	}
	if !l.listAt.IsZero() && !l.listing && !now.Before(l.listAt) {
		l.list(l.stream)
	}
	if !l.connected {
		return
	}
	for i := range l.dirty {
		if l.busy == l.config.Concurrency {
			return
		}
		if !i.busy && !now.Before(i.notBefore) {
			l.inspect(i)
		}
	}
}

// nextDue is when start or publish has something to do that is not due yet.
func (l *loop) nextDue() time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if l.changed {
		sooner(l.published.Add(together))
	}
	if l.stream == nil {
		sooner(l.connectAt)
		return next
	}
	if !l.listAt.IsZero() && !l.listing {
		sooner(l.listAt)
	}
	if l.connected && l.busy < l.config.Concurrency {
		for i := range l.dirty {
			if !i.busy {
				sooner(i.notBefore)
			}
		}
	}
	return next
}

// connect begins to receive events.
func (l *loop) connect() {
	ctx, end := context.WithCancel(l.ctx)
	s := &stream{end: end}
	l.stream = s
	l.tasks.Go(func() {
		defer end()
		tooLong := time.AfterFunc(l.config.CallTimeout, end)
		err := l.config.silent()
		for e, streamErr := range l.config.Engine.Events(ctx) {
			if streamErr != nil {
				if ctx.Err() == nil {
					err = streamErr
				}
				break
			}
			if e == (engine.Event{}) {
				tooLong.Stop()
				err = errors.New("the events of the engine have ended")
				l.post(func() { l.subscribed(s) })
				continue
			}
			if ofInterest(e.Action) {
				l.post(func() { l.event(s, e) })
			}
		}
		tooLong.Stop()
		l.post(func() { l.lost(s, err) })
	})
}

// ofInterest reports whether action may change what is registered. What is not known
// may.
func ofInterest(action string) bool {
	name, _, _ := strings.Cut(action, ":")
	switch name {
	case "attach", "archive-path", "commit", "copy", "create", "detach", "exec_create", "exec_detach", "exec_die",
		"exec_start", "export", "extract-to-dir", "resize", "top":
		return false
	}
	return true
}

func (l *loop) subscribed(s *stream) {
	if l.stream == s {
		s.since = time.Now()
		l.listAt = s.since
		l.counters.Connects++
	}
}

func (l *loop) event(s *stream, e engine.Event) {
	if l.stream != s || e.ID == "" {
		return // all is looked at again
	}
	l.counters.Events++
	l.suspect(e.ID)
}

// suspect has a container inspected, now also if it failed to be before.
func (l *loop) suspect(id string) {
	i, ok := l.items[id]
	if !ok {
		i = &item{id: id, retry: backoff.Backoff{Max: maxRetry}}
		l.items[id] = i
	}
	i.dirty, i.notBefore = true, time.Time{}
	l.dirty[i] = true
}

// lost ends s, after which the engine is tried again.
func (l *loop) lost(s *stream, err error) {
	if l.stream != s {
		return
	}
	s.end()
	if !s.since.IsZero() && time.Since(s.since) >= settled {
		l.reconnect.Reset()
	}
	l.stream, l.connected, l.listAt = nil, false, time.Time{}
	l.connectAt = time.Now().Add(l.reconnect.Next())
	l.counters.ConnectErrors++
	// Why it cannot be reached says more than that it has hung up, and is reported then.
	l.alarms.Raise(engineFails, "", "error", err, "hint", "what is known stays registered")
	l.err = err
	l.changed = true
}

// list lists the containers that run.
func (l *loop) list(s *stream) {
	l.listing = true
	l.counters.Lists++
	l.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, l.config.CallTimeout)
		defer cancel()
		ids, err := l.config.Engine.Running(ctx)
		if err != nil && ctx.Err() != nil {
			err = l.config.silent()
		}
		l.post(func() { l.listed(s, ids, err) })
	})
}

// listed has all containers inspected: those that run, and those that were thought to.
// They may have been started since they were listed.
func (l *loop) listed(s *stream, ids []string, err error) {
	l.listing = false
	switch {
	case l.stream != s:
		return
	case err != nil:
		// Events of an engine that does not answer are worth nothing either.
		l.lost(s, err)
		return
	}
	clear(l.awaited)
	for _, id := range ids {
		l.suspect(id)
		l.awaited[id] = true
	}
	for id := range l.items {
		l.suspect(id)
	}
	if !l.connected {
		l.log.Info("following the container engine", "containers", len(ids))
		l.alarms.Clear(engineFails, "")
	}
	l.connected, l.err, l.changed = true, nil, true
	spread := l.config.Resync / 10
	l.listAt = time.Now().Add(l.config.Resync - spread + rand.N(2*spread+1))
}

func (l *loop) inspect(i *item) {
	i.dirty, i.busy = false, true
	delete(l.dirty, i)
	l.busy++
	l.counters.Inspections++
	l.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, l.config.CallTimeout)
		defer cancel()
		c, err := l.inspectContainer(ctx, i.id)
		switch {
		case err != nil && ctx.Err() != nil && !errors.Is(err, driver.ErrNotFound):
			err = l.config.silent()
		case err == nil && c.ID != i.id:
			err = fmt.Errorf("%w: the engine answered for container %q", driver.ErrInvalid, c.ShortID())
		}
		var services []grammar.Service
		var problems []error
		if err == nil && c.State.Up() {
			services, problems = l.config.Services(c, func(id string) (engine.Container, bool) {
				other, lookupErr := l.lookup(ctx, id)
				if lookupErr != nil && !errors.Is(lookupErr, driver.ErrNotFound) {
					err = fmt.Errorf("the container whose network it has joined: %w", lookupErr)
				}
				return other, lookupErr == nil
			})
		}
		l.post(func() { l.inspected(i, c, services, problems, err) })
	})
}

func (l *loop) inspected(i *item, c engine.Container, services []grammar.Service, problems []error, err error) {
	i.busy = false
	l.busy--
	if l.awaited[i.id] {
		delete(l.awaited, i.id)
		l.changed = l.changed || len(l.awaited) == 0
	}
	before, started := i.known(), i.container.State.StartedAt
	defer func() {
		// A view costs as much as there are services. If all containers are inspected and
		// nothing is new, one view is published when the last inspection has ended.
		l.changed = l.changed || started != i.container.State.StartedAt || !sameKnown(before, i.known())
		l.counted = true
	}()
	if errors.Is(err, driver.ErrNotFound) {
		l.remove(i)
		return
	}
	if err != nil {
		l.inspectFailed(i, err)
		return
	}
	l.alarms.Clear(inspectionFails, i.id)
	i.err = nil
	i.retry.Reset()
	wasUp, was := i.running, i.container
	switch {
	case c.State.Up():
		i.running, i.kept, i.services = true, "", services
		l.report(i, c, problems)
	case l.config.KeepFailed && c.State.Failed() && i.inspected && len(i.services) > 0:
		i.running, i.kept = false, fmt.Sprintf("the container ended with status %d", c.State.ExitCode)
		l.alarms.Forget(containerWrong, i.id)
		i.problem, i.leftOut = nil, nil
	default:
		l.remove(i)
		return
	}
	i.container, i.inspected = c, true
	l.remember(c)
	if !wasUp || !sameNetworks(was, c) {
		l.suspectDependents(c)
	}
}

// report raises an alarm once for what is wrong with the services of c.
func (l *loop) report(i *item, c engine.Container, problems []error) {
	i.leftOut = nil
	problems = slices.DeleteFunc(problems, func(err error) bool {
		if errors.Is(err, grammar.ErrLeftOut) {
			i.leftOut = append(i.leftOut, err.Error())
			return true
		}
		return false
	})
	problem := joinSome(problems)
	if problem != nil {
		l.alarms.Raise(containerWrong, i.id, "container", c.Label(), "error", problem)
	} else {
		l.alarms.Clear(containerWrong, i.id, "container", c.Label())
	}
	i.problem = problem
}

// joinSome joins errors, of many the first few and how many they are: a container may have
// thousands of ports.
func joinSome(errs []error) error {
	const most = 16
	if len(errs) <= most+1 {
		return errors.Join(errs...)
	}
	return errors.Join(append(slices.Clone(errs[:most]), fmt.Errorf("and %d more such", len(errs)-most))...)
}

func (l *loop) inspectFailed(i *item, err error) {
	l.counters.InspectErrors++
	i.dirty = true
	l.dirty[i] = true
	if l.stream == nil {
		return // it is the engine, of which that was said
	}
	l.alarms.Raise(inspectionFails, i.id, "container", i.label(), "error", err, "hint", "it stays as it was known")
	i.err = err
	i.notBefore = time.Now().Add(i.retry.Next())
}

// remove forgets a container that is gone or has ended. An event of it has it
// inspected again.
func (l *loop) remove(i *item) {
	l.changed = true
	l.alarms.Forget(inspectionFails, i.id)
	l.alarms.Forget(containerWrong, i.id)
	if i.dirty {
		// An event came meanwhile, as of a start after the end.
		i.inspected, i.running, i.kept, i.services = false, false, "", nil
		i.leftOut, i.problem, i.err = nil, nil, nil
	} else {
		delete(l.items, i.id)
	}
	l.forget(i.id)
	l.suspectDependents(i.container)
}

// suspectDependents has those inspected that share the network of c.
func (l *loop) suspectDependents(c engine.Container) {
	if c.ID == "" {
		return
	}
	for _, i := range l.items {
		target, ok := strings.CutPrefix(i.container.HostConfig.NetworkMode, "container:")
		if ok && (target == c.ID || target == c.ShortName()) {
			l.suspect(i.id)
		}
	}
}

func sameNetworks(a, b engine.Container) bool {
	if len(a.NetworkSettings.Networks) != len(b.NetworkSettings.Networks) {
		return false
	}
	for name, e := range a.NetworkSettings.Networks {
		if b.NetworkSettings.Networks[name] != e {
			return false
		}
	}
	return true
}

// together is how far apart two views are while containers are being inspected: a view has all
// containers, and what is made of it costs as much as there are.
const together = 50 * time.Millisecond

// publish stores a new view, if there is news.
func (l *loop) publish() {
	now := time.Now()
	idle := l.busy == 0
	if !(l.changed && (idle || now.Sub(l.published) >= together)) && !(l.counted && idle) {
		return
	}
	l.changed, l.counted, l.published = false, false, now
	v := View{
		Connected: l.connected, Synced: l.connected && len(l.awaited) == 0, Err: l.err,
		Containers: l.distinct(), Counters: l.counters,
	}
	slices.SortFunc(v.Containers, func(a, b Known) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	l.view.Store(v.made())
}

// distinct returns all containers, with each service at one of them alone: at the one
// that runs, or that was started last.
func (l *loop) distinct() []Known {
	items := make([]*item, 0, len(l.items))
	for _, i := range l.items {
		items = append(items, i)
	}
	slices.SortFunc(items, func(a, b *item) int {
		return cmp.Or(
			compareBool(b.running, a.running),
			startedAt(b).Compare(startedAt(a)),
			cmp.Compare(a.id, b.id))
	})
	type key struct{ name, id string }
	owner := make(map[key]string)
	all := make([]Known, 0, len(items))
	for _, i := range items {
		k := i.known()
		errs := []error{k.Err}
		wanted := k.Services
		k.Services = nil
		for _, s := range wanted {
			at := key{s.Name, s.ID}
			if other, taken := owner[at]; taken {
				errs = append(errs, fmt.Errorf("%w: service %s with id %s is registered for container %s; give one of them another SERVICE_ID",
					driver.ErrConflict, s.Name, s.ID, other))
				continue
			}
			owner[at] = i.label()
			k.Services = append(k.Services, s)
		}
		k.Err = errors.Join(errs...)
		all = append(all, k)
	}
	return all
}

// known is i as a view has it, with all that it is to have registered.
func (i *item) known() Known {
	k := Known{
		ID: i.id, Inspected: i.inspected, Running: i.running, Kept: i.kept,
		Services: i.services, LeftOut: i.leftOut, Err: errors.Join(i.err, i.problem),
	}
	if i.inspected {
		k.Name = i.container.ShortName()
	}
	return k
}

func sameKnown(a, b Known) bool {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	return text(a.Err) == text(b.Err) && a.ID == b.ID && a.Name == b.Name && a.Inspected == b.Inspected && a.Running == b.Running && a.Kept == b.Kept &&
		slices.Equal(a.LeftOut, b.LeftOut) && slices.EqualFunc(a.Services, b.Services, sameService)
}

func sameService(a, b grammar.Service) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Address == b.Address && a.Port == b.Port && a.TTL == b.TTL && a.Reason == b.Reason &&
		slices.Equal(a.Tags, b.Tags) && maps.Equal(a.Attrs, b.Attrs)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func startedAt(i *item) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, i.container.State.StartedAt)
	return t
}
