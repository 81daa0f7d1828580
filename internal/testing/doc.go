// Package testing holds nothing itself: below it is the machinery of the module's tests.
// Nothing but tests imports it.
//
//	alarmlog      the alarms of a log that were raised and not cleared
//	bench         what nodes cost, in clusters of several processes
//	checker       reads what the nodes of a cluster recorded, and reports the broken promises
//	fakeengine    a container engine in the test's process
//	faultproxy    a proxy between a client and a server that breaks what passes
//	faults        the catalogue of faults, on clusters of processes on hosts of their own
//	formattest    tests of drivers that write the records of other systems
//	images        programs that tests run in containers
//	loopback      ports on 127.0.0.1 that no other test takes
//	netlab        a network of hosts on one machine
//	process       programs that end with the test
//	providertest  tests of providers over real servers
//	race          whether a test runs with the race detector
//	registrylab   clusters in one process whose registry fails, over each provider
//	routestest    tests of an HTTP API against its promises and its page
//	snapshot      the instances of a snapshot, known or not
//	testdocker    containers of a real engine
//	testnet       a network between nodes in one process, over loopback
//	testserver    real servers: etcd and Consul, built from source
//	typecheck     whether all compiles for other systems, without compiling
//	wait          how tests wait: for a condition, with a deadline
//
// The suites for users' tests are public: discovery/discoverytest and node/nodetest.
package testing
