// Package netlab is a network of hosts on one machine, for tests: each host is a
// network namespace with an address of its own, all are joined by a bridge, and the
// ways between them can be cut, one way or both, silently or with a reset, or lose
// packets at random. Packets of a host that is joined by a cable of this process's own
// can also come late, out of order and twice.
//
//	func TestMain(m *testing.M) { os.Exit(netlab.Main(m)) }
//
//	net := netlab.New(t)
//	a, b := net.Host("a"), net.Host("b")
//	process.Start(process.Config{Netns: a.Netns(), ...})
//	net.Cut(a.IP(), b.IP(), netlab.Drop) // a is not heard by b
//	net.Heal()
//
// It needs Linux, root, and the programs ip and nft; where one is missing the tests
// that ask for a network are skipped and say so; with MUSTER_REQUIRE_NETLAB=1 they fail.
// Cables need /dev/net/tun, too.
//
// [Main] runs the tests in namespaces of their own, of the network and of mounts, with
// nothing of the machine's network in them. Whatever a test makes there, it and its
// processes are gone when the test process is, however that ends: nothing is left
// behind, and no packet leaves. Addresses are of 10.77.0.0/16.
package netlab
