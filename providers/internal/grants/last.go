package grants

import (
	"sync"

	"github.com/musterhq/muster/discovery/driver"
)

// Last is the grant that was given last, as long as nobody has tried to end it. T is
// what its Token holds. The zero value is none. It is safe for concurrent use.
type Last[T comparable] struct {
	mu    sync.Mutex
	grant driver.Grant
}

// Give makes g the last one.
func (l *Last[T]) Give(g driver.Grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.grant = g
}

// Get returns the grant and its token. It is false where there is none.
func (l *Last[T]) Get() (driver.Grant, T, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.grant.Token.(T)
	return l.grant, t, ok
}

// Take forgets a grant that is about to be ended, whether that succeeds or not.
func (l *Last[T]) Take(t T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have, ok := l.grant.Token.(T); ok && have == t {
		l.grant = driver.Grant{}
	}
}
