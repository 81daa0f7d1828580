package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
)

// Rehearse asks for a transaction whose condition never holds: etcd refuses it where
// the user may not do what it would do, and otherwise does nothing.
func (d *Driver) Rehearse(ctx context.Context, service string) error {
	if service == "" {
		return fmt.Errorf("etcd: %w: rehearsal without a service", driver.ErrInvalid)
	}
	key := d.layout.Prefix(service) + "rehearsal"
	_, err := d.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(key), "<", 0)).
		Then(clientv3.OpPut(key, "")).
		Commit()
	if err != nil {
		return d.failed(ctx, "rehearse a registration below "+d.layout.Prefix(service), err)
	}
	return nil
}
