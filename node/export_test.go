package node

import (
	"context"
	"net"
)

// SetDial replaces how c's node connects to others.
func (c *Config) SetDial(dial func(ctx context.Context, addr string) (net.Conn, error)) {
	c.dial = dial
}
