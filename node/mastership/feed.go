package mastership

import (
	"context"
	"iter"
	"sync"
)

// topic is a value whose latest state listeners follow. They may miss states in
// between.
type topic[T any] struct {
	mu      sync.Mutex
	value   T
	set     bool
	changed chan struct{}
}

func (t *topic[T]) publish(v T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.value, t.set = v, true
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

func (t *topic[T]) latest() (v T, ok bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.value, t.set, t.changed
}

// watch yields the latest value and each later one, until ctx or done ends. The
// value at the end of done is yielded still.
func (t *topic[T]) watch(ctx context.Context, done <-chan struct{}) iter.Seq[T] {
	return func(yield func(T) bool) {
		for ctx.Err() == nil {
			v, ok, changed := t.latest()
			if ok && !yield(v) {
				return
			}
			select {
			case <-changed:
				continue
			default:
			}
			select {
			case <-changed:
			case <-ctx.Done():
			case <-done:
				select {
				case <-changed:
				default:
					return
				}
			}
		}
	}
}

// chain is a list of values of which listeners miss none. It keeps only what a
// listener has still to read.
type chain[T any] struct {
	mu   sync.Mutex
	tail *link[T]
}

type link[T any] struct {
	value T
	ready chan struct{} // closed when next is set
	next  *link[T]
}

func newChain[T any](first T) *chain[T] {
	return &chain[T]{tail: &link[T]{value: first, ready: make(chan struct{})}}
}

func (c *chain[T]) append(v T) {
	l := &link[T]{value: v, ready: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail.next = l
	close(c.tail.ready)
	c.tail = l
}

// follow yields the latest value and then every later one.
func (c *chain[T]) follow(ctx context.Context, done <-chan struct{}) iter.Seq[T] {
	return func(yield func(T) bool) {
		c.mu.Lock()
		l := c.tail
		c.mu.Unlock()
		for ctx.Err() == nil && yield(l.value) {
			select {
			case <-l.ready:
			case <-ctx.Done():
				return
			case <-done:
				select {
				case <-l.ready:
				default:
					return
				}
			}
			l = l.next
		}
	}
}
