package advertise

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"net/netip"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
)

// Watch resolves spec now and then again every Interval, and yields
//
//   - the address with a nil error, when it is first known, when it changes, and
//     when it is confirmed after a failure;
//   - the last good address, zero if there was none, with the error, when a
//     resolution fails and when the reason changes. The address still stands.
//
// It begins with Options.Used where that is given. An address that was found by one
// step of the chain is not left for what a later step finds while the former does not
// find it again: an engine or a registry that is down moves nobody.
//
// Until a first address is known, failed attempts are repeated sooner than the
// interval. The sequence ends when ctx does, or after it has yielded an error
// that only another setting can fix, one that wraps driver.ErrInvalid.
//
// Resolutions happen between two calls of yield, in the caller's goroutine.
func Watch(ctx context.Context, spec string, bound netip.AddrPort, o Options) iter.Seq2[Address, error] {
	o = o.withDefaults()
	return func(yield func(Address, error) bool) {
		var (
			last    = o.Used
			failure string // of the last attempt, empty if it succeeded
			retry   = backoff.Backoff{Max: o.Interval}
		)
		for {
			attempt, cancel := context.WithTimeout(ctx, o.Timeout)
			found := explain(attempt, spec, bound, o, last)
			err := found.Err
			cancel()
			if ctx.Err() != nil {
				return
			}
			if o.Explained != nil {
				o.Explained(found)
			}
			switch {
			case err != nil:
				if err.Error() != failure {
					failure = err.Error()
					if !yield(last.Address, err) {
						return
					}
				}
				if errors.Is(err, driver.ErrInvalid) {
					return
				}
			default:
				news := found.Addr != last.Addr || failure != ""
				last, failure = found, ""
				if news && !yield(last.Address, nil) {
					return
				}
			}
			wait := o.Interval*4/5 + rand.N(o.Interval*2/5+1)
			if last.Addr == "" {
				wait = min(wait, retry.Next())
			}
			if backoff.Sleep(ctx, wait) != nil {
				return
			}
		}
	}
}
