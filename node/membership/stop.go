package membership

import (
	"context"
	"time"
)

const (
	// leaveTimeout bounds how long this node waits until the others were told that
	// it leaves, where the context of Leave does not.
	leaveTimeout = 2 * time.Second
	// lingerTime is how long it stays after that, for what is still in queues.
	lingerTime = gossipInterval
)

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
	m.finish(err)
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
	case m.stopping <- struct{}{}:
	default:
		select {
		case m.stopping <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { <-m.stopping }()
	m.mu.Lock()
	again := m.stopped
	m.mu.Unlock()
	if !again {
		farewell()
		m.mu.Lock()
		m.stopped = true
		m.mu.Unlock()
		m.cancel()
		_ = m.ml.Shutdown() // logs what fails, and never returns it
		_ = m.server.Close()
		m.client.CloseIdleConnections()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.wg.Wait()
	}()
	defer m.finish(nil)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sayGoodbye tells the others that this node leaves, and waits until that was sent
// as often as gossip sends things.
func (m *Membership) sayGoodbye(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	sent := make(chan struct{}, 1)
	m.mu.Lock()
	goodbye := message{kind: kindLeave, clusterID: m.table.clusterID, origin: m.name}
	m.mu.Unlock()
	// Both pieces of news travel in the same packets: memberlist's, and ours, which
	// says that this is no failure and is sent more often. So we need not wait for
	// the former, which could not be interrupted.
	m.gossip.QueueBroadcast(&broadcast{message: goodbye, encoded: goodbye.encode(), finished: func() {
		select {
		case sent <- struct{}{}:
		default:
		}
	}})
	_ = m.ml.Leave(time.Nanosecond)
	if m.ml.NumMembers() == 0 {
		return // nobody to tell: this node does not count any longer
	}
	select {
	case <-sent:
	case <-ctx.Done():
		return
	}
	select {
	case <-time.After(lingerTime):
	case <-ctx.Done():
	}
}
