// Package discovery finds the instances of a service through a provider: a list,
// a file, DNS, etcd. It is what programs hold; the provider is chosen by import,
// as with database/sql:
//
//	import _ "github.com/musterhq/muster/providers/etcd"
//
//	r, err := discovery.Open("etcd", map[string]any{"endpoints": "http://127.0.0.1:2379"}, discovery.Options{})
//	...
//	for s := range r.Watch(ctx, discovery.Query{Service: "orders"}) {
//		instances, known := s.Instances()
//		fmt.Println(known, s.Stale, instances)
//	}
//
// A provider's own constructor may be used in its place, with [New], and then no
// global table is involved.
//
// What a [Registry] promises, over any driver:
//
//   - An error is never an empty set, and no set is ever a part of one. While the
//     provider fails, a watch keeps the last good set and says that it is stale
//     and why; before the first success it says that nothing is known.
//   - A set holds each instance once, whole, filtered and sorted. An entry that
//     cannot be read costs none of the others: it is named in Snapshot.Skipped.
//   - A watch loses no change for good. It follows the provider's own watch from
//     the listed revision on, or polls if there is none; it lists again after
//     every break, and on a timer even without one.
//   - Retries have full jitter and end with the context.
//
// Several providers are read as one through a [Union]: one of them that fails makes
// the set stale, and neither smaller nor late.
//
// What it does not promise: that a listed instance is alive, or that two readers
// see the same set at one moment. A caller that dials must bear a dead address. Nothing
// may be concluded from the absence of an instance; who is master is granted by an
// authority, never counted from a set.
//
// An instance recognises itself by its instance id, never by its address; see
// [Snapshot.Others].
package discovery
