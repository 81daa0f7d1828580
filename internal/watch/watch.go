// Package watch holds a value of which only the newest matters, and lets any
// number of listeners follow it.
package watch

import (
	"context"
	"iter"
	"sync"
)

// Value holds the newest T. The zero Value holds nothing; it is ready for use and
// must not be copied. All methods are safe for concurrent use, and none blocks on
// a listener.
type Value[T any] struct {
	mu      sync.Mutex
	value   T
	version uint64        // counts the calls of Store
	changed chan struct{} // closed by the next Store; nil while no listener waits
	closed  bool
}

// Store replaces the value and wakes every listener.
func (v *Value[T]) Store(value T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.value = value
	v.version++
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}

// Close ends every Watch once it has yielded the newest value. It is idempotent.
// Nothing is stored afterwards.
func (v *Value[T]) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}

// Load returns the newest value, and false if none was stored yet.
func (v *Value[T]) Load() (T, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.value, v.version > 0
}

// Watch yields the value, if there is one, and then the newest value each time
// that it was replaced, until ctx ends or Close is called. A listener that is slow misses
// values but never the newest, and never sees them out of order.
func (v *Value[T]) Watch(ctx context.Context) iter.Seq[T] {
	return func(yield func(T) bool) {
		var seen uint64
		for {
			value, version, changed, closed := v.next()
			if version != seen {
				seen = version
				if ctx.Err() != nil || !yield(value) {
					return
				}
				continue
			}
			if closed {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (v *Value[T]) next() (value T, version uint64, changed <-chan struct{}, closed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.value, v.version, v.changed, v.closed
}
