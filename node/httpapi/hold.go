package httpapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/routes"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/mastership"
)

// A hold is a stream by which another process, as the wrapper of muster while-master, does the
// master's work: it counts as a function of WhileMaster. While the node is master the function
// waits; when mastership is asked back the grant is kept and renewed, and the stream has its
// deadlines, until the holder says that its work has ended (PathDone), or the drain timeout.
//
// A stream that breaks proves nothing about the work: the holder may be dead and what it started
// alive, or only the connection is gone. What is known is the last deadline that was written to
// the stream: the holder ends its work by then, whatever happens to it and to the agent. Until
// then the function goes on and the grant is not released; then it returns, and since nobody
// does the work here any longer, it ends the mastership, so that another node gets it, unless
// the same holder has come back on a new stream.
//
// A holder that names itself is the only one of its name, as long as its work may go on. It says
// every few seconds that it goes on (PathAlive): a connection stays open while the process at its
// other end is stopped. One that does not is treated as one whose stream has broken.

// holderSilence is how long nothing may come from a holder that names itself.
const holderSilence = 10 * time.Second

var (
	errEnded      = errors.New("the node has ended")
	errNoHold     = errors.New("hold: there is no such stream; name the one of the field hold")
	errHolderLost = errors.New("who did the master's work is gone")
)

// holds are the streams that there are, by their ids.
type holds struct {
	mu   sync.Mutex
	byID map[string]*hold
	// newest is the last stream of each holder, by its name.
	newest map[string]*hold
}

// hold is one stream.
type hold struct {
	id, name string
	holder   string // who opened it; empty for one that does not say
	// silence ends the stream, if the holder is named and says nothing.
	silence *time.Timer
	// entered has the terms whose function runs: only they are written to the stream.
	entered chan mastership.Term
	// lost is closed when the stream has ended.
	lost chan struct{}

	mu sync.Mutex
	// done is the highest term whose work is said to have ended.
	done mastership.Term
	// left says that the holder ends, and comes back for no other term.
	left bool
	// changed is closed when done or left change, and replaced.
	changed chan struct{}
	// written is the last term of which a deadline was written, and until the last deadline.
	written mastership.Term
	until   clock.Instant
	// outcome is what the holder says has become of the work in done.
	outcome outcome
	// bounded ends the work once mastership was asked back and until has passed, even if the
	// stream goes on: the holder may be stopped, and has ended its work by then.
	bounded bool
	// end ends the stream, of a step.
	end func()
}

// add returns nil if another holder has the name. A named holder has silent called unless it says
// that it goes on.
func (h *holds) add(name, holder string, silent func()) *hold {
	added := &hold{
		id: rand.Text(), name: name, holder: holder, entered: make(chan mastership.Term, 1),
		lost: make(chan struct{}), changed: make(chan struct{}),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, other := range h.byID {
		if other.name == name && other.holder != holder {
			return nil
		}
	}
	if holder != "" {
		added.silence = time.AfterFunc(holderSilence, silent)
	}
	if h.byID == nil {
		h.byID, h.newest = make(map[string]*hold), make(map[string]*hold)
	}
	h.byID[added.id], h.newest[name] = added, added
	return added
}

func (h *holds) remove(gone *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byID, gone.id)
	if h.newest[gone.name] == gone {
		delete(h.newest, gone.name)
	}
}

func (h *holds) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.byID)
}

func (h *holds) get(id string) *hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byID[id]
}

// replaced reports whether the holder of h has come back on another stream.
func (h *holds) replaced(old *hold) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newest[old.name] != old
}

// finish notes that the work of term has ended, and if left, that the holder ends.
func (h *hold) finish(term mastership.Term, left bool, o outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if term > h.done {
		h.outcome = o
	}
	h.done, h.left = max(h.done, term), h.left || left
	close(h.changed)
	h.changed = make(chan struct{})
}

// state returns what is known of the work in term: whether it has ended, until when it may go on
// as far as the holder knows, and what is closed when that changes.
func (h *hold) state(term mastership.Term) (done bool, until clock.Instant, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.left || h.done >= term, h.until, h.changed
}

// write notes the deadline of what is about to be written, and reports false if the work in term
// has ended, so that nothing is to be.
func (h *hold) write(term mastership.Term, deadline time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left || h.done >= term {
		return false
	}
	h.written, h.until = term, max(h.until, clock.Instant(deadline))
	return true
}

// expire ends the work in term if the last deadline has passed that was written: none is
// afterwards.
func (h *hold) expire(term mastership.Term) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if clock.Now().Before(h.until) {
		return false
	}
	h.done = max(h.done, term)
	return true
}

// work is the function of WhileMaster.
func (h *hold) work(ctx context.Context, term mastership.Term) error {
	select {
	case h.entered <- term:
	case <-h.lost:
		return nil
	}
	lost, asked := h.lost, ctx.Done()
	for {
		done, until, changed := h.state(term)
		if done {
			return nil
		}
		var expired <-chan time.Time
		if lost == nil || h.bounded && asked == nil {
			if h.expire(term) {
				return errHolderLost
			}
			expired = time.After(until.Sub(clock.Now()))
		}
		select {
		case <-changed:
		case <-expired:
		case <-lost:
			lost = nil
		case <-asked:
			// The stream has it from the grant.
			asked = nil
		}
	}
}

// hold streams the grant to a holder, and has it do the master's work.
func (s *server) hold(w http.ResponseWriter, r *http.Request) {
	if status, err := s.options.operable(r); err != nil {
		routes.WriteError(w, status, err)
		return
	}
	if _, err := s.node.Check(); errors.Is(err, node.ErrNoAuthority) {
		routes.WriteError(w, http.StatusConflict, err) // it would wait without end
		return
	}
	end, ok := s.startStream(w)
	if !ok {
		return
	}
	defer end()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	name := r.URL.Query().Get("name")
	h := s.holds.add(name, r.URL.Query().Get("holder"), cancel)
	if h == nil {
		routes.WriteError(w, http.StatusConflict, fmt.Errorf("name: %q: another process does the master's work by this name, or may still; end it, or choose another name", name))
		return
	}
	messages := make(chan message)
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer s.holds.remove(h)
		err := s.node.WhileMaster(working, h.workUnless(s.holds.replaced))
		if err != nil && working.Err() == nil {
			cancel() // the node has ended, or grants nothing
		}
	}()
	defer stop()
	defer close(h.lost)
	go s.sendGrants(ctx, h, enterWithin, messages)
	s.stream(w, r.WithContext(ctx), messages)
}

// Alive is the answer to PathAlive.
type Alive struct {
	NodeID string `json:"node_id"`
}

// alive notes that a holder goes on.
func (s *server) alive(w http.ResponseWriter, r *http.Request) {
	if status, err := s.options.operable(r); err != nil {
		routes.WriteError(w, status, err)
		return
	}
	h := s.holds.get(r.URL.Query().Get("hold"))
	if h == nil || h.isLost() {
		routes.WriteError(w, http.StatusNotFound, errNoHold)
		return
	}
	if h.silence != nil {
		h.silence.Reset(holderSilence)
	}
	routes.WriteJSON(w, http.StatusOK, Alive{NodeID: s.node.ID()})
}

// isLost reports whether the stream has ended.
func (h *hold) isLost() bool {
	select {
	case <-h.lost:
		return true
	default:
		return false
	}
}

// workUnless is work, which ends no mastership if the holder has come back.
func (h *hold) workUnless(replaced func(*hold) bool) func(context.Context, node.Term) error {
	return func(ctx context.Context, term node.Term) error {
		err := h.work(ctx, term)
		if err != nil && replaced(h) {
			return nil
		}
		return err
	}
}

// enterWithin is how long a holder waits for its first message, while the node is master and its
// function has not been entered.
const enterWithin = time.Second

// sendGrants sends the grants of the node to a holder: those whose function has been entered and
// whose work has not ended, and otherwise the state alone. A holder that has come back within a
// term runs its command, and would kill it if the first thing that it read were the state alone:
// within patience its function is entered before.
func (s *server) sendGrants(ctx context.Context, h *hold, patience time.Duration, messages chan<- message) {
	defer close(messages)
	grants := make(chan mastership.ActiveGrant)
	go func() {
		defer close(grants)
		for g := range s.node.Grants(ctx) {
			select {
			case grants <- g:
			case <-ctx.Done():
				return
			}
		}
	}()
	var last mastership.ActiveGrant
	var entered mastership.Term
	var first <-chan time.Time
	if patience > 0 {
		first = time.After(patience)
	}
	for {
		select {
		case g, open := <-grants:
			if !open {
				return
			}
			last = g
		case entered = <-h.entered:
		case <-first:
			first = nil
		}
		if first != nil && last.Term != entered {
			continue
		}
		first = nil
		m := s.grantFor(h, last, entered)
		select {
		case messages <- m:
		case <-ctx.Done():
			return
		}
	}
}

// grantFor is a grant as a holder is to know it.
func (s *server) grantFor(h *hold, g mastership.ActiveGrant, entered mastership.Term) message {
	return message{EventMastership, func() any {
		known := g
		if g.Term == 0 || g.Term != entered || !h.write(g.Term, g.Deadline) {
			known = mastership.ActiveGrant{State: g.State}
		}
		m := s.mastershipOf(known)
		m.Hold = h.id
		return m
	}}
}

// Done is the answer to PathDone.
type Done struct {
	NodeID string `json:"node_id"`
	Term   uint64 `json:"term"`
}

// done notes that the work of a holder has ended. If the holder itself ends, another node shall
// do the work.
func (s *server) done(w http.ResponseWriter, r *http.Request) {
	if status, err := s.options.operable(r); err != nil {
		routes.WriteError(w, status, err)
		return
	}
	query := r.URL.Query()
	term, err := strconv.ParseUint(query.Get("term"), 10, 64)
	if err != nil {
		routes.WriteError(w, http.StatusBadRequest, fmt.Errorf("term: %q: not a term; write the one of the work that has ended, or 0", query.Get("term")))
		return
	}
	h := s.holds.get(query.Get("hold"))
	if h == nil {
		routes.WriteError(w, http.StatusNotFound, errNoHold)
		return
	}
	leaving := query.Get("leave") == "true"
	proof, _ := s.node.Check()
	h.finish(mastership.Term(term), leaving, outcome{query.Get("outcome"), query.Get("error")})
	if leaving && term > 0 && uint64(proof.Term) == term {
		ctx, cancel := s.operationContext(w, r)
		defer cancel()
		if err := s.node.Resign(ctx); err != nil {
			routes.WriteError(w, http.StatusInternalServerError, fmt.Errorf("node %s: resigning: %w", s.node.ID(), err))
			return
		}
	}
	routes.WriteJSON(w, http.StatusOK, Done{NodeID: s.node.ID(), Term: term})
}
