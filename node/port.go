package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/node/internal/link"
)

// Conn is a connection between two nodes over the one port, or of a node to itself. Its ends may
// use deadlines, and each knows the other.
type Conn interface {
	net.Conn
	// Peer returns the node at the other end.
	Peer() Peer
	// CloseWrite ends what this end sends, or returns errors.ErrUnsupported on a connection of a
	// node to itself.
	CloseWrite() error
}

// Peer is the node at the other end of a connection. Without TLS an end may say that it is any
// node; with Config.VerifyNodeID its certificate names NodeID.
type Peer struct {
	NodeID, InstanceID string
	// Addr is the HOST:PORT that it advertises. It is empty while it has none, or where only the
	// ids were asked for.
	Addr string
}

// PeerOf returns the node at the other end of c, which Node.Dial or a listener of Node.Listen has
// returned. It is zero for any other connection.
func PeerOf(c net.Conn) Peer {
	if known, ok := c.(interface{ Peer() Peer }); ok {
		return known.Peer()
	}
	return Peer{}
}

// appPrefix keeps the protocols of applications apart from those of Muster itself.
const appPrefix = "app."

// MaxProtocol bounds the name of a protocol of an application, in bytes.
const MaxProtocol = link.MaxProtocol - len(appPrefix)

// backlog bounds the connections of a node to itself that wait for an Accept.
const backlog = 128

// Listen returns the listener of an application's protocol at the one port of this node. Its
// connections come from members of this cluster, with the TLS of the nodes, and are each a Conn.
// The name has from 1 to MaxProtocol bytes of a-z, 0-9, '.', '_' and '-'; names that begin with
// "muster" are for services of this module. Two listeners with one name cannot be open at the same
// time. At most 128 connections wait for an Accept; further ones are rejected as busy.
//
// The caller closes the listener, and each connection. The node closes them when it ends, and
// Accept then returns net.ErrClosed.
func (n *Node) Listen(name string) (net.Listener, error) {
	if err := checkProtocol(name); err != nil {
		return nil, err
	}
	ln := &listener{port: &n.port, name: name, queue: make(chan *conn, backlog), accepted: make(chan *conn), done: make(chan struct{})}
	n.port.mu.Lock()
	defer n.port.mu.Unlock()
	switch {
	case n.port.closed:
		return nil, fmt.Errorf("node: listen for %q: %w", name, ErrStopped)
	case n.port.listeners[name] != nil:
		return nil, fmt.Errorf("node: listen for %q: %w: there is a listener already; close it first", name, driver.ErrConflict)
	}
	var err error
	if ln.remote, err = n.link.Listen(appPrefix + name); err != nil {
		return nil, fmt.Errorf("node: listen for %q: %w", name, err)
	}
	if n.port.listeners == nil {
		n.port.listeners = make(map[string]*listener)
	}
	n.port.listeners[name] = ln
	n.wg.Go(ln.pump)
	return ln, nil
}

func checkProtocol(name string) error {
	bad := len(name) == 0 || len(name) > MaxProtocol
	for _, c := range []byte(name) {
		bad = bad || !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if bad {
		return fmt.Errorf("node: %w: protocol %.40q: want from 1 to %d bytes of a-z, 0-9, '.', '_' and '-'", driver.ErrInvalid, name, MaxProtocol)
	}
	return nil
}

// Dial connects to the listener of an application's protocol at a member, and returns when that
// has accepted: after one round trip, and those of TCP and TLS. ctx bounds the dial; without a
// deadline it takes 3 s at most. The connection is a Conn, which the caller closes. It is closed
// at once if the member departs.
//
// Dial means the instance that m names: if another process answers at its address, or m is known
// to have left, the error is ErrLeft. It is ErrNoListener if the member has no listener for name,
// ErrBusy if too many connections wait there, ErrRefused for any other reason to reject one of the
// ends, and ErrStopped if this node has ended. A connection to this node itself stays in memory:
// as one of net.Pipe, it has no buffer.
func (n *Node) Dial(ctx context.Context, name string, m Member) (net.Conn, error) {
	if err := checkProtocol(name); err != nil {
		return nil, err
	}
	c, err := n.dialMember(ctx, name, m)
	if err != nil {
		return nil, fmt.Errorf("node: dial %q at %s: %w", name, m.NodeID, err)
	}
	return c, nil
}

func (n *Node) dialMember(ctx context.Context, name string, m Member) (net.Conn, error) {
	switch {
	case n.ctx.Err() != nil:
		return nil, ErrStopped
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case m.InstanceID == n.instanceID:
		return n.port.dial(name, Peer{n.cfg.NodeID, n.instanceID, n.Addr()})
	case m.Addr == "" || m.InstanceID == "":
		return nil, fmt.Errorf("%w: member without an address or an instance id; take one of a View", driver.ErrInvalid)
	}
	if n.hasLeft(m) {
		return nil, ErrLeft
	}
	bound, cancel := within.Both(ctx, n.ctx)
	defer cancel()
	c, err := n.link.DialInstance(bound, appPrefix+name, m.Addr, m.InstanceID)
	if err == nil && n.hasLeft(m) { // it was about to, and what closes its connections may have run
		c.Close()
		return nil, ErrLeft
	}
	if err == nil {
		return &conn{Conn: c, peer: peerOf(c)}, nil
	}
	if n.ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return nil, n.dialError(m, err)
}

// hasLeft reports whether this node knows that m has left.
func (n *Node) hasLeft(m Member) bool {
	return slices.ContainsFunc(n.View().Departed, func(gone Member) bool {
		return gone.InstanceID == m.InstanceID && gone.State == StateLeft
	})
}

// dialError adds to err what it means.
func (n *Node) dialError(m Member, err error) error {
	var refused *link.RefusedError
	if !errors.As(err, &refused) {
		if n.hasLeft(m) {
			return fmt.Errorf("%w: %w", ErrLeft, err)
		}
		return err
	}
	switch refused.Reason {
	case link.ReasonInstance:
		return err // which is ErrLeft
	case link.ReasonProtocol:
		return fmt.Errorf("%w: %w", ErrNoListener, err)
	case link.ReasonBusy:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

// conn is a Conn.
type conn struct {
	net.Conn
	peer  Peer
	ended func() // may be nil
}

func (c *conn) Peer() Peer { return c.peer }

func (c *conn) Close() error {
	if c.ended != nil {
		c.ended()
	}
	return c.Conn.Close()
}

func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

func peerOf(c net.Conn) Peer {
	p := link.PeerOf(c)
	peer := Peer{NodeID: p.NodeID, InstanceID: p.InstanceID}
	if p.Addr.IsValid() {
		peer.Addr = p.Addr.String()
	}
	return peer
}

// port has the listeners of applications, and the connections of the node to itself.
type port struct {
	mu        sync.Mutex
	closed    bool
	listeners map[string]*listener
	own       map[*conn]struct{}
}

// dial connects the node, which is self, to itself.
func (p *port) dial(name string, self Peer) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ln := p.listeners[name]
	switch {
	case p.closed:
		return nil, ErrStopped
	case ln == nil:
		return nil, ErrNoListener
	case len(ln.queue) == cap(ln.queue): // and only who holds the lock adds to it
		return nil, ErrBusy
	}
	near, far := net.Pipe()
	ends := [2]*conn{{Conn: near, peer: self}, {Conn: far, peer: self}}
	for _, c := range ends {
		c.ended = func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.own, c)
		}
		if p.own == nil {
			p.own = make(map[*conn]struct{})
		}
		p.own[c] = struct{}{}
	}
	ln.queue <- ends[1]
	return ends[0], nil
}

// close closes the listeners, and the connections of the node to itself.
func (p *port) close() {
	p.mu.Lock()
	p.closed = true
	var listeners []*listener
	for _, ln := range p.listeners {
		listeners = append(listeners, ln)
	}
	var own []*conn
	for c := range p.own {
		own = append(own, c)
	}
	p.mu.Unlock()
	for _, ln := range listeners {
		ln.Close()
	}
	for _, c := range own {
		c.Close()
	}
}

// listener accepts what others and this node itself have dialed.
type listener struct {
	port   *port
	name   string
	remote net.Listener
	queue  chan *conn // of this node itself
	done   chan struct{}

	accepted chan *conn
	close    sync.Once
}

// pump takes what others have dialed from the link, where it waits for its turn.
func (ln *listener) pump() {
	for {
		c, err := ln.remote.Accept()
		if err != nil {
			ln.Close()
			return
		}
		select {
		case ln.accepted <- &conn{Conn: c, peer: peerOf(c)}:
		case <-ln.done:
			c.Close()
			return
		}
	}
}

func (ln *listener) Accept() (net.Conn, error) {
	select {
	case <-ln.done:
	default:
		select {
		case c := <-ln.accepted:
			return c, nil
		case c := <-ln.queue:
			return c, nil
		case <-ln.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "muster/" + ln.name, Addr: ln.Addr(), Err: net.ErrClosed}
}

// Close ends the listener and closes what was not accepted. Accepted connections stay open.
func (ln *listener) Close() error {
	ln.close.Do(func() {
		ln.port.mu.Lock()
		if ln.port.listeners[ln.name] == ln {
			delete(ln.port.listeners, ln.name)
		}
		close(ln.done)
		ln.port.mu.Unlock()
		ln.remote.Close()
		for {
			select {
			case c := <-ln.queue:
				c.Close()
				continue
			default:
			}
			return
		}
	})
	return nil
}

// Addr returns the TCP address of the one port.
func (ln *listener) Addr() net.Addr { return ln.remote.Addr() }
