package within

import "context"

// Both returns a context that ends with ctx and with other, and at once if other has ended: a
// context.AfterFunc alone ends it a moment later, in which a call may still succeed. The
// caller calls the function when it is done.
func Both(ctx, other context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if other.Err() != nil {
		cancel()
	}
	stop := context.AfterFunc(other, cancel)
	return ctx, func() { stop(); cancel() }
}
