package consul

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/internal/grants"
)

const (
	// rehearsal is the name of what is not there, or not for long.
	rehearsal = "muster-rehearsal"
	// never is no index of anything: it is below the first of a new datacenter.
	never = 1
)

// Rehearse asks for a transaction that cannot come about, since it wants what is not
// there to be as it was at some index. Consul looks first at what the token may do.
func (d *Driver) Rehearse(ctx context.Context, service string) error {
	if service == "" {
		return errNoService()
	}
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

// RehearseClaim does the same with the keys that a grant writes, and makes and ends what
// a lock hangs on, which can only be tried: a service with a check, and a session. Its tag
// is not that of the cluster, so that nobody finds it as the master's.
func (a *authority) RehearseClaim(ctx context.Context) error {
	ctx, cancel, err := a.call(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	var ops api.TxnOps
	for _, key := range grants.Keys() {
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: a.prefix + key, Index: never}})
	}
	_, err = a.driver.transact(ctx, "rehearse a claim below "+a.prefix, a.driver.config.Datacenter, ops)
	if err != nil && !errors.Is(err, driver.ErrConflict) {
		return err
	}
	p, err := a.driver.startPulse(ctx, a.service(), rehearsal, a.ttl)
	if err != nil {
		return err
	}
	p.stop(context.WithoutCancel(ctx))
	return nil
}
