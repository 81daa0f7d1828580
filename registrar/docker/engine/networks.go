package engine

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Networks completes what an engine says of containers with what it says of their networks:
// of which kind each is. It asks once for each network, since its kind never changes, and
// not for those that every engine has. It is safe for concurrent use.
type Networks struct {
	engine NetworkInspector // nil if it cannot be asked

	mu      sync.Mutex
	known   map[string]Network
	refused time.Time // when it last did not answer, zero if it did
}

// askAgain is how long an engine, or a proxy before it, that did not say what a network is
// is left alone. Without the answer less is found, and nothing wrong.
const askAgain = time.Minute

// maxNetworks bounds what is remembered; the networks of a host come and go.
const maxNetworks = 1024

// NewNetworks returns Networks that ask e, if it has the method Network of a Client.
func NewNetworks(e Engine) *Networks {
	asked, _ := e.(NetworkInspector)
	return &Networks{engine: asked, known: make(map[string]Network)}
}

// Complete returns c with the kinds of its networks, as far as the engine says them. It
// blocks on the engine for as long as ctx and the engine's own timeout allow.
func (n *Networks) Complete(ctx context.Context, c Container) Container {
	if n.engine == nil || len(c.NetworkSettings.Networks) == 0 {
		return c
	}
	completed := make(map[string]Endpoint, len(c.NetworkSettings.Networks))
	for name, e := range c.NetworkSettings.Networks {
		switch name {
		case "bridge", "host", "none":
		default:
			if found, ok := n.of(ctx, name, e.NetworkID); ok {
				e.Driver, e.Internal = found.Driver, found.Internal
			}
		}
		completed[name] = e
	}
	c.NetworkSettings.Networks = completed
	return c
}

// of returns the network of a name and an id, which Podman may leave out.
func (n *Networks) of(ctx context.Context, name, id string) (Network, bool) {
	n.mu.Lock()
	found, known := n.known[id]
	ask := !known && (n.refused.IsZero() || time.Since(n.refused) >= askAgain)
	n.mu.Unlock()
	if !ask {
		return found, known
	}
	found, err := n.engine.Network(ctx, cmp.Or(id, name))
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err == nil:
	case errors.Is(err, driver.ErrNotFound):
		return Network{}, false // it has just gone
	default:
		n.refused = time.Now()
		return Network{}, false
	}
	n.refused = time.Time{}
	if id != "" {
		if len(n.known) >= maxNetworks {
			clear(n.known)
		}
		n.known[id] = found
	}
	return found, true
}

// NetworkInspector is an Engine that knows networks.
type NetworkInspector interface {
	Network(ctx context.Context, id string) (Network, error)
}
