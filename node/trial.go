package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/musterhq/muster/node/internal/dialback"
	"github.com/musterhq/muster/node/link"
	"github.com/musterhq/muster/registrar/advertise"
)

// Trial is the one port of a node, opened to see whether it would work, while the
// node itself does not run. It speaks as a node of its cluster does, says who it is,
// and is no member: it is registered nowhere and joins nobody.
type Trial struct {
	cfg    Config
	self   dialback.Member
	link   *link.Link
	cancel context.CancelFunc
	done   chan struct{}
}

// Try opens the port that c.Bind names, or another where bind is not empty. It needs
// no registry. The caller closes the trial.
func (c Config) Try(bind string) (*Trial, error) {
	linkConfig := link.Config{Bind: cmp.Or(bind, c.Bind, DefaultBind), Cluster: c.Cluster, Logger: c.Logger, Dial: c.dial}
	if c.TLS.Enabled() {
		tlsConfig, err := c.TLS.MutualConfig()
		if err != nil {
			return nil, err
		}
		linkConfig.TLS = tlsConfig
	}
	l, err := link.Listen(linkConfig)
	if err != nil {
		return nil, fmt.Errorf("node.bind: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &Trial{cfg: c, self: dialback.Member{NodeID: c.NodeID, InstanceID: newInstanceID()}, link: l, cancel: cancel, done: make(chan struct{})}
	server := dialback.Server{
		Self:    t.self,
		Network: l,
		Find:    func(string) (dialback.Member, bool) { return dialback.Member{}, false },
	}
	go func() {
		defer close(t.done)
		_ = server.Run(ctx) // it ends with Close
	}()
	return t, nil
}

// Addr is the address that is listened on, with its real port.
func (t *Trial) Addr() netip.AddrPort { return t.link.Addr() }

// Explain finds the address that others would dial. It blocks as Config.Explain does.
func (t *Trial) Explain(ctx context.Context) advertise.Explanation {
	return t.cfg.Explain(ctx, t.Addr())
}

// Reach dials addr and reports whether this very trial answers there. The error says
// in a few words what does.
func (t *Trial) Reach(ctx context.Context, addr string) error {
	nodeID, instanceID, err := t.Ask(ctx, addr)
	if err == nil && instanceID != t.self.InstanceID {
		return fmt.Errorf("node %s answers there, instance %.12s", nodeID, instanceID)
	}
	return err
}

// Ask dials addr as a node of the cluster does and returns who answers. Where that is
// a node which will not have us, or whom we will not have, the error wraps
// ErrRefused; one that is older than the question has no answer, and the error wraps
// ErrNoAnswer. It is bounded by ctx and by a few seconds.
func (t *Trial) Ask(ctx context.Context, addr string) (nodeID, instanceID string, err error) {
	m, err := dialback.Who(ctx, t.link, addr)
	if err == nil {
		return m.NodeID, m.InstanceID, nil
	}
	var refused *link.RefusedError
	if errors.As(err, &refused) {
		switch refused.Reason {
		case link.ReasonProtocol:
			return "", "", ErrNoAnswer
		case link.ReasonBusy, link.ReasonAborted, link.ReasonNoHello, link.ReasonTimeout: // which may pass
		default:
			return "", "", fmt.Errorf("%w: %s", ErrRefused, dialback.Cause(err))
		}
	}
	return "", "", errors.New(dialback.Cause(err))
}

// Close closes the port and waits until all has ended. It is idempotent.
func (t *Trial) Close() {
	t.cancel()
	_ = t.link.Close() // never fails
	<-t.done
}

// InstanceID is the random id that the trial answers with.
func (t *Trial) InstanceID() string { return t.self.InstanceID }
