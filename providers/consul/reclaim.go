package consul

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul/internal/registration"
)

// Reclaim removes from the agent what sessions of Muster have left behind that are over, which
// the agent itself does after ten of their TTLs. It knows a session by the check that it
// keeps: once the agent has found that critical the session has not been renewed in time,
// and its own process considers it over as well.
//
// A service says in its meta of which instance it is, as anyone may write it. It is removed
// under no other ID than the one that this instance has.
//
// What is kept by keys goes with its session, and what is in the catalog is removed by its
// readers.
func (d *Driver) Reclaim(ctx context.Context, own func(driver.Instance) bool) ([]driver.Instance, error) {
	if d.kv != nil || d.config.Mode != Agent {
		return nil, nil
	}
	ctx, cancel := d.call(ctx)
	defer cancel()
	checks, err := d.client.Agent().ChecksWithFilterOpts(fmt.Sprintf("Status == %q and CheckID matches %q", api.HealthCritical, "^"+registration.MetaPrefix), (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, d.failed(ctx, "list the checks of the agent", err)
	}
	var gone []driver.Instance
	var errs []error
	for _, check := range checks {
		id := check.ServiceID
		session, ok := strings.CutSuffix(strings.TrimPrefix(check.CheckID, registration.MetaPrefix), ":"+id)
		if !ok || session == "" || d.isOwn(session) {
			continue
		}
		i, removed, err := d.reclaim(ctx, check, session, own)
		if err != nil {
			errs = append(errs, err)
		} else if removed {
			gone = append(gone, i)
		}
	}
	return gone, errors.Join(errs...)
}

// reclaim removes the service of a check that was found critical, if own says so of its
// instance.
func (d *Driver) reclaim(ctx context.Context, found *api.AgentCheck, session string, own func(driver.Instance) bool) (i driver.Instance, removed bool, err error) {
	id := found.ServiceID
	have, err := d.service(ctx, id)
	if err != nil || have == nil {
		return i, false, err
	}
	entry := &api.ServiceEntry{Service: have, Checks: api.HealthChecks{{CheckID: found.CheckID, ServiceID: id, Notes: found.Notes}}}
	if registration.SessionOf(entry) != session {
		return i, false, nil // a successor has taken it over
	}
	if i, err = registration.DecodeOwn(entry); err != nil || d.RecordKey(i) != id || !own(i) {
		return i, false, nil // not what a registrar of this host has left behind
	}
	// It may have been renewed meanwhile, or taken over: the agent has no compare-and-set.
	check, err := d.check(ctx, found.CheckID)
	if err != nil || check == nil || check.ServiceID != id || check.Status != api.HealthCritical {
		return i, false, err
	}
	err = d.client.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil && !unknown(err) {
		return i, false, d.failed(ctx, "deregister "+id, err)
	}
	return i, err == nil, nil
}
