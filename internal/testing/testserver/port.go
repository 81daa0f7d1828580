package testserver

import "github.com/musterhq/muster/internal/testing/loopback"

// freePort returns a port on loopback that nobody listens on now.
func freePort() (int, error) { return loopback.Port() }
