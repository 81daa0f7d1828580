package testserver

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is a way to a server that can be broken. It passes bytes on, and does not
// look at them.
type Proxy struct {
	target   string
	listener net.Listener
	done     sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change of what follows
	cut     bool
	mute    bool
	delay   time.Duration
	passing map[*passage]bool
}

// passage is one connection through the proxy.
type passage struct {
	client, server net.Conn
	lossy          bool // answers were swallowed: it can never go on
}

func (p *passage) close() {
	p.client.Close()
	p.server.Close()
}

// NewProxy starts a proxy to the HOST:PORT target on a port of its own. It ends with
// the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	p := &Proxy{target: target, listener: l, changed: make(chan struct{}), passing: make(map[*passage]bool)}
	p.done.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.Cut()
		p.done.Wait()
	})
	return p
}

// Addr is the HOST:PORT to dial.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut breaks all connections and refuses new ones.
func (p *Proxy) Cut() {
	p.change(func() {
		p.cut = true
		for c := range p.passing {
			c.close()
		}
	})
}

// Mute swallows what the server sends, from now on: requests are carried out and
// nobody hears of it.
func (p *Proxy) Mute() { p.change(func() { p.mute = true }) }

// Delay holds back what the server sends by d. 0 ends it, and lets go what is held.
func (p *Proxy) Delay(d time.Duration) { p.change(func() { p.delay = d }) }

// Restore undoes everything. Connections that have lost something are broken.
func (p *Proxy) Restore() {
	p.change(func() {
		p.cut, p.mute, p.delay = false, false, 0
		for c := range p.passing {
			if c.lossy {
				c.close()
			}
		}
	})
}

func (p *Proxy) change(how func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	how()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.done.Go(func() { p.pass(client) })
	}
}

func (p *Proxy) pass(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	c := &passage{client: client, server: server}
	defer c.close()
	p.mu.Lock()
	if p.cut {
		p.mu.Unlock()
		return
	}
	p.passing[c] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.passing, c)
		p.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() {
		defer c.close()
		io.Copy(server, client)
	})
	p.answers(c)
	c.close()
	both.Wait()
}

// answers passes on what the server sends, as the proxy is told to.
func (p *Proxy) answers(c *passage) {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.server.Read(buf)
		if n > 0 && p.let(c) {
			if _, err := c.client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// let waits as long as answers are delayed and reports whether this one may pass.
func (p *Proxy) let(c *passage) bool {
	read := time.Now()
	for {
		p.mu.Lock()
		if p.mute || c.lossy {
			c.lossy = true
			p.mu.Unlock()
			return false
		}
		wait, cut, changed := p.delay-time.Since(read), p.cut, p.changed
		p.mu.Unlock()
		if wait <= 0 || cut {
			return !cut
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		}
	}
}
