package call

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/node"
)

// Reply is what became of the call to one member.
type Reply[T any] struct {
	From  node.Member
	Value T
	Err   error // if it is not nil, Value is what fn returned beside it
}

// EachOption changes what Each does.
type EachOption struct{ localFirst, nested bool }

// LocalFirst has Each call this node first, if it is among the members, and the others only once
// that has succeeded. If it has not, theirs are no replies.
func LocalFirst() EachOption { return EachOption{localFirst: true} }

// AllowNested has Each call members in a handler. Without it each reply is an ErrNested: a handler
// that calls all members, itself among them, does so without an end.
func AllowNested() EachOption { return EachOption{nested: true} }

// Each calls members at the same time, and yields the reply of each as it ends. fn makes the call,
// or several, with the connection to one member, which is for that instance alone. Where ctx has no
// deadline, that of a call holds for all together.
//
// All have ended when the deadline has passed: a member from which fn has not returned by then is
// yielded with an error. To break off the loop cancels what still goes on. Each does not wait for
// an fn that ignores its context.
//
//	for r := range call.Each(ctx, mesh, n.Members(), func(ctx context.Context, c grpc.ClientConnInterface) (int, error) {
//		return call.Invoke[int](ctx, c, "cache.Drop", key)
//	}) {
//		if r.Err != nil { … } // r.From was not reached, or has failed
//	}
func Each[T any](ctx context.Context, m *Mesh, to []node.Member,
	fn func(context.Context, grpc.ClientConnInterface) (T, error), options ...EachOption) iter.Seq[Reply[T]] {
	has := func(f func(EachOption) bool) bool { return slices.ContainsFunc(options, f) }
	localFirst := has(func(o EachOption) bool { return o.localFirst })
	nested := has(func(o EachOption) bool { return o.nested })
	return func(yield func(Reply[T]) bool) {
		if _, inHandler := From(ctx); inHandler && !nested {
			for _, member := range to {
				if !yield(Reply[T]{From: member, Err: &Error{Err: ErrNested, Peer: peerOf(member)}}) {
					return
				}
			}
			return
		}
		ctx, cancel := m.bound(ctx)
		defer cancel()
		to := slices.Clone(to)
		if i := slices.IndexFunc(to, func(o node.Member) bool { return o.InstanceID == m.node.InstanceID() }); localFirst && i >= 0 {
			own := to[i]
			to = slices.Delete(to, i, i+1)
			ok := true
			more := each(ctx, m, []node.Member{own}, fn, func(r Reply[T]) bool {
				ok = r.Err == nil
				return yield(r)
			})
			if !more || !ok {
				return
			}
		}
		each(ctx, m, to, fn, yield)
	}
}

// each calls members at the same time, and reports whether yield wanted all replies.
func each[T any](ctx context.Context, m *Mesh, to []node.Member,
	fn func(context.Context, grpc.ClientConnInterface) (T, error), yield func(Reply[T]) bool) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type numbered struct {
		i int
		Reply[T]
	}
	replies := make(chan numbered, len(to))
	for i, member := range to {
		go func() {
			v, err := fn(ctx, m.Member(member))
			replies <- numbered{i, Reply[T]{member, v, err}}
		}()
	}
	waiting := make(map[int]bool, len(to))
	for i := range to {
		waiting[i] = true
	}
	over := ctx.Done()
	var late <-chan time.Time
	for len(waiting) > 0 {
		select {
		case r := <-replies:
			delete(waiting, r.i)
			if !yield(r.Reply) {
				return false
			}
		case <-over: // one that honours its context returns its own error
			over, late = nil, time.After(within.Grace)
		case <-late:
			for range len(replies) { // they came in time
				r := <-replies
				delete(waiting, r.i)
				if !yield(r.Reply) {
					return false
				}
			}
			for _, i := range slices.Sorted(maps.Keys(waiting)) {
				err := &Error{Err: ctx.Err(), Peer: peerOf(to[i]), MayHaveRun: true}
				if !yield(Reply[T]{From: to[i], Err: err}) {
					return false
				}
			}
			return true
		}
	}
	return true
}

func peerOf(m node.Member) node.Peer {
	return node.Peer{NodeID: m.NodeID, InstanceID: m.InstanceID, Addr: m.Addr}
}
