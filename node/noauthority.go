package node

import (
	"context"
	"iter"

	"github.com/musterhq/muster/discovery/driver"
)

// noAuthority stands in where the provider grants no mastership: nobody is ever
// master, and the reason is told.
type noAuthority struct{ reason error }

func (a noAuthority) Acquire(context.Context, driver.Claim) (driver.Grant, error) {
	return driver.Grant{}, a.reason
}

func (a noAuthority) Renew(context.Context, driver.Grant) (driver.Grant, error) {
	return driver.Grant{}, driver.ErrSessionLost
}

func (a noAuthority) Release(context.Context, driver.Grant) error { return nil }

func (a noAuthority) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		if yield(driver.Mastership{Ineligible: a.reason.Error()}, nil) {
			<-ctx.Done()
		}
	}
}

func (a noAuthority) Close(context.Context) error { return nil }
