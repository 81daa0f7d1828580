package discovery

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// recordsEvery is how often the records of a store are read that does not report changes.
const recordsEvery = 500 * time.Millisecond

// WatchRecords yields every record of s whose key starts with prefix, by key: now, and
// after each change, within a second of it, until ctx ends. Several changes may be yielded
// as one. Where s is a driver.StoreWatcher it reports changes; any other is read twice a
// second. An error is yielded without records and does not end the sequence.
func WatchRecords(ctx context.Context, s driver.Store, prefix string) iter.Seq2[[]driver.Record, error] {
	return func(yield func([]driver.Record, error) bool) {
		var last []driver.Record
		first := true
		news := func(records []driver.Record, err error) bool {
			if err != nil {
				return ctx.Err() != nil || yield(nil, err)
			}
			if !first && slices.EqualFunc(records, last, sameRecord) {
				return true
			}
			first, last = false, records
			return yield(records, nil)
		}
		watcher, reports := s.(driver.StoreWatcher)
		for ctx.Err() == nil {
			if !reports {
				if !news(s.Records(ctx, prefix)) {
					return
				}
			} else {
				for records, err := range watcher.WatchRecords(ctx, prefix) {
					if errors.Is(err, driver.ErrUnsupported) {
						reports = false
						break
					}
					if !news(records, err) {
						return
					}
				}
				if !reports {
					continue
				}
			}
			timer := time.NewTimer(recordsEvery)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
	}
}

func sameRecord(a, b driver.Record) bool { return a.Key == b.Key && a.Revision == b.Revision }
