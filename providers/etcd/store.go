package etcd

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
)

// The revision of a record is that at which its key was written last.

func (a *authority) Get(ctx context.Context, key string) (driver.Record, error) {
	if err := a.checkKey(key); err != nil {
		return driver.Record{}, err
	}
	r, err := a.driver.client.Get(ctx, a.records+key)
	if err != nil {
		return driver.Record{}, a.driver.failed(ctx, "get record "+key, err)
	}
	if len(r.Kvs) == 0 {
		return driver.Record{}, errNoRecord(key)
	}
	return a.record(r.Kvs[0]), nil
}

func (a *authority) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	if err := a.checkKey(key); err != nil {
		return 0, err
	}
	if len(value) > driver.MaxRecordSize {
		return 0, fmt.Errorf("etcd: %w: record %s has %d bytes, at most %d are kept", driver.ErrInvalid, key, len(value), driver.MaxRecordSize)
	}
	at := a.records + key
	r, err := a.driver.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(at), "=", int64(prev))).
		Then(clientv3.OpPut(at, string(value))).
		Commit()
	switch {
	case err != nil:
		return 0, a.driver.failed(ctx, "set record "+key, err)
	case !r.Succeeded:
		return 0, errRecordChanged(key, prev)
	}
	return driver.Revision(r.Header.Revision), nil
}

func (a *authority) Delete(ctx context.Context, key string, prev driver.Revision) error {
	if err := a.checkKey(key); err != nil {
		return err
	}
	at := a.records + key
	r, err := a.driver.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(at), "!=", 0),
			clientv3.Compare(clientv3.ModRevision(at), "=", int64(prev))).
		Then(clientv3.OpDelete(at)).
		Else(clientv3.OpGet(at, clientv3.WithKeysOnly())).
		Commit()
	switch {
	case err != nil:
		return a.driver.failed(ctx, "delete record "+key, err)
	case r.Succeeded:
		return nil
	case len(r.Responses[0].GetResponseRange().Kvs) == 0:
		return errNoRecord(key)
	}
	return errRecordChanged(key, prev)
}

func (a *authority) Records(ctx context.Context, prefix string) ([]driver.Record, error) {
	if a.life.Ended() {
		return nil, a.errClosed()
	}
	r, err := a.driver.client.Get(ctx, a.records+prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, a.driver.failed(ctx, "get records "+prefix, err)
	}
	return a.all(r.Kvs), nil
}

// WatchRecords reads, and reads again at each change after that.
func (a *authority) WatchRecords(ctx context.Context, prefix string) iter.Seq2[[]driver.Record, error] {
	return func(yield func([]driver.Record, error) bool) {
		inner, cancel := a.life.Bind(ctx)
		defer cancel()
		from := a.records + prefix
		revision, done, err := a.yieldRecords(inner, prefix, yield)
		if err == nil && !done {
			for events, failure := range a.driver.watch(inner, from, clientv3.GetPrefixRangeEnd(from), revision) {
				if err = failure; err != nil {
					break
				}
				if last(events) <= revision {
					continue // the last reading has it
				}
				if revision, done, err = a.yieldRecords(inner, prefix, yield); done || err != nil {
					break
				}
			}
		}
		switch {
		case done || ctx.Err() != nil:
		case a.life.Ended():
			yield(nil, a.errClosed())
		case err != nil:
			yield(nil, err)
		}
	}
}

// yieldRecords reports whether the consumer has had enough.
func (a *authority) yieldRecords(ctx context.Context, prefix string, yield func([]driver.Record, error) bool) (revision int64, done bool, err error) {
	r, err := a.driver.client.Get(ctx, a.records+prefix, clientv3.WithPrefix())
	if err != nil {
		return 0, false, a.driver.failed(ctx, "get records "+prefix, err)
	}
	return r.Header.Revision, !yield(a.all(r.Kvs), nil), nil
}

func (a *authority) all(kvs []*mvccpb.KeyValue) []driver.Record {
	all := make([]driver.Record, len(kvs))
	for i, kv := range kvs {
		all[i] = a.record(kv)
	}
	return all
}

func (a *authority) record(kv *mvccpb.KeyValue) driver.Record {
	return driver.Record{
		Key:      strings.TrimPrefix(string(kv.Key), a.records),
		Value:    kv.Value,
		Revision: driver.Revision(kv.ModRevision),
	}
}

// checkKey says why no record can be asked for at key.
func (a *authority) checkKey(key string) error {
	if a.life.Ended() {
		return a.errClosed()
	}
	if key == "" {
		return fmt.Errorf("etcd: %w: record without a key", driver.ErrInvalid)
	}
	return nil
}

func errNoRecord(key string) error { return fmt.Errorf("etcd: record %s: %w", key, driver.ErrNotFound) }

func errRecordChanged(key string, prev driver.Revision) error {
	return fmt.Errorf("etcd: record %s: %w: it is not at revision %d", key, driver.ErrConflict, prev)
}
