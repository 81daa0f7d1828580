package membership

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// leaveTimeout bounds how long this node waits until the others were told that
	// it leaves, where the context of Leave does not.
	leaveTimeout = 2 * time.Second
	// lingerTime is how long it stays after that, for what is still in queues.
	lingerTime = gossipInterval
)

// lifetime is that of a membership and its goroutines.
type lifetime struct {
	// ctx ends when everything stops. ended ends before that, when this membership
	// is known to be over.
	ctx    context.Context
	cancel context.CancelFunc
	ended  context.Context
	finish context.CancelCauseFunc

	stopping chan struct{} // serialises Leave, Close and the end by itself
	wg       sync.WaitGroup
}

func newLifetime() *lifetime {
	l := &lifetime{stopping: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.ended, l.finish = context.WithCancelCause(context.Background())
	return l
}

// Leave tells the others that this node leaves and ends the membership. It returns
// when all is closed, at the latest when ctx ends, with its error; what is left to
// be closed then is closed all the same. It is idempotent, and does nothing after
// Close.
func (m *Membership) Leave(ctx context.Context) error {
	return m.stop(ctx, func() { m.sayGoodbye(ctx) })
}

// Close ends the membership without a word: the others find out by themselves,
// within seconds. It waits for all goroutines of this package, which takes as long
// as a callback of the user that is running, and a dial that is under way. Those of
// memberlist end soon after. It is idempotent.
func (m *Membership) Close() error {
	return m.stop(context.Background(), func() {})
}

// end ends the membership by itself.
func (m *Membership) end(err error) {
	m.mu.Lock()
	first := m.err == nil && !m.stopped
	if first {
		m.err = err
	}
	m.mu.Unlock()
	if !first {
		return
	}
	m.log.Error("membership ends", "error", err)
	m.life.finish(err)
	// Not within wg, which stop waits for.
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		_ = m.Leave(ctx)
	}()
}

// stop ends the membership after the farewell. Only the first call does so; later
// ones wait for it.
func (m *Membership) stop(ctx context.Context, farewell func()) error {
	select { // first come, even with a context that has ended
	case m.life.stopping <- struct{}{}:
	default:
		select {
		case m.life.stopping <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { <-m.life.stopping }()
	m.mu.Lock()
	again := m.stopped
	m.mu.Unlock()
	if !again {
		farewell()
		m.mu.Lock()
		m.stopped = true
		m.mu.Unlock()
		m.life.cancel()
		m.alarms.Close()
		_ = m.ml.Shutdown() // logs what fails, and never returns it
		_ = m.server.Close()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.life.wg.Wait()
	}()
	defer m.life.finish(nil)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sayGoodbye tells the others that this node leaves, and waits until that was sent
// as often as gossip sends things.
//
// Gossip alone does not do it where several nodes leave at the same time: none of them
// gossips to one that it knows to leave. So each is sent the goodbye directly, also those
// that have said theirs, and does not wait for members that are all gone.
func (m *Membership) sayGoodbye(ctx context.Context) {
	limit := leaveTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)*3/4) // the rest is for the end
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	sent := make(chan struct{}, 1)
	m.mu.Lock()
	goodbye := message{kind: kindLeave, clusterID: m.table.self.clusterID, origin: m.name}
	m.mu.Unlock()
	// Both pieces of news travel in the same packets: memberlist's, and ours, which
	// says that this is no failure and is sent more often. So we need not wait for
	// the former, which could not be interrupted.
	encoded := goodbye.encode()
	m.sendGoodbye(encoded)
	m.broadcasts.queue.QueueBroadcast(&broadcast{message: goodbye, encoded: encoded, finished: func() {
		select {
		case sent <- struct{}{}:
		default:
		}
	}})
	_ = m.ml.Leave(time.Nanosecond)
	if !m.waitSent(ctx, sent) {
		return
	}
	m.sendGoodbye(encoded)
	select {
	case <-time.After(lingerTime):
	case <-ctx.Done():
	}
}

// waitSent waits until gossip has sent the goodbye or no member is left that it goes to.
// It is false if there is no member to linger for, and where ctx ends.
func (m *Membership) waitSent(ctx context.Context, sent <-chan struct{}) bool {
	alone := func() bool { return m.ml.NumMembers() == 0 || len(m.View().Members) == 1 }
	if alone() && len(m.lately()) == 0 {
		return false // no member to notify: this node does not count any longer
	}
	tick := time.NewTicker(gossipInterval / 3)
	defer tick.Stop()
	for !alone() {
		select {
		case <-sent:
			return true
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// maxGoodbyes is how many members a goodbye is sent to directly. The dials that it takes
// come all at once, where a large cluster is shut down.
const maxGoodbyes = 64

// sendGoodbye sends the goodbye to those that are here or left a moment ago.
func (m *Membership) sendGoodbye(encoded []byte) {
	to := m.goodbyeTo()
	rand.Shuffle(len(to), func(i, j int) { to[i], to[j] = to[j], to[i] })
	for _, member := range to[:min(len(to), maxGoodbyes)] {
		m.sendTo(member, encoded)
	}
}

// goodbyeTo returns the members that are here, and those that may still be.
func (m *Membership) goodbyeTo() []Member {
	var to []Member
	for _, member := range m.View().Members {
		if !member.Self {
			to = append(to, member)
		}
	}
	return append(to, m.lately()...)
}

// lately returns the members that have left so lately that they may still be there.
func (m *Membership) lately() []Member {
	var members []Member
	for _, member := range m.View().Departed {
		if member.State == StateLeft && time.Since(member.DepartedAt) < 2*leaveTimeout {
			members = append(members, member)
		}
	}
	return members
}
