package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// question is a request for a set, of which Consul leaves out what the token may not
// see. That is no error to it.
type question struct {
	what  string // is asked
	needs string // a token, to see all of the answer
}

func (q question) in(dc string) question {
	if dc != "" {
		q.what += " of datacenter " + dc
	}
	return q
}

// anonymous is the token of requests without one.
const anonymous = "anonymous"

// ask returns an answer and its index, or ErrDenied if something was left out of it.
// One without an index is not Consul's, and ErrUnavailable: errForeign.
//
// Consul says that of an answer, but not where it has no token to go by, neither ours
// nor one of its agent's: then an empty set may be all or nothing. To the
// token of requests without one it does say so.
func ask[T any](ctx context.Context, d *Driver, q question, o *api.QueryOptions, call func(*api.QueryOptions) (T, *api.QueryMeta, error)) (answer T, index uint64, err error) {
	var none T
	answer, meta, err := call(o)
	if err == nil && meta.DefaultACLPolicy == "deny" && !meta.ResultsFilteredByACLs {
		var noToken bool
		if noToken, err = d.hasNoToken(ctx); err == nil && noToken {
			open := *o
			open.Token, open.WaitIndex = anonymous, 0
			answer, meta, err = call(&open)
		}
	}
	switch {
	case err != nil:
		return none, 0, d.failed(ctx, q.what, err)
	case meta.LastIndex == 0:
		return none, 0, errForeign(q.what)
	case meta.ResultsFilteredByACLs:
		return none, 0, fmt.Errorf("consul: %s: %w: the token may not see all of it; it needs %s", q.what, driver.ErrDenied, q.needs)
	}
	return answer, meta.LastIndex, nil
}

// hasNoToken reports whether requests have no token, neither ours nor the agent's.
func (d *Driver) hasNoToken(ctx context.Context) (bool, error) {
	token, err := d.config.token()
	if err != nil || token != "" {
		return false, err
	}
	_, _, err = d.client.ACL().TokenReadSelf((&api.QueryOptions{}).WithContext(ctx))
	var status api.StatusError
	if errors.As(err, &status) && status.Code == http.StatusForbidden {
		return true, nil
	}
	return false, err
}
