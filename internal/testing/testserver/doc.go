// Package testserver runs real servers for the tests of Muster.
//
// A server is built from source by a nested module below tools/ the first time
// that a test on this machine wants it, and kept in the user's cache; that takes a
// minute or two. Each one started has ports and data of its own, can be killed,
// paused, stopped, wiped and restarted at the same address, and dies with the test
// process, however that ends.
//
//	etcd := testserver.StartEtcd(t)
//	etcd.Kill()    // as by kill -9
//	etcd.Restart() // same port, same data
//
// A [Proxy] between a client and a server breaks the way between them.
//
// The functions end the test where they fail.
package testserver
