// Package format reads and writes the records of other systems, so that services
// that are registered by them are found, and find who registers through Muster:
//
//   - hazelcast: hazelcast-etcd-discovery-spi and hazelcast-consul-discovery-spi
//   - registrator: gliderlabs/registrator and its forks, in etcd and in Consul's
//     key-value store
//   - skydns: SkyDNS 2, CoreDNS with its plugin etcd, and registrator's skydns2
//
// It knows how the records look and nothing of how they are stored: the providers
// put a [KV] on etcd or on Consul's key-value store.
//
// None of these records carries all of an instance. What is written and read back
// has lost its zone, tags, meta, application addresses and version, and further:
//
//	hazelcast    the node id and the instance id; the time of registration stays
//	registrator  the instance id where it is a node's random one; the node id where the id
//	             has not the form of registrator's; and the time
//	skydns       the node id and the time
//
// Other programs write here too, and people. An entry that cannot be dialed is an
// error of Decode, for the provider to name in Snapshot.Skipped; a key or a value
// that is more than it needs to be is none.
package format
