// Package fabric joins the nodes of a test over real TCP on loopback, and can cut
// and delay what goes from one to another. Bytes that meet a cut wait, as they do
// in TCP, and go on when it is healed.
package fabric

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

// Fabric is the rules between nodes, which are named by their addresses.
type Fabric struct {
	mu    sync.Mutex
	cut   map[[2]string]bool
	delay map[[2]string]time.Duration
	moved chan struct{} // closed when a rule changed
}

// New returns a fabric that lets everything through.
func New() *Fabric {
	return &Fabric{
		cut:   make(map[[2]string]bool),
		delay: make(map[[2]string]time.Duration),
		moved: make(chan struct{}),
	}
}

func (f *Fabric) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	close(f.moved)
	f.moved = make(chan struct{})
}

// Cut stops what goes from each of a to each of b, and back if both.
func (f *Fabric) Cut(a, b []string, both bool) {
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
func (f *Fabric) Heal() {
	f.change(func() { clear(f.cut); clear(f.delay) })
}

// Slow delays what goes from one node to another by d.
func (f *Fabric) Slow(from, to string, d time.Duration) {
	f.change(func() { f.delay[[2]string{from, to}] = d })
}

func (f *Fabric) rule(from, to string) (cut bool, delay time.Duration, moved chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := [2]string{from, to}
	return f.cut[k], f.delay[k], f.moved
}

// Node is one end of the fabric. It implements driver.Network.
type Node struct {
	fabric   *Fabric
	listener net.Listener
	addr     string
	wg       sync.WaitGroup
	done     chan struct{}

	mu     sync.Mutex
	protos map[string]*protoListener
	conns  map[net.Conn]bool
}

// Node returns a node that listens at addr, which may have port 0. Close it.
func (f *Fabric) Node(t testing.TB, addr string) *Node {
	t.Helper()
	var l net.Listener
	var err error
	for range 100 {
		if l, err = net.Listen("tcp", addr); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{
		fabric: f, listener: l, addr: l.Addr().String(), done: make(chan struct{}),
		protos: make(map[string]*protoListener), conns: make(map[net.Conn]bool),
	}
	n.wg.Go(n.serve)
	return n
}

func (n *Node) serve() {
	for {
		conn, err := n.listener.Accept()
		if err != nil {
			return
		}
		if !n.track(conn) {
			return
		}
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
}

// Addr is where the node listens.
func (n *Node) Addr() string { return n.addr }

func (n *Node) track(conn net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil {
		conn.Close()
		return false
	}
	n.conns[conn] = true
	return true
}

// Close ends the node and every connection of it.
func (n *Node) Close() {
	n.mu.Lock()
	conns := n.conns
	n.conns = nil
	n.mu.Unlock()
	close(n.done)
	n.listener.Close()
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
		out, _, moved := n.fabric.rule(n.addr, addr)
		back, _, _ := n.fabric.rule(addr, n.addr)
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
	if !n.track(far) || !n.track(inner) {
		far.Close()
		inner.Close()
		return nil, net.ErrClosed
	}
	end := func() { far.Close(); inner.Close() }
	n.pump(n.addr, addr, inner, far, end)
	n.pump(addr, n.addr, far, inner, end)
	return near, nil
}

type chunk struct {
	at time.Time
	b  []byte
}

// pump carries bytes from one side to the other under the rules of the fabric.
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
				cut, delay, moved := n.fabric.rule(from, to)
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

func (p *protoListener) Addr() net.Addr { return p.node.listener.Addr() }
