package proxy

import "sync/atomic"

type counters struct {
	accepted, forwarded               atomic.Uint64
	full, noMaster, noAddress, failed atomic.Uint64
	sent, received                    atomic.Uint64
}

// Status is what a proxy does now, and has done since its start. It is a copy.
type Status struct {
	// Addr is the address that it listens on, App the application that it forwards to.
	Addr, App string
	// Master is the one that is forwarded to; nil while there is none.
	Master *Master
	// Connections are those of clients that are open, those that wait for a master among them;
	// Max is how many there may be.
	Connections, Max int
	// Accepted counts the connections of clients, Forwarded those among them that a master's
	// application accepted.
	Accepted, Forwarded uint64
	// Refused counts those that were reset instead, by reason.
	Refused Refused
	// Sent and Received count bytes to the masters and from them.
	Sent, Received uint64
}

// Refused counts connections that were not forwarded, by reason.
type Refused struct {
	// Full: there were too many. NoMaster: none was known within the dial timeout. NoAddress: the
	// master has no such application address. Failed: it could not be dialed.
	Full, NoMaster, NoAddress, Failed uint64
}

// Status returns what is known now. It does not block.
func (p *Proxy) Status() Status {
	c := &p.counters
	s := Status{
		Addr: p.Addr().String(), App: p.cfg.App, Connections: len(p.slots), Max: cap(p.slots),
		Accepted: c.accepted.Load(), Forwarded: c.forwarded.Load(),
		Refused: Refused{Full: c.full.Load(), NoMaster: c.noMaster.Load(), NoAddress: c.noAddress.Load(), Failed: c.failed.Load()},
		Sent:    c.sent.Load(), Received: c.received.Load(),
	}
	if r, _ := p.route.Load(); r != nil {
		m := r.Master
		s.Master = &m
	}
	return s
}
