package consul

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// rehearsal is the name of what is never there.
const rehearsal = "muster-rehearsal"

// Rehearse asks for a transaction that cannot come about, since it wants what is not
// there to be as it was at some index. Consul looks first at what the token may do.
func (d *Driver) Rehearse(ctx context.Context, service string) error {
	if service == "" {
		return errNoService()
	}
	const never = 1 // no index of anything: it is below the first of a new datacenter
	var ops api.TxnOps
	switch {
	case d.kv != nil:
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVDeleteCAS, Key: d.kv.Prefix(service) + rehearsal, Index: never}},
			&api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: d.kv.Prefix(service) + rehearsal, Index: never}})
	default:
		node := rehearsal
		if d.config.Mode == Catalog {
			node = d.config.NodeName + "-" + rehearsal
			ops = append(ops, &api.TxnOp{Node: &api.NodeTxnOp{Verb: api.NodeDeleteCAS, Node: api.Node{Node: node, ModifyIndex: never}}})
		}
		ops = append(ops, &api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceCAS, Node: node,
			Service: api.AgentService{ID: rehearsal, Service: service, Port: 1, ModifyIndex: never}}})
	}
	_, err := d.transact(ctx, fmt.Sprintf("rehearse a registration of %q", service), d.config.Datacenter, ops)
	if errors.Is(err, driver.ErrConflict) {
		return nil
	}
	return err
}
