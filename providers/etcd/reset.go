package etcd

import (
	"context"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/etcd/internal/grants"
)

var _ driver.Resetter = (*authority)(nil)

// Reset implements driver.Resetter. It writes the keys of the cluster, the master's among
// them, and touches no other key and no lease: that of a grant from before expires by
// itself.
func (a *authority) Reset(ctx context.Context, o driver.ResetOptions) (driver.Recorded, error) {
	switch {
	case o.ClusterID == "":
		return driver.Recorded{}, fmt.Errorf("etcd: reset: %w: no cluster id", driver.ErrInvalid)
	case o.Term > driver.MaxTerm:
		return driver.Recorded{}, fmt.Errorf("etcd: reset: %w: term %d is out of bounds; want at most %d", driver.ErrInvalid, o.Term, driver.MaxTerm)
	case a.life.Ended():
		return driver.Recorded{}, a.errClosed()
	}
	kvs, _, err := a.readKeys(ctx)
	if err != nil {
		return driver.Recorded{}, err
	}
	var before driver.Recorded
	now := state{revisions: make(map[string]int64)}
	for _, name := range grants.Keys() {
		kv := kvs[a.prefix+name]
		if kv == nil {
			continue
		}
		now.revisions[name] = kv.ModRevision
		if err := now.Parse(name, kv.Value); err != nil {
			before.Problems = append(before.Problems, fmt.Sprintf("%s holds %.40q: %v", kv.Key, kv.Value, err))
		}
	}
	before.ClusterID, before.Term = now.ID, now.Term
	if now.Master != nil {
		before.Holder = &now.Master.Holder
	}
	if o.ClusterID == before.ClusterID {
		return before, fmt.Errorf("etcd: reset: %w: the cluster id is %q already; want a new one", driver.ErrInvalid, o.ClusterID)
	}
	if now.revisions[grants.MasterKey] != 0 && !o.Force {
		who := "a master that cannot be read"
		if before.Holder != nil {
			who = fmt.Sprintf("node %s at %s", before.Holder.NodeID, before.Holder.Addr)
		}
		return before, fmt.Errorf("etcd: reset: %w: %s%s names %s, whose grant may be valid", driver.ErrConflict, a.prefix, grants.MasterKey, who)
	}
	if o.DryRun {
		return before, nil
	}
	r, err := a.driver.client.Txn(ctx).If(now.unchanged(a.prefix)...).Then(
		clientv3.OpDelete(a.prefix+grants.MasterKey),
		clientv3.OpPut(a.prefix+grants.TermKey, strconv.FormatUint(uint64(o.Term), 10)),
		clientv3.OpPut(a.prefix+grants.IDKey, o.ClusterID),
	).Commit()
	switch {
	case err != nil:
		return before, a.driver.failed(ctx, "reset", err)
	case !r.Succeeded:
		return before, fmt.Errorf("etcd: reset: %w: the keys were changed meanwhile", driver.ErrConflict)
	}
	return before, nil
}
