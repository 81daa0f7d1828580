package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/clock"
)

// route is one mastership that connections are forwarded to.
type route struct {
	Master
	source Source
	// ctx ends when the mastership is over as far as is known.
	ctx context.Context
	end context.CancelFunc
}

// valid reports whether the mastership is still the one that is known, at this moment.
func (r *route) valid() bool {
	m, ok := r.source.Master()
	return ok && r.same(m) && clock.Now() < clock.Instant(m.Until)
}

// longestWait bounds the wait for the end of a validity: Go's timers stand still while the machine
// is suspended, and the boot clock does not.
const longestWait = time.Second

// follow keeps the route up to date until ctx ends. There is none while no master is known.
func (p *Proxy) follow(ctx context.Context, source Source) {
	changes := make(chan struct{})
	go func() {
		for range source.Changes(ctx) {
			select {
			case changes <- struct{}{}:
			case <-ctx.Done():
			}
		}
	}()
	timer := time.NewTimer(longestWait)
	defer timer.Stop()
	defer p.route.Close()
	var now *route
	defer func() {
		if now != nil {
			now.end()
		}
	}()
	for {
		m, ok := source.Master()
		left := clock.Instant(m.Until).Sub(clock.Now())
		ok = ok && left > 0
		if now != nil && !(ok && now.same(m)) {
			now.end()
			now = nil
			p.route.Store(nil)
		}
		if now == nil && ok {
			now = &route{Master: m, source: source}
			now.ctx, now.end = context.WithCancel(ctx)
			p.route.Store(now)
			p.noteAddress(m)
		}
		wait := longestWait
		if ok {
			wait = min(left, longestWait)
		}
		timer.Reset(max(wait, time.Millisecond))
		select {
		case <-changes:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Proxy) noteAddress(m Master) {
	if m.Addr == "" {
		p.alarms.Raise(noAddress, p.Addr().String(), "master", m.NodeID, "hint", "set node.app_addrs."+p.cfg.App+" on that node")
	} else {
		p.alarms.Clear(noAddress, p.Addr().String())
	}
}

var (
	errNoMaster  = errors.New("no master is known")
	errNoAddress = errors.New("the master has no such application address")
	errLoop      = errors.New("the master's address leads back to a proxy of this agent")
)

// connect dials the application of the master. It waits for a master, and dials again, for the dial
// timeout.
func (p *Proxy) connect(ctx context.Context, own []*Proxy) (*route, *net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	retry := backoff.Backoff{Min: 10 * time.Millisecond, Max: 250 * time.Millisecond}
	failure, refused := errNoMaster, &p.counters.noMaster
	for r := range p.route.Watch(ctx) {
		for r != nil && r.ctx.Err() == nil && ctx.Err() == nil {
			c, err := dial(ctx, r, own)
			if err == nil {
				p.alarms.Clear(noAnswer, p.Addr().String())
				return r, c, nil
			}
			failure, refused = fmt.Errorf("master %s: %w", r.NodeID, err), &p.counters.failed
			if errors.Is(err, errNoAddress) {
				refused = &p.counters.noAddress
			} else if r.ctx.Err() == nil && ctx.Err() == nil {
				p.alarms.Raise(noAnswer, p.Addr().String(), "master", r.NodeID, "addr", r.Addr, "error", err)
			}
			wait, stop := context.WithCancel(ctx)
			unbind := context.AfterFunc(r.ctx, stop)
			_ = retry.Wait(wait)
			unbind()
			stop()
		}
	}
	refused.Add(1)
	return nil, nil, failure
}

// dial connects to the master of a route. What is returned was connected while it was valid.
func dial(ctx context.Context, r *route, own []*Proxy) (*net.TCPConn, error) {
	if r.Addr == "" {
		return nil, errNoAddress
	}
	if !r.valid() {
		return nil, errNoMaster
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", r.Addr)
	if err != nil {
		return nil, err
	}
	t := c.(*net.TCPConn)
	for _, p := range own {
		if p.at(t) {
			reset(t)
			return nil, errLoop
		}
	}
	return t, nil
}

// at reports whether c, which was dialed, is connected to the port of p.
func (p *Proxy) at(c *net.TCPConn) bool {
	port, remote := addrPort(p.Addr()), addrPort(c.RemoteAddr())
	if port.Port() != remote.Port() {
		return false
	}
	own := remote.Addr().IsLoopback() || remote.Addr() == addrPort(c.LocalAddr()).Addr()
	return remote.Addr() == port.Addr() || port.Addr().IsUnspecified() && own
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	addr := t.AddrPort()
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}
