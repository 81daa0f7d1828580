package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/etcd/internal/grants"
)

// CheckPermission asks for a transaction whose condition never holds: etcd refuses it where
// the user may not do what it would do, and otherwise does nothing.
func (d *Driver) CheckPermission(ctx context.Context, service string) error {
	if service == "" {
		return fmt.Errorf("etcd: %w: check of a permission without a service", driver.ErrInvalid)
	}
	prefix := d.layout.Prefix(service)
	return d.permits(ctx, "check a registration below "+prefix, prefix+"rehearsal")
}

// CheckClaimPermission does the same with the keys that a grant writes.
func (a *authority) CheckClaimPermission(ctx context.Context) error {
	if a.life.Ended() {
		return a.errClosed()
	}
	return a.driver.permits(ctx, "check a claim below "+a.prefix, a.prefix+grants.MasterKey, a.prefix+grants.TermKey, a.prefix+grants.IDKey)
}

func (d *Driver) permits(ctx context.Context, what string, keys ...string) error {
	var writes []clientv3.Op
	for _, key := range keys {
		writes = append(writes, clientv3.OpPut(key, ""))
	}
	_, err := d.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(keys[0]), "<", 0)).Then(writes...).Commit()
	if err != nil {
		return d.failed(ctx, what, err)
	}
	return nil
}
