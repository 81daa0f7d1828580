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

// SetPatient makes c's node wait for half a minute before a member that does not answer counts
// as failed: for tests in which all answer, if late where the machine has a lot else to do.
func (c *Config) SetPatient() { c.suspicionMult = 60 }

// BoundAddr is what the node listens on.
func (n *Node) BoundAddr() string { return n.link.Addr().String() }

// Kill has the node neither say nor hear anything more. It is still to be left.
func (n *Node) Kill() { n.link.Close() }

// Tell is what the node gives another one when they exchange their states.
func (n *Node) Tell() []byte { return n.localState() }

// ForgetReady has the node forget that it was found ready, until it is again.
func (n *Node) ForgetReady() { n.wasReady.Store(false) }

// WasReady reports whether the node was found ready since.
func (n *Node) WasReady() bool { return n.wasReady.Load() }

// Prompt has the node read the records that it watches.
func (n *Node) Prompt() { n.store.prompts.hear() }

// RecordsAt returns which provider has the records, as far as the node knows.
func (n *Node) RecordsAt() string { return n.store.records.At(context.Background()) }

// FloodViews hands so many views to those that read all of them.
func (n *Node) FloodViews(count int) {
	for range count {
		n.readers.put(View{})
	}
}
