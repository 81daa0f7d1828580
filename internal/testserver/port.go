package testserver

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// The ports that are handed out lie below those that systems take for outgoing
// connections (from 32768 on Linux, 49152 elsewhere). Otherwise another
// connection could take the port of a server between its kill and its restart.
const minPort, maxPort = 15000, 32000

// freePort returns a port on loopback that nobody listens on now.
func freePort() (int, error) {
	var last error
	for range 100 {
		port := minPort + rand.IntN(maxPort-minPort)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			last = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port between %d and %d: %w", minPort, maxPort, last)
}
