// Package loopback finds ports on 127.0.0.1 for the servers of tests.
//
// The ports lie below those that systems take for outgoing connections (from 32768
// on Linux, 49152 elsewhere). Otherwise another connection could take the port of a
// server between its end and its return.
package loopback

import (
	"fmt"
	"math/rand/v2"
	"net"
)

const minPort, maxPort = 15000, 32000

// Listen listens on a port that nobody else listens on. The caller closes the
// listener, and may listen on its port again later.
func Listen() (*net.TCPListener, error) { return ListenOn(net.IPv4(127, 0, 0, 1)) }

// ListenOn is Listen on another address of this host, for networks of a test's own.
func ListenOn(ip net.IP) (*net.TCPListener, error) {
	var last error
	for range 100 {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: minPort + rand.IntN(maxPort-minPort)})
		if err == nil {
			return l, nil
		}
		last = err
	}
	return nil, fmt.Errorf("no free port between %d and %d: %w", minPort, maxPort, last)
}

// Port returns a port that nobody listens on now.
func Port() (int, error) {
	l, err := Listen()
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
