// Package registrar keeps instances registered with a discovery provider.
//
// A [Registrar] is given the desired state, with [Registrar.Set], and works for
// ever to make the provider hold it. All instances of one Registrar hang on one
// session (an etcd lease, a Consul session), so that they vanish together when the
// process dies.
//
//	r := registrar.New(registrar.Config{Registry: registry, TTL: 10 * time.Second})
//	defer r.Stop(context.Background())
//	err := r.Set(instance)
//
// What it promises:
//
//   - It never gives up. A provider that cannot be reached, refuses or has lost its
//     memory is tried again with full jitter, at most 5 s or half a TTL apart, and
//     at once when a watch finds that it answers again.
//   - A session is renewed every third of its TTL, each attempt with a bound of its
//     own, so that one lost answer costs nothing. When the provider says that the
//     session is over, a new one is opened at once and everything registered on it.
//   - Registrations are repaired from both sides. The own services are watched, and
//     an instance that a fresh snapshot lacks, or shows with another value, is put
//     back at once. And all are confirmed on a timer within each TTL, whatever the
//     watch has seen. Someone who deletes or rewrites a registration again and
//     again is answered ever more slowly, up to the same bound.
//   - What is taken out of the desired state is deregistered; what changed is
//     written again. Only what hangs on the own session is ever removed, so that a
//     process that stops never takes away what its successor registered. What
//     others left behind goes by [Registrar.Evict] alone.
//   - [Registrar.Stop] is bounded: a provider that does not answer delays it to the
//     end of its context and no further, and then the registrations end with their
//     TTL.
//   - [Registrar.Status] tells the truth: an instance counts as registered when the
//     provider has confirmed it in its present form and the session has been
//     renewed within its TTL, counted from before the renewal was sent.
//
// What it does not promise: that readers see a registration the moment that it is
// reported here, nor that the provider has dropped one the moment that it expires
// here. Nothing may be decided by the absence of a registration but where to dial.
//
// If the provider publishes nothing, as a static list does, a Registrar does nothing and its
// Status says so.
//
// The address to register is found by package registrar/advertise.
package registrar
