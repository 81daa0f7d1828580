// Package testnet joins the nodes of a test over real TCP on loopback, and can cut
// and delay what goes from one to another. Bytes that meet a cut wait, as they do
// in TCP, and go on when it is healed.
package testnet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Net is the rules between nodes, which are named by their addresses.
type Net struct {
	mu    sync.Mutex
	cut   map[[2]string]bool
	delay map[[2]string]time.Duration
	moved chan struct{} // closed when a rule changed
}

// New returns a network that lets everything through.
func New() *Net {
	return &Net{
		cut:   make(map[[2]string]bool),
		delay: make(map[[2]string]time.Duration),
		moved: make(chan struct{}),
	}
}

func (f *Net) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	close(f.moved)
	f.moved = make(chan struct{})
}

// Cut stops what goes from each of a to each of b, and back if both.
func (f *Net) Cut(a, b []string, both bool) {
	f.change(func() {
		for _, x := range a {
			for _, y := range b {
				f.cut[[2]string{x, y}] = true
				if both {
					f.cut[[2]string{y, x}] = true
				}
			}
		}
	})
}

// Heal lets everything through again, at once.
func (f *Net) Heal() {
	f.change(func() { clear(f.cut); clear(f.delay) })
}

// Slow delays what goes from one node to another by d.
func (f *Net) Slow(from, to string, d time.Duration) {
	f.change(func() { f.delay[[2]string{from, to}] = d })
}

func (f *Net) rule(from, to string) (cut bool, delay time.Duration, moved chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := [2]string{from, to}
	return f.cut[k], f.delay[k], f.moved
}

// Port is an address at which one node after another may live. It is bound for as long as
// the test runs, so that nothing else has it while no node does; a dial to it then is cut
// off at once.
type Port struct {
	net      *Net
	listener net.Listener

	mu   sync.Mutex
	node *Node
}

// Port returns a new port on loopback.
func (f *Net) Port(t testing.TB) *Port {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return f.On(t, l)
}

// On makes a port of l, which it owns from here on.
func (f *Net) On(t testing.TB, l net.Listener) *Port {
	p := &Port{net: f, listener: l}
	done := make(chan struct{})
	go func() { defer close(done); p.serve() }()
	t.Cleanup(func() { l.Close(); <-done })
	return p
}

// Addr is where the node of the port is dialled.
func (p *Port) Addr() string { return p.listener.Addr().String() }

func (p *Port) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		n := p.node
		p.mu.Unlock()
		if n == nil {
			conn.Close()
			continue
		}
		n.accept(conn)
	}
}

// Node returns a node that lives at the port. Close it before there is another.
func (p *Port) Node() *Node {
	n := &Node{
		net: p.net, port: p, addr: p.Addr(), done: make(chan struct{}),
		protos: make(map[string]*protoListener), conns: make(map[net.Conn]bool),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node = n
	return n
}

// Node is one end of the network. It implements driver.Network.
type Node struct {
	net  *Net
	port *Port
	addr string
	wg   sync.WaitGroup
	done chan struct{}

	mu     sync.Mutex
	protos map[string]*protoListener
	conns  map[net.Conn]bool
}

// Node returns a node that lives at a port of its own. Close it.
func (f *Net) Node(t testing.TB) *Node {
	t.Helper()
	return f.Port(t).Node()
}

func (n *Node) accept(conn net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil {
		conn.Close()
		return
	}
	n.conns[conn] = true
	n.wg.Go(func() {
		r := bufio.NewReader(conn)
		line, err := r.ReadString('\n')
		n.mu.Lock()
		p := n.protos[strings.TrimSpace(line)]
		n.mu.Unlock()
		if err != nil || p == nil {
			conn.Close()
			return
		}
		select {
		case p.conns <- &readerConn{conn, r}:
		case <-p.done:
			conn.Close()
		case <-n.done:
			conn.Close()
		}
	})
}

// Addr is where the node listens.
func (n *Node) Addr() string { return n.addr }

// Close ends the node and every connection of it.
func (n *Node) Close() {
	n.port.mu.Lock()
	if n.port.node == n {
		n.port.node = nil
	}
	n.port.mu.Unlock()
	n.mu.Lock()
	conns := n.conns
	n.conns = nil
	n.mu.Unlock()
	close(n.done)
	for c := range conns {
		c.Close()
	}
	n.wg.Wait()
}

// Listen implements driver.Network.
func (n *Node) Listen(protocol string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.protos[protocol] != nil {
		return nil, fmt.Errorf("protocol %s is taken", protocol)
	}
	p := &protoListener{node: n, name: protocol, conns: make(chan net.Conn), done: make(chan struct{})}
	n.protos[protocol] = p
	return p, nil
}

// Dial implements driver.Network.
func (n *Node) Dial(ctx context.Context, protocol, addr string) (net.Conn, error) {
	for { // a SYN into a cut is lost and sent again
		out, _, moved := n.net.rule(n.addr, addr)
		back, _, _ := n.net.rule(addr, n.addr)
		if !out && !back {
			break
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-n.done:
			return nil, net.ErrClosed
		}
	}
	var d net.Dialer
	far, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(far, protocol+"\n"); err != nil {
		far.Close()
		return nil, err
	}
	near, inner := net.Pipe()
	end := func() { far.Close(); inner.Close() }
	// Close waits for what was started before it, and nothing is started after it.
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil {
		end()
		return nil, net.ErrClosed
	}
	n.conns[far], n.conns[inner] = true, true
	n.pump(n.addr, addr, inner, far, end)
	n.pump(addr, n.addr, far, inner, end)
	return near, nil
}

type chunk struct {
	at time.Time
	b  []byte
}

// pump carries bytes from one side to the other under the rules of the network.
func (n *Node) pump(from, to string, src, dst net.Conn, end func()) {
	queue := make(chan chunk, 4096)
	n.wg.Go(func() {
		defer close(queue)
		for {
			b := make([]byte, 32<<10)
			k, err := src.Read(b)
			if k > 0 {
				select {
				case queue <- chunk{time.Now(), b[:k]}:
				case <-n.done:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	n.wg.Go(func() {
		defer end()
		for c := range queue {
			for {
				cut, delay, moved := n.net.rule(from, to)
				left := time.Until(c.at.Add(delay))
				if !cut && left <= 0 {
					break
				}
				if cut {
					left = time.Hour
				}
				timer := time.NewTimer(left)
				select {
				case <-timer.C:
				case <-moved:
				case <-n.done:
					timer.Stop()
					return
				}
				timer.Stop()
			}
			if _, err := dst.Write(c.b); err != nil {
				return
			}
		}
	})
}

type readerConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *readerConn) Read(p []byte) (int, error) { return c.r.Read(p) }

type protoListener struct {
	node  *Node
	name  string
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *protoListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
	case <-p.node.done:
	}
	return nil, net.ErrClosed
}

func (p *protoListener) Close() error {
	p.once.Do(func() {
		close(p.done)
		p.node.mu.Lock()
		delete(p.node.protos, p.name)
		p.node.mu.Unlock()
	})
	return nil
}

func (p *protoListener) Addr() net.Addr { return p.node.port.listener.Addr() }
