package node

import (
	"context"
	"net"
	"time"

	"github.com/musterhq/muster/registrar/advertise"
)

// SetDial replaces how c's node connects to others.
func (c *Config) SetDial(dial func(ctx context.Context, addr string) (net.Conn, error)) {
	c.dial = dial
}

// SetAddress replaces where c's node looks for its address, and how long another one
// must stay.
func (c *Config) SetAddress(o advertise.Options, grace time.Duration) {
	c.advertise, c.addressGrace = o, grace
}

// SetMute makes c's node one of a version that has no answer for those that ask
// whether they can be reached.
func (c *Config) SetMute() { c.mute = true }

// BoundAddr is what the node listens on.
func (n *Node) BoundAddr() string { return n.link.Addr().String() }

// Kill has the node neither say nor hear anything more. It is still to be left.
func (n *Node) Kill() { n.link.Close() }

// Tell is what the node gives another one when they exchange their states.
func (n *Node) Tell() []byte { return n.tell() }
