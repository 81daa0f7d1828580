package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/musterhq/muster/node/internal/dialback"
	"github.com/musterhq/muster/node/internal/link"
	"github.com/musterhq/muster/registrar/advertise"
)

// Preflight finds out whether a node of a configuration would work on this host, while the
// node itself does not run: whether its port can be listened on, which address it would
// advertise, and which nodes answer at an address. It speaks as a node of its cluster does
// and is no member: it is registered nowhere and joins no one. It needs no registry.
//
// All methods are safe for concurrent use.
type Preflight struct {
	cfg    Config
	self   dialback.Member
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	link *link.Link // nil while no port is open
	own  bool       // it is the port that Config.Bind names
}

// NewPreflight returns the preflight of a node of configuration c. It opens no port yet. The
// caller closes it.
func NewPreflight(c Config) *Preflight {
	if c.Bind == "" {
		c.Bind = DefaultBind
	}
	if c.NodeID == "" {
		c.NodeID, _ = os.Hostname() // Start reports why there is none
	}
	p := &Preflight{cfg: c, self: dialback.Member{NodeID: c.NodeID, InstanceID: newInstanceID()}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Open opens the port that Config.Bind names. If that cannot be listened on, the error says
// why, and Reach and Ask dial from another port of loopback. It is called once.
func (p *Preflight) Open() error {
	l, err := p.listen(p.cfg.Bind)
	own := err == nil
	if !own {
		if l, _ = p.listen("127.0.0.1:0"); l == nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		_ = l.Close()
		return net.ErrClosed
	}
	p.link, p.own = l, own
	server := dialback.Server{
		Network: l,
		Find:    func(string) (dialback.Member, bool) { return dialback.Member{}, false },
	}
	p.wg.Go(func() { _ = server.Run(p.ctx) }) // it ends with Close
	return err
}

// port returns the open port, nil while there is none, and whether it is that of the node.
func (p *Preflight) port() (l *link.Link, own bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link, p.own
}

func (p *Preflight) listen(bind string) (*link.Link, error) {
	c := link.Config{
		Bind: bind, Cluster: p.cfg.Cluster, NodeID: p.self.NodeID, InstanceID: p.self.InstanceID,
		VerifyNodeID: p.cfg.VerifyNodeID,
		Logger:       p.cfg.Logger, Dial: p.cfg.dial,
	}
	if p.cfg.TLS.Enabled() {
		tlsConfig, err := p.cfg.mutual(p.cfg.TLS.Read())
		if err != nil {
			return nil, err
		}
		c.TLS = tlsConfig
	}
	l, err := link.Listen(c)
	if err != nil {
		return nil, fmt.Errorf("node.bind: %w", err)
	}
	return l, nil
}

// Listening reports whether the port that Config.Bind names is open.
func (p *Preflight) Listening() bool {
	_, own := p.port()
	return own
}

// CanDial reports whether Reach and Ask have a port to dial from.
func (p *Preflight) CanDial() bool {
	l, _ := p.port()
	return l != nil
}

// InstanceID is the random id that the preflight answers with.
func (p *Preflight) InstanceID() string { return p.self.InstanceID }

// Bound returns the address that the node would listen on, as its listener would report it:
// that of the open port, or else what Config.Bind resolves to. The error says why there is
// none. It blocks while a name is resolved, until ctx ends.
func (p *Preflight) Bound(ctx context.Context) (netip.AddrPort, error) {
	if l, own := p.port(); own {
		return l.Addr(), nil
	}
	host, port, err := net.SplitHostPort(p.cfg.Bind)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "::" // what a listener on all addresses reports
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil || n == 0 {
		return netip.AddrPort{}, fmt.Errorf("node.bind %s names no port", p.cfg.Bind)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(ips) == 0 {
		return netip.AddrPort{}, fmt.Errorf("node.bind %s does not resolve", p.cfg.Bind)
	}
	return netip.AddrPortFrom(ips[0].Unmap(), uint16(n)), nil
}

// Address finds the address that others would dial if the node listened on bound, which is
// what Bound returns, and says what each step has answered. Its Err says why none was found.
// It blocks as advertise.Resolve does.
func (p *Preflight) Address(ctx context.Context, bound netip.AddrPort) advertise.Explanation {
	return p.cfg.explain(ctx, bound)
}

// Reach dials addr and returns nil if this very preflight answers there. The error says in a
// few words what does. It is bounded by ctx and by a few seconds.
func (p *Preflight) Reach(ctx context.Context, addr string) error {
	peer, err := p.Ask(ctx, addr)
	if err == nil && peer.InstanceID != p.self.InstanceID {
		return fmt.Errorf("node %s answers there, instance %.12s", peer.NodeID, peer.InstanceID)
	}
	return err
}

// Ask dials addr as a node of the cluster does and returns the node that answers. If that node
// rejects us, or we reject it, the error wraps ErrRefused; one that is older than the
// question has no answer, and the error wraps ErrNoAnswer. It is bounded by ctx and by a few
// seconds.
func (p *Preflight) Ask(ctx context.Context, addr string) (Peer, error) {
	l, _ := p.port()
	if l == nil {
		return Peer{}, errors.New("no port is open to dial from")
	}
	m, err := dialback.Who(ctx, l, addr)
	if err == nil {
		return Peer{NodeID: m.NodeID, InstanceID: m.InstanceID}, nil
	}
	var refused *link.RefusedError
	if errors.As(err, &refused) {
		switch refused.Reason {
		case link.ReasonProtocol:
			return Peer{}, ErrNoAnswer
		case link.ReasonBusy, link.ReasonAborted, link.ReasonNoHello, link.ReasonTimeout: // which may pass
		default:
			return Peer{}, fmt.Errorf("%w: %w", ErrRefused, dialback.Cause(err))
		}
	}
	return Peer{}, dialback.Cause(err)
}

// Close closes the port and waits until all has ended. It is idempotent.
func (p *Preflight) Close() {
	p.cancel()
	if l, _ := p.port(); l != nil {
		_ = l.Close() // never fails
	}
	p.wg.Wait()
}
