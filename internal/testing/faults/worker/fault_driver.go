package main

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/providers/static"
)

// authorityVariable breaks the promise of the authority: "reused-term" or
// "minority-master".
const authorityVariable = "MUSTER_FAULT_AUTHORITY"

// faultDriver is what is different about the drivers of providers: registrations that do not
// outlive their process for long, so that tests need not wait for it, and a broken authority.
type faultDriver struct {
	sessionTTL time.Duration
	authority  string
}

// driver returns d with what is different. There is a type for each driver, and not one around
// them all: that would hide which optional interfaces a driver has.
func (f faultDriver) driver(d driver.Driver) driver.Driver {
	switch d := d.(type) {
	case *etcd.Driver:
		return faultyEtcd{d, f}
	case *consul.Driver:
		return faultyConsul{d, f}
	case *static.Driver:
		return faultyStatic{d, f}
	}
	return d
}

type faultyEtcd struct {
	*etcd.Driver
	f faultDriver
}

func (d faultyEtcd) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	o.TTL = d.f.sessionTTL
	return d.Driver.OpenSession(ctx, o)
}

func (d faultyEtcd) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	return d.f.wrap(d.Driver.OpenAuthority(ctx, o))
}

type faultyConsul struct {
	*consul.Driver
	f faultDriver
}

func (d faultyConsul) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	o.TTL = d.f.sessionTTL
	return d.Driver.OpenSession(ctx, o)
}

func (d faultyConsul) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	return d.f.wrap(d.Driver.OpenAuthority(ctx, o))
}

type faultyStatic struct {
	*static.Driver
	f faultDriver
}

func (d faultyStatic) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	return d.f.wrap(d.Driver.OpenAuthority(ctx, o))
}

func (f faultDriver) wrap(a driver.Authority, err error) (driver.Authority, error) {
	if err != nil {
		return nil, err
	}
	switch f.authority {
	case "":
		return a, nil
	case "reused-term":
		return &sameTerm{Authority: a}, nil
	case "minority-master":
		return stubborn{a, new(atomic.Bool)}, nil
	}
	return nil, fmt.Errorf("%s: no such authority: %s", authorityVariable, f.authority)
}

// sameTerm is an authority that never raises the term.
type sameTerm struct {
	driver.Authority
	mu      sync.Mutex
	granted driver.Grant
}

func (s *sameTerm) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	g, err := s.Authority.Acquire(ctx, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.granted = g
		g.Term = 1
	}
	return g, err
}

// real is the grant as the authority knows it.
func (s *sameTerm) real() driver.Grant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.granted
}

func (s *sameTerm) Renew(ctx context.Context, _ driver.Grant) (driver.Grant, error) {
	g, err := s.Authority.Renew(ctx, s.real())
	g.Term = 1
	return g, err
}

func (s *sameTerm) Release(ctx context.Context, _ driver.Grant) error {
	return s.Authority.Release(ctx, s.real())
}

func (s *sameTerm) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		for m, err := range s.Authority.Observe(ctx) {
			m.Term = min(m.Term, 1)
			if !yield(m, err) {
				return
			}
		}
	}
}

// stubborn is an authority that goes on granting where nobody answers, and learns of
// no other holder meanwhile.
type stubborn struct {
	driver.Authority
	holds *atomic.Bool
}

func (s stubborn) Acquire(ctx context.Context, c driver.Claim) (driver.Grant, error) {
	g, err := s.Authority.Acquire(ctx, c)
	if err == nil {
		s.holds.Store(true)
	}
	return g, err
}

func (s stubborn) Renew(ctx context.Context, g driver.Grant) (driver.Grant, error) {
	next, err := s.Authority.Renew(ctx, g)
	if err != nil {
		return g, nil
	}
	return next, nil
}

func (s stubborn) Release(ctx context.Context, g driver.Grant) error {
	s.holds.Store(false)
	return s.Authority.Release(ctx, g)
}

func (s stubborn) Observe(ctx context.Context) iter.Seq2[driver.Mastership, error] {
	return func(yield func(driver.Mastership, error) bool) {
		for m, err := range s.Authority.Observe(ctx) {
			if !s.holds.Load() && !yield(m, err) {
				return
			}
		}
	}
}
