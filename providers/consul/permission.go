package consul

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

const (
	// absent is the name of what is not there, or not for long.
	absent = "muster-rehearsal"
	// never is no index of anything: it is below the first of a new datacenter.
	never = 1
)

// CheckPermission asks for a transaction that cannot come about, since it wants what is not
// there to be as it was at some index. Consul looks first at what the token may do.
func (d *Driver) CheckPermission(ctx context.Context, service string) error {
	if service == "" {
		return errNoService()
	}
	var ops api.TxnOps
	switch {
	case d.kv != nil:
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVDeleteCAS, Key: d.kv.Prefix(service) + absent, Index: never}},
			&api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: d.kv.Prefix(service) + absent, Index: never}})
	default:
		node := absent
		if d.config.Mode == Catalog {
			node = d.config.NodeName + "-" + absent
			ops = append(ops, &api.TxnOp{Node: &api.NodeTxnOp{Verb: api.NodeDeleteCAS, Node: api.Node{Node: node, ModifyIndex: never}}})
		}
		ops = append(ops, &api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceCAS, Node: node,
			Service: api.AgentService{ID: absent, Service: service, Port: 1, ModifyIndex: never}}})
	}
	_, err := d.transact(ctx, fmt.Sprintf("check a registration of %q", service), d.config.Datacenter, ops)
	if errors.Is(err, driver.ErrConflict) {
		return nil
	}
	return err
}
