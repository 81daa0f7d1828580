package consul

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// Get reads consistently.
func (a *authority) Get(ctx context.Context, key string) (driver.Record, error) {
	ctx, cancel, err := a.call(ctx)
	if err != nil {
		return driver.Record{}, err
	}
	defer cancel()
	pair, err := a.driver.readKey(ctx, a.records+key)
	switch {
	case err != nil:
		return driver.Record{}, err
	case pair == nil:
		return driver.Record{}, fmt.Errorf("consul: record %q: %w", key, driver.ErrNotFound)
	}
	return a.record(pair), nil
}

func (a *authority) record(pair *api.KVPair) driver.Record {
	value := pair.Value
	if value == nil {
		value = []byte{}
	}
	return driver.Record{Key: strings.TrimPrefix(pair.Key, a.records), Value: value, Revision: driver.Revision(pair.ModifyIndex)}
}

// maxTxnValue is what a transaction certainly takes: Consul bounds its whole body by
// as much as a value may have, and the value is in base64 there.
const maxTxnValue = driver.MaxRecordSize / 2

// Set writes where the key is as it was at prev; Consul, too, takes 0 for a key that
// is not there.
func (a *authority) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	if len(value) > driver.MaxRecordSize {
		return 0, fmt.Errorf("consul: record %q: %w: %d bytes; at most %d can be kept", key, driver.ErrInvalid, len(value), driver.MaxRecordSize)
	}
	if len(value) > maxTxnValue {
		return a.setLarge(ctx, key, value, prev)
	}
	ctx, cancel, err := a.call(ctx)
	if err != nil {
		return 0, err
	}
	defer cancel()
	results, err := a.driver.commit(ctx, "write "+a.records+key, []*api.KVTxnOp{
		{Verb: api.KVCAS, Key: a.records + key, Value: value, Index: uint64(prev)},
	})
	if err != nil {
		return 0, err
	}
	for _, r := range results {
		if r.KV != nil {
			return driver.Revision(r.KV.ModifyIndex), nil
		}
	}
	return 0, fmt.Errorf("consul: write %s: %w: the answer does not tell the revision", a.records+key, driver.ErrUnavailable)
}

// setLarge writes a value that no transaction takes, by a request whose answer does
// not tell the revision, which is read after it.
func (a *authority) setLarge(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	call, cancel, err := a.call(ctx)
	if err != nil {
		return 0, err
	}
	defer cancel()
	pair := &api.KVPair{Key: a.records + key, Value: value, ModifyIndex: uint64(prev)}
	written, _, err := a.driver.client.KV().CAS(pair, (&api.WriteOptions{}).WithContext(call))
	switch {
	case err != nil:
		return 0, a.driver.failed(call, "write "+pair.Key, err)
	case !written:
		return 0, fmt.Errorf("consul: write %s: %w: it does not have revision %d", pair.Key, driver.ErrConflict, prev)
	}
	now, err := a.Get(ctx, key)
	switch {
	case err != nil:
		return 0, fmt.Errorf("consul: write %s: %w: written, but at which revision is not known: %w", pair.Key, driver.ErrUnavailable, err)
	case !bytes.Equal(now.Value, value):
		return 0, fmt.Errorf("consul: write %s: %w: written, and by another since", pair.Key, driver.ErrUnavailable)
	}
	return now.Revision, nil
}

// Delete removes where the key is as it was at prev.
func (a *authority) Delete(ctx context.Context, key string, prev driver.Revision) error {
	record, err := a.Get(ctx, key)
	if err != nil {
		return err
	}
	if record.Revision != prev {
		return fmt.Errorf("consul: delete record %q: %w: it has revision %d and not %d", key, driver.ErrConflict, record.Revision, prev)
	}
	ctx, cancel, err := a.call(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	_, err = a.driver.commit(ctx, "delete "+a.records+key, []*api.KVTxnOp{
		{Verb: api.KVDeleteCAS, Key: a.records + key, Index: uint64(prev)},
	})
	return err
}

// Records lists consistently.
func (a *authority) Records(ctx context.Context, prefix string) ([]driver.Record, error) {
	ctx, cancel, err := a.call(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	pairs, _, err := a.list(ctx, "list", a.records+prefix, 0)
	if err != nil {
		return nil, err
	}
	var records []driver.Record
	for _, pair := range pairs {
		records = append(records, a.record(pair))
	}
	return records, nil
}
