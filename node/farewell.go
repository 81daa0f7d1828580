package node

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/musterhq/muster/internal/within"
)

// OnLeave has fn called when the node leaves: after mastership was released, and before the
// registrations are removed and the members learn of it, so that fn can still reach them. The
// functions are called one after the other, the last one first, and have 3 s together, at most;
// their context says when that is over. One that does not return in time is left behind, and
// those that were given before it are called all the same, with a context that has ended. A panic
// is an error of Leave, as any that fn returns is not: it has no result.
//
// It does nothing once the node has begun to call them, or has ended.
func (n *Node) OnLeave(fn func(ctx context.Context)) { n.farewells.add(fn) }

// farewells are the functions of OnLeave.
type farewells struct {
	mu     sync.Mutex
	all    []func(context.Context)
	called bool
}

func (f *farewells) add(fn func(context.Context)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.called {
		f.all = append(f.all, fn)
	}
}

// call calls them, and returns when the last has returned or ctx has ended.
func (f *farewells) call(ctx context.Context) error {
	f.mu.Lock()
	all := slices.Clone(f.all)
	f.all, f.called = nil, true
	f.mu.Unlock()
	var errs []error
	for _, fn := range slices.Backward(all) {
		errs = append(errs, contained(func() error {
			return within.Do(ctx, func(ctx context.Context) error {
				return contained(func() error { fn(ctx); return nil })
			})
		}))
	}
	return errors.Join(errs...)
}

// contained calls fn, and makes an error of its panic. The inner call says where that was; the
// outer one is for what within.Do raises, as where fn ended its goroutine.
func contained(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return fn()
}
