package call

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// patience is for how much longer than the drain timeout a mastership waits for its handlers: its
// grant is then left to expire.
const patience = 250 * time.Millisecond

// reign is the part of the mesh that serves calls to the master.
type reign struct {
	current atomic.Pointer[grant]
	doubts  doubts
}

// grant is one mastership of this node, as handlers use it.
type grant struct {
	ctx     context.Context // ends with it
	token   mastership.Token
	running *gate
}

// beMaster serves the calls to the master each time that this node is master, until the node ends
// or the mesh is closed. A mastership that is given up waits for the handlers.
func (m *Mesh) beMaster() {
	_ = m.node.WhileMaster(m.ctx, func(ctx context.Context, _ node.Term) error {
		token, ok := mastership.TokenFrom(ctx)
		if !ok {
			return nil
		}
		g := &grant{ctx, token, newGate()}
		m.master.current.Store(g)
		<-ctx.Done()
		g.running.shut()
		// Handlers that do not return leave the grant to expire. They do not keep this node from
		// serving its next mastership.
		wait, cancel := context.WithTimeout(context.Background(), m.node.DrainTimeout()+patience)
		defer cancel()
		g.running.wait(wait)
		return nil
	}, mastership.KeepOnError())
}

// enter lets a call to the master in, if this node is master now, and one of the term that was
// claimed or a later one. The caller calls leave of the grant's gate.
func (m *Mesh) enter(claimed node.Term) (*grant, bool) {
	g := m.master.current.Load()
	if g == nil {
		return nil, false
	}
	if !m.rules.check {
		g = &grant{g.ctx, g.token, newGate()}
	}
	// The gate first: a mastership that ends after the check waits for the call.
	if !g.running.enter() {
		return nil, false
	}
	valid := g.token.Check() == nil
	var confirmed node.Term
	if claimed > g.token.Term {
		confirmed = m.master.doubts.confirmed(g.token.Term)
	}
	if !m.rules.admits(g.token.Term, valid, claimed, confirmed) {
		if valid {
			m.master.doubts.raise(m, g, claimed)
		}
		g.running.leave()
		return nil, false
	}
	return g, true
}

// isMaster reports whether this node is master, as far as it knows.
func (m *Mesh) isMaster() bool {
	g := m.master.current.Load()
	return g != nil && g.token.Check() == nil
}

// doubts are the claims of terms above that of this node, which is master as far as it knows. It
// reads the authority before it serves them: that it goes on to renew the grant refutes the claim.
type doubts struct {
	mu      sync.Mutex
	own     node.Term
	raised  node.Term // the highest claim
	refuted node.Term // the highest that the authority has refuted since
	asking  bool
}

// confirmed returns up to which claim the authority has confirmed the term own.
func (d *doubts) confirmed(own node.Term) node.Term {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.own != own {
		return 0
	}
	return d.refuted
}

// raise has the authority read, because of a claim.
func (d *doubts) raise(m *Mesh, g *grant, claimed node.Term) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if own := g.token.Term; d.own != own {
		d.own, d.raised, d.refuted, d.asking = own, 0, 0, false
	}
	d.raised = max(d.raised, claimed)
	if !d.asking && m.ctx.Err() == nil {
		d.asking = true
		m.wg.Go(func() { d.ask(m, g) })
	}
}

// ask waits until a renewal has succeeded that was sent after the claim: the second one from now
// on, since they follow one another.
func (d *doubts) ask(m *Mesh, g *grant) {
	ctx, cancel := context.WithCancel(g.ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	var last time.Duration
	claimed, renewals := d.claim(), -1
	for now := range m.node.Grants(ctx) {
		if now.State != mastership.Active || now.Term != g.token.Term {
			return
		}
		if now.Deadline == last {
			continue
		}
		last = now.Deadline
		if renewals++; renewals < 2 {
			continue
		}
		if claimed, renewals = d.refute(g.token.Term, claimed), 0; claimed == 0 {
			return
		}
	}
}

func (d *doubts) claim() node.Term {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.raised
}

// refute notes that the authority has named this node in the term own since the claim, and returns
// a higher claim that was made meanwhile.
func (d *doubts) refute(own, claimed node.Term) (more node.Term) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.own != own {
		return 0
	}
	d.refuted = max(d.refuted, claimed)
	if d.raised > d.refuted {
		return d.raised
	}
	d.asking = false
	return 0
}
