// Package loopback finds ports on 127.0.0.1 for the servers of tests.
//
// The ports lie below those that systems take for outgoing connections (from 32768
// on Linux, 49152 elsewhere). Otherwise another connection could take the port of a
// server between its end and its return.
//
// A port is given to one test alone: a server or a proxy may be away for a while, and listen on
// its port again. Tests of other packages run at the same time, in processes of their own, and
// they are given other ports.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
)

const minPort, maxPort = 15000, 32000

// Listen listens on a port that no other test has. The caller closes the listener, and may
// listen on its port again later.
func Listen() (*net.TCPListener, error) { return ListenOn(net.IPv4(127, 0, 0, 1)) }

// ListenOn is Listen on another address of this host, for networks of a test's own.
func ListenOn(ip net.IP) (*net.TCPListener, error) {
	var last error
	for range 100 {
		port := minPort + rand.IntN(maxPort-minPort)
		if last = reserve(port); last != nil {
			continue
		}
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: port})
		if err == nil {
			return l, nil
		}
		last = err
	}
	return nil, fmt.Errorf("no free port between %d and %d: %w", minPort, maxPort, last)
}

// Port returns a port on which nothing listens now, and which no other test has.
func Port() (int, error) {
	l, err := Listen()
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// signs is the address at which a UDP socket on a port shows other processes that this one has
// the port. Nothing else is there, and nothing is sent.
var signs = net.IPv4(127, 93, 77, 1)

// reserved are the sockets by port. They are open until the process ends.
var reserved struct {
	sync.Mutex
	ports map[int]*net.UDPConn // nil on a system that has no such address
}

// reserve takes a port for this process, and returns an error if a test has it.
func reserve(port int) error {
	reserved.Lock()
	defer reserved.Unlock()
	if _, taken := reserved.ports[port]; taken {
		return fmt.Errorf("port %d: a test of this process has it", port)
	}
	sign, err := net.ListenUDP("udp4", &net.UDPAddr{IP: signs, Port: port})
	if errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	if reserved.ports == nil {
		reserved.ports = make(map[int]*net.UDPConn)
	}
	reserved.ports[port] = sign
	return nil
}
