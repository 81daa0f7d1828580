package grants

import (
	"sync"

	"github.com/musterhq/muster/discovery/driver"
)

// Active is the active grant: the last one, until its release is begun. T is the type of its Token.
// The zero value has none. It is safe for concurrent use.
type Active[T comparable] struct {
	mu    sync.Mutex
	grant driver.Grant
}

// Set makes g the active grant.
func (l *Active[T]) Set(g driver.Grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.grant = g
}

// Get returns the grant and its token, and whether there is one.
func (l *Active[T]) Get() (driver.Grant, T, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.grant.Token.(T)
	return l.grant, t, ok
}

// Clear forgets the grant of t, if it is the active one.
func (l *Active[T]) Clear(t T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have, ok := l.grant.Token.(T); ok && have == t {
		l.grant = driver.Grant{}
	}
}
