package call

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/node/call/internal/share"
	"github.com/musterhq/muster/node/mastership"
)

// The methods that members call because of caps.
const (
	askMethod   = ownServices + "cap.ask"   // of the master
	nudgeMethod = ownServices + "cap.nudge" // of a holder: ask again
)

const (
	// capTick is how often a master looks whether a share should move, though nobody asks.
	capTick = 100 * time.Millisecond
	// capReadAgain is the least time between two reads of a record.
	capReadAgain = 10 * time.Millisecond
	// nudgeTimeout bounds a nudge.
	nudgeTimeout = time.Second
)

// caps are those of a mesh.
type caps struct {
	mu     sync.Mutex
	own    map[string]*Cap      // that this node uses
	master map[string]*dividing // that it divides as the master of a term
}

// capAsk is a request as it travels. It only ever gains fields.
type capAsk struct {
	Name string `json:"name"`
	share.Request
}

// capAnswer is the answer to it. It only ever gains fields.
type capAnswer struct {
	share.Answer
	// NotSet says that there is no such cap, and Unsupported that there can be none, and why.
	NotSet      bool   `json:"not_set,omitempty"`
	Unsupported string `json:"unsupported,omitempty"`
}

// capResult is what became of a request.
type capResult struct {
	answer share.Answer
	err    error
}

// askCap asks the master for a share.
func (m *Mesh) askCap(name string, q share.Request, timeout time.Duration) capResult {
	ctx, cancel := context.WithTimeout(m.ctx, timeout)
	defer cancel()
	return m.askCapIn(ctx, name, q)
}

func (m *Mesh) askCapIn(ctx context.Context, name string, q share.Request) capResult {
	a, err := Invoke[capAnswer](ctx, m.Master(), askMethod, capAsk{name, q})
	switch {
	case err != nil:
	case a.NotSet:
		err = ErrCapNotSet
	case a.Unsupported != "":
		err = fmt.Errorf("%w: %s", discovery.ErrUnsupported, a.Unsupported)
	}
	return capResult{a.Answer, err}
}

// serveCaps registers what members call because of caps.
func (m *Mesh) serveCaps() {
	Handle(m, askMethod, m.serveAsk)
	Handle(m, nudgeMethod, func(_ context.Context, name string) (struct{}, error) {
		m.caps.mu.Lock()
		c := m.caps.own[name]
		m.caps.mu.Unlock()
		if c != nil {
			c.nudge()
		}
		return struct{}{}, nil
	})
}

// serveAsk is the handler of the master.
func (m *Mesh) serveAsk(ctx context.Context, q capAsk) (capAnswer, error) {
	from, ok := From(ctx)
	g := m.master.current.Load()
	if token, isMaster := mastership.TokenFrom(ctx); !ok || !isMaster || g == nil || token.Term != g.token.Term {
		return capAnswer{}, status.Error(codes.FailedPrecondition, "a share is to be asked of the master")
	}
	if !isCapName(q.Name) {
		return capAnswer{}, status.Error(codes.InvalidArgument, "no name of a cap")
	}
	v, err := m.dividing(g, q.Name)
	if err != nil {
		return capAnswer{}, err
	}
	return v.ask(ctx, from.InstanceID, q.Request)
}

// dividing is one cap that this node divides, in one term.
type dividing struct {
	mesh  *Mesh
	grant *grant
	name  string
	wake  chan struct{} // for run; holds one element
	news  news          // of reads

	mu      sync.Mutex
	divider *share.Divider
	wanted  bool  // a request waits for a read that has not begun
	began   int   // reads
	ended   int   // the last one that went well, counted as they began
	failed  error // how the last one failed, if it did
}

// dividing returns the part of the master in the term of a grant.
func (m *Mesh) dividing(g *grant, name string) (*dividing, error) {
	m.caps.mu.Lock()
	defer m.caps.mu.Unlock()
	if v := m.caps.master[name]; v != nil && v.grant == g {
		return v, nil
	}
	for name, v := range m.caps.master {
		if v.grant != g {
			delete(m.caps.master, name) // of an earlier term: run has ended, or does
		}
	}
	if len(m.caps.master) >= maxCaps {
		return nil, status.Errorf(codes.ResourceExhausted, "%d caps are in use", maxCaps)
	}
	if m.caps.master == nil {
		m.caps.master = make(map[string]*dividing)
	}
	reign := share.Reign{
		Token: rand.Text(), ClusterID: g.token.ClusterID, Term: g.token.Term, InstanceID: m.node.InstanceID(),
		Params: share.Divide(m.options.CapLease),
	}
	v := &dividing{mesh: m, grant: g, name: name, wake: make(chan struct{}, 1), divider: share.NewDivider(reign, g.token.Term == 1)}
	m.caps.master[name] = v
	m.wg.Go(v.run)
	return v, nil
}

// ask serves a request, after a read of the record if one is needed first.
func (v *dividing) ask(ctx context.Context, peer string, q share.Request) (capAnswer, error) {
	v.mu.Lock()
	before := v.began // a read that has begun may not see what was set before the request
	v.mu.Unlock()
	for {
		changed := v.news.next()
		v.mu.Lock()
		a, verdict := v.divider.Ask(peer, q, clock.Now())
		failed, unset := v.failed, verdict == share.Unset && v.ended > before
		if verdict == share.Unread || verdict == share.Unset && !unset {
			v.wanted = true
		}
		v.mu.Unlock()
		signal(v.wake)
		switch {
		case verdict == share.Granted:
			return capAnswer{Answer: a}, nil
		case errors.Is(failed, discovery.ErrUnsupported):
			return capAnswer{Unsupported: failed.Error()}, nil
		case unset:
			return capAnswer{NotSet: true}, nil
		case verdict == share.Over:
			return capAnswer{}, status.Error(codes.Unavailable, "a later master divides the cap")
		case verdict == share.Late:
			return capAnswer{}, status.Error(codes.Aborted, "a later request was served")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if failed != nil {
				return capAnswer{}, status.Errorf(codes.Unavailable, "the record of the cap: %v", failed)
			}
			return capAnswer{}, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// run reads the record as often as is needed, and nudges holders, until the mastership ends.
func (v *dividing) run() {
	ctx, cancel := context.WithCancel(v.grant.ctx)
	defer cancel()
	defer context.AfterFunc(v.mesh.ctx, cancel)()
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { // a change is read at once; what is seen here proves nothing
		for range v.mesh.node.Store().Watch(ctx, capPrefix+v.name) {
			v.mu.Lock()
			v.divider.Prompt()
			v.mu.Unlock()
			signal(v.wake)
		}
	})
	defer cancel()
	pause := backoff.Backoff{Min: capReadAgain, Max: 250 * time.Millisecond}
	readAfter := clock.Now()
	for ctx.Err() == nil {
		v.mu.Lock()
		now := clock.Now()
		idle, at := v.divider.Idle() && !v.wanted || v.divider.Over(), max(v.divider.ReadAt(now), readAfter)
		nudges := v.divider.Nudge(now)
		v.mu.Unlock()
		v.nudge(nudges)
		if !idle && !now.Before(at) {
			if v.read(ctx) {
				pause.Reset()
				readAfter = clock.Now().Add(capReadAgain)
			} else {
				readAfter = clock.Now().Add(pause.Next())
			}
			v.news.wake()
			continue
		}
		var tick <-chan time.Time
		if !idle {
			tick = time.After(min(max(at.Sub(now), 0), capTick))
		}
		select {
		case <-v.wake:
		case <-tick:
		case <-ctx.Done():
		}
	}
}

// read reads the record, and writes that this master divides the cap if that has to be. It reports
// whether all went well.
func (v *dividing) read(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, share.Divide(v.mesh.options.CapLease).Fresh)
	defer cancel()
	v.mu.Lock()
	v.began++
	number := v.began
	v.wanted = false
	v.mu.Unlock()
	sent := clock.Now()
	r, revision, found, err := v.mesh.readCap(ctx, v.name)
	v.mu.Lock()
	if v.failed = err; err != nil {
		v.wanted = !errors.Is(err, discovery.ErrUnsupported)
		v.mu.Unlock()
		return false
	}
	v.ended = number
	next, write := v.divider.Read(r, found, sent, clock.Now())
	v.mu.Unlock()
	if !write {
		return found
	}
	sent = clock.Now()
	_, err = v.mesh.node.Store().Set(ctx, capPrefix+v.name, next.Bytes(), revision)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed = err; err != nil {
		v.wanted = true
		return false
	}
	v.divider.Wrote(next, sent, clock.Now())
	return true
}

// nudge has peers ask again.
func (v *dividing) nudge(peers []string) {
	m := v.mesh
	for _, instance := range peers {
		if instance == m.node.InstanceID() {
			m.caps.mu.Lock()
			c := m.caps.own[v.name]
			m.caps.mu.Unlock()
			if c != nil {
				c.nudge()
			}
			continue
		}
		m.wg.Go(func() {
			ctx, cancel := context.WithTimeout(m.ctx, nudgeTimeout)
			defer cancel()
			to := target{m, func() (*peer, error) { return m.peer(instance) }}
			_, _ = Invoke[struct{}](ctx, to, nudgeMethod, v.name) // one that is lost delays a share
		})
	}
}

// leaveCaps gives back what this node has, as far as it is not in use.
func (m *Mesh) leaveCaps(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, capPatience)
	defer cancel()
	m.caps.mu.Lock()
	var own []*Cap
	for _, c := range m.caps.own {
		own = append(own, c)
	}
	m.caps.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range own {
		all.Go(func() { c.leave(ctx) })
	}
	all.Wait()
}
