package testserver

import (
	"cmp"
	"fmt"

	"github.com/musterhq/muster/internal/testing/process"
)

// Place is a host of its own for a server. The zero Place is 127.0.0.1, in the network
// of the test.
type Place struct {
	// IP is the address that the server listens on and is dialled at.
	IP string
	// Netns is the path of the network namespace that has it.
	Netns string
}

func (p Place) ip() string { return cmp.Or(p.IP, "127.0.0.1") }

func (p Place) addr(port int) string { return fmt.Sprintf("%s:%d", p.ip(), port) }

func (p Place) command(log, program string, args []string) process.Config {
	return process.Config{Program: program, Args: args, Log: log, Netns: p.Netns}
}
