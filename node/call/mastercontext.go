package call

import (
	"context"
	"sync"
)

// masterContext is that of a handler of the master. It ends with the call and with the mastership,
// and what a function of WhileMaster finds in its context is in it, too.
//
// All handlers of a mastership would wait for the lock of its context if each were registered
// there. Most never ask for what they would be told: only those that do are.
type masterContext struct {
	context.Context // of the call
	grant           context.Context

	mu    sync.Mutex
	over  bool            // the handler has returned
	bound context.Context // nil until it is asked for
	free  func()          // of bound
}

// bind returns a context that ends with the call, the mastership, or the handler.
func (c *masterContext) bind() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bound != nil {
		return c.bound
	}
	bound, cancel := context.WithCancelCause(c.Context)
	c.bound = bound
	switch {
	case c.over:
		cancel(nil)
	case c.grant.Err() != nil:
		cancel(context.Cause(c.grant)) // now, and not in a goroutine
	default:
		stop := context.AfterFunc(c.grant, func() { cancel(context.Cause(c.grant)) })
		c.free = func() {
			stop()
			cancel(nil)
		}
	}
	return c.bound
}

// release ends it when the handler has returned.
func (c *masterContext) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.free != nil {
		c.free()
	}
}

// current returns what has the answer: the context of the call for as long as nothing else can have
// ended this one.
func (c *masterContext) current() context.Context {
	c.mu.Lock()
	plain := c.bound == nil && !c.over
	c.mu.Unlock()
	if plain && c.grant.Err() == nil {
		return c.Context
	}
	return c.bind()
}

func (c *masterContext) Done() <-chan struct{} { return c.bind().Done() }

func (c *masterContext) Err() error { return c.current().Err() }

// Value is also how the package context finds what ends this one, and why it has.
func (c *masterContext) Value(key any) any {
	if v := c.current().Value(key); v != nil {
		return v
	}
	return c.grant.Value(key)
}
