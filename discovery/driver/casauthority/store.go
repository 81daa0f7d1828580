package casauthority

import (
	"context"

	"github.com/musterhq/muster/discovery/driver"
)

// Store is what a provider implements. Each method makes one attempt, honours its
// context, is safe for concurrent use, and returns errors that wrap the kinds of package
// driver. Keys are paths such as "clusters/orders/mastership".
type Store interface {
	// Read returns the value at key. It is linearizable: it shows every write that was
	// confirmed before the call. If there is no such key it returns a Value with
	// Revision 0, and no error.
	Read(ctx context.Context, key string) (Value, error)

	// CompareAndSet writes data at key if its revision is still prev, where 0 means
	// that the key does not exist. If data is nil it removes the key. It returns the Value
	// with the new revision, and Data or not; or an error that wraps driver.ErrConflict, and then
	// has changed nothing. After any other error the write may have happened, or may still happen.
	CompareAndSet(ctx context.Context, key string, data []byte, prev driver.Revision) (Value, error)

	// List returns every key that starts with prefix and its value, linearizably
	// and in any order.
	List(ctx context.Context, prefix string) (map[string]Value, error)
}

// Value is the value at a key.
type Value struct {
	Data []byte

	// Revision rises with each write of the key and never repeats, also not after the
	// key was deleted. 0: there is no such key.
	Revision driver.Revision

	// Incarnation names the history that the store is in: it is another one once writes
	// that were confirmed may have been lost, as after a failover to a standby that lags
	// behind or a restored backup. The timeline of a database or the cluster id of a
	// store is one. Read and CompareAndSet set it, also if there is no such key. Empty:
	// the store cannot tell.
	Incarnation string
}

// Watcher is implemented by a Store that reports changes. Without it, the
// store is polled.
type Watcher interface {
	// Wait returns when what is below prefix, which may be a key, may have changed
	// since mark, which an earlier Wait for this prefix returned; and at once if mark is
	// 0. It may return early. It returns the mark of now, or an error when ctx ends.
	Wait(ctx context.Context, prefix string, mark uint64) (next uint64, err error)
}
