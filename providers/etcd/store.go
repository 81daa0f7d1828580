package etcd

import (
	"context"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
)

// The revision of a record is that at which its key was written last.

func (a *authority) Get(ctx context.Context, key string) (driver.Record, error) {
	if err := checkRecordKey(key); err != nil {
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
	if err := checkRecordKey(key); err != nil {
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
	if err := checkRecordKey(key); err != nil {
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
	r, err := a.driver.client.Get(ctx, a.records+prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, a.driver.failed(ctx, "get records "+prefix, err)
	}
	all := make([]driver.Record, len(r.Kvs))
	for i, kv := range r.Kvs {
		all[i] = a.record(kv)
	}
	return all, nil
}

func (a *authority) record(kv *mvccpb.KeyValue) driver.Record {
	return driver.Record{
		Key:      strings.TrimPrefix(string(kv.Key), a.records),
		Value:    kv.Value,
		Revision: driver.Revision(kv.ModRevision),
	}
}

func checkRecordKey(key string) error {
	if key == "" {
		return fmt.Errorf("etcd: %w: record without a key", driver.ErrInvalid)
	}
	return nil
}

func errNoRecord(key string) error { return fmt.Errorf("etcd: record %s: %w", key, driver.ErrNotFound) }

func errRecordChanged(key string, prev driver.Revision) error {
	return fmt.Errorf("etcd: record %s: %w: it is not at revision %d", key, driver.ErrConflict, prev)
}
