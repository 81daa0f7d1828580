package discoverytest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

func listClauses() []clause {
	return []clause{
		{"list/empty", "the set of a service of which nothing is registered is empty, and that is no error", listEmpty},
		{"list/whole_instance", "every field of an instance comes back as it was registered", listWholeInstance},
		{"list/many", "a driver never returns part of a set, however large", listMany},
		{"list/error_is_not_empty", "if the set could not be read whole, List returns an error; an error is never an empty set", listError},
		{"list/cancelled", "every method honours its context: a call whose context was cancelled returns promptly with the context's error", listCancelled},
		{"list/slow", "every method honours its context: a call whose answer is slow returns when its deadline passes, and a later one gets the whole set", listSlow},
		{"list/malformed_neighbour", "an unreadable entry is skipped and named in Snapshot.Skipped, and costs none of its neighbours", listMalformed},
		{"list/duplicates", "an instance that was published twice is one instance", listDuplicates},
		{"list/same_node", "instances with one NodeID and different InstanceIDs are different instances", listSameNode},
		{"list/prefix", "List returns the instances whose Service is q.Service, and none of a service whose name starts alike", listPrefix},
		{"list/revision_rises", "Snapshot.Revision rises with each change, if the provider has revisions", listRevision},
		{"list/services", "Services names every service of which anything is registered, as List takes the name, and each once", listServices},
		{"list/repeatable", "List has no effect, and its result does not depend on what was read before: two Lists of what has not changed are equal, and so is that of a client that reads first", listRepeatable},
		{"list/no_effect", "List, Services and Watch have no effect: what the provider keeps is the same after them, also what cannot be read and what sessions that have ended left behind", listNoEffect},
		{"list/closed", "Close is idempotent, and calls made after it fail with ErrClosed, which no retry helps", listClosed},
	}
}

func listEmpty(k *check) {
	d := k.open()
	var want []driver.Instance
	if _, ok := d.(driver.Registrar); !ok && k.Seed != nil {
		want = k.Seed(k, service, nil)
		d = k.open()
	}
	s, err := d.List(k.ctx(), driver.Query{Service: service})
	if err != nil {
		k.broken("List returned the error %v", err)
	}
	if diff := diffSets(want, s.Instances); diff != "" {
		k.broken("%s", diff)
	}
	if len(s.Skipped) > 0 {
		k.broken("Skipped names %v", s.Skipped)
	}
}

func listWholeInstance(k *check) {
	full := driver.Instance{
		Service:      service,
		NodeID:       "node-ä",
		InstanceID:   "0123456789abcdef0123456789abcdef",
		Addr:         "[2001:db8::1]:7946",
		Zone:         "eu-1",
		Tags:         []string{"web", "blue green", "ünï"},
		Meta:         map[string]string{"version": "1.4", "Upper.Case/Key": "a=b,c \"d\"\n<e>", "empty": ""},
		AppAddrs:     map[string]string{"http": "10.0.0.5:8080", "grpc": "[2001:db8::1]:9090"},
		Version:      "v1.2.3-rc.1+build",
		RegisteredAt: time.Date(2024, 2, 29, 23, 59, 59, 0, time.UTC),
	}
	bare := driver.Instance{Service: service, Addr: "db.example.com:7946"}
	named := driver.Instance{Service: service, InstanceID: "fedcba9876543210", Addr: "10.0.0.6:7946"}
	d, want := k.place(full, bare, named)
	k.eventually(d, service, "three instances were published", want...)
}

func listMany(k *check) {
	const n = 300
	many := make([]driver.Instance, n)
	for i := range many {
		many[i] = instance(service, i)
	}
	d, want := k.place(many...)
	k.eventually(d, service, "300 instances were published", want...)
}

func listError(k *check) {
	k.needs("Stop and Start", k.Stop != nil)
	d, want := k.place(instance(service, 0), instance(service, 1))
	k.eventually(d, service, "two instances were published", want...)
	k.Stop(k)
	ctx, cancel := context.WithTimeout(k.Context(), prompt)
	defer cancel()
	s, err := d.List(ctx, driver.Query{Service: service})
	k.Start(k)
	switch {
	case err == nil:
		k.broken("with the provider stopped, List returned %d instances of 2 and no error", len(s.Instances))
	case len(s.Instances) > 0:
		k.broken("with the provider stopped, List returned an error and %d instances with it", len(s.Instances))
	case !driver.Retryable(err):
		k.broken("with the provider stopped, List returned %q, which says that no retry helps", err)
	}
	// What is to be seen now depends on whether the sessions have expired; but
	// an answer there must be.
	k.list(d, service)
}

func listCancelled(k *check) {
	d, _ := k.place(instance(service, 0))
	ctx, cancel := context.WithCancel(k.Context())
	cancel()
	start := time.Now()
	_, err := d.List(ctx, driver.Query{Service: service})
	if !errors.Is(err, context.Canceled) {
		k.broken("List returned the error %v, which is not context.Canceled", err)
	}
	if r, ok := d.(driver.Registrar); ok {
		if _, err := r.OpenSession(ctx, driver.SessionOptions{TTL: k.SessionTTL}); !errors.Is(err, context.Canceled) {
			k.broken("OpenSession returned the error %v, which is not context.Canceled", err)
		}
	}
	if took := time.Since(start); took > prompt {
		k.broken("it took %v", took)
	}
}

func listSlow(k *check) {
	k.needs("Delay", k.Delay != nil)
	d, want := k.place(instance(service, 0), instance(service, 1))
	k.eventually(d, service, "two instances were published", want...)
	k.Delay(k, 2*prompt)
	ctx, cancel := context.WithTimeout(k.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	s, err := d.List(ctx, driver.Query{Service: service})
	took := time.Since(start)
	k.Delay(k, 0)
	switch {
	case err == nil:
		k.broken("List returned %d instances, long after its deadline or without asking", len(s.Instances))
	case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, driver.ErrUnavailable):
		k.broken("List returned %q, which is neither the context's error nor driver.ErrUnavailable", err)
	case took > prompt:
		k.broken("List returned %v after it was called with a deadline of 200 ms", took)
	}
	k.eventually(d, service, "the answers came in time again", want...)
}

func listMalformed(k *check) {
	k.needs("AddGarbage", k.AddGarbage != nil)
	d, want := k.place(instance(service, 0), instance(service, 1))
	k.AddGarbage(k, service)
	deadline := time.Now().Add(k.Patience)
	for {
		s := k.list(d, service)
		diff := diffSets(want, s.Instances)
		if diff == "" && len(s.Skipped) > 0 {
			for _, skipped := range s.Skipped {
				if skipped.Key == "" || skipped.Reason == nil {
					k.broken("Skipped holds %+v, which lacks a key or a reason", skipped)
				}
			}
			break
		}
		if time.Now().After(deadline) {
			if diff != "" {
				k.broken("beside one unreadable entry: %s", diff)
			}
			k.broken("Skipped does not name the unreadable entry")
		}
		k.sleep(pollEvery)
	}
}

func listDuplicates(k *check) {
	i := instance(service, 0)
	probe := k.open()
	if _, ok := probe.(driver.Registrar); ok {
		k.register(k.liveSession(probe), i, i)
		k.register(k.liveSession(k.open()), i)
		k.eventually(k.open(), service, "one instance was registered three times, on two sessions", i)
		return
	}
	k.needs("Seed, and the driver is no driver.Registrar", k.Seed != nil)
	shown := k.Seed(k, service, []driver.Instance{i, i})
	// A driver may leave duplicates to package discovery.
	r := discovery.New("suite", k.Open(k), discovery.Options{})
	k.Cleanup(func() { r.Close() })
	s, err := r.List(k.ctx(), driver.Query{Service: service})
	if err != nil {
		k.Fatal(err)
	}
	instances, _ := s.Instances()
	if diff := diffSets(shown[:1], instances); diff != "" {
		k.broken("%s", diff)
	}
}

func listSameNode(k *check) {
	a, b := instance(service, 0), instance(service, 1)
	b.NodeID = a.NodeID
	d, want := k.place(a, b)
	k.eventually(d, service, "two instances of one node were published", want...)
}

func listPrefix(k *check) {
	d := k.open()
	s := k.liveSession(d)
	names := []string{"foo", "foobar", "foo/bar", "fo"}
	for n, name := range names {
		k.register(s, instance(name, n))
	}
	for n, name := range names {
		k.eventually(d, name, "services foo, foobar, foo/bar and fo got an instance each", instance(name, n))
	}
	k.must("Deregister", func(ctx context.Context) error { return s.Deregister(ctx, instance("foo", 0)) })
	k.eventually(d, "foo", "its only instance was deregistered")
	for n, name := range names[1:] {
		k.eventually(d, name, "the instance of foo was deregistered", instance(name, n+1))
	}
}

func listRevision(k *check) {
	d := k.open()
	s := k.liveSession(d)
	var last driver.Revision
	for n := range 5 {
		k.register(s, instance(service, n))
		var want []driver.Instance
		for m := range n + 1 {
			want = append(want, instance(service, m))
		}
		k.eventually(d, service, "one more instance was registered", want...)
		now := k.list(d, service).Revision
		if n > 0 && last != 0 && now <= last {
			k.broken("revision %d follows %d although an instance was added", now, last)
		}
		last = now
	}
}

func listServices(k *check) {
	d := k.open()
	c, ok := d.(driver.Cataloger)
	if !ok {
		k.Skipf("%T is no driver.Cataloger", d)
	}
	s := k.liveSession(k.open())
	names := []string{"foo", "foobar", "foo.bar", "Foo_2"}
	for n, name := range names {
		k.register(s, instance(name, n))
		k.eventually(d, name, "an instance of it was registered", instance(name, n))
	}
	deadline := time.Now().Add(k.Patience)
	for {
		var have []string
		k.must("Services", func(ctx context.Context) (err error) {
			have, err = c.Services(ctx)
			return err
		})
		slices.Sort(have)
		if len(slices.Compact(slices.Clone(have))) != len(have) {
			k.broken("Services returned %q", have)
		}
		missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(have, name) })
		if len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			k.broken("with instances of %q registered, Services returned %q", names, have)
		}
		k.sleep(pollEvery)
	}
	k.needs("Stop and Start", k.Stop != nil)
	k.Stop(k)
	ctx, cancel := context.WithTimeout(k.Context(), prompt)
	defer cancel()
	have, err := c.Services(ctx)
	k.Start(k)
	switch {
	case err == nil:
		k.broken("with the provider stopped, Services returned %q and no error", have)
	case !driver.Retryable(err):
		k.broken("with the provider stopped, Services returned %q, which says that no retry helps", err)
	}
}

func listRepeatable(k *check) {
	d, want := k.place(instance(service, 0), instance(service, 1))
	k.eventually(d, service, "two instances were published", want...)
	other := k.open()
	before := k.list(other, service)
	for range 3 {
		for _, reader := range []driver.Driver{d, other, k.open()} {
			now := k.list(reader, service)
			if diff := diffSets(before.Instances, now.Instances); diff != "" {
				k.broken("a later List differs from an earlier one: %s", diff)
			}
			if diff := diffSets(before.Failing, now.Failing); diff != "" {
				k.broken("a later List differs from an earlier one in what fails: %s", diff)
			}
			if len(now.Skipped) != len(before.Skipped) {
				k.broken("a later List skips %d entries, and an earlier one %d", len(now.Skipped), len(before.Skipped))
			}
		}
		k.list(d, "another")
	}
	k.stays(10*pollEvery, k.open(), service, "it was listed again and again", want...)
}

func listNoEffect(k *check) {
	k.needs("Dump", k.Dump != nil)
	d, _ := k.place(instance(service, 0), instance(service, 1))
	if _, registers := d.(driver.Registrar); registers {
		mortal := k.session(k.open())
		k.register(mortal, instance(service, 2), instance("gone", 3))
		k.lose(mortal)
	}
	if k.AddGarbage != nil {
		k.AddGarbage(k, service)
	}
	reader := k.open()
	before := k.settled()
	for range 3 {
		for _, r := range []driver.Driver{d, reader, k.open()} {
			since := k.list(r, service)
			k.list(r, "gone")
			k.list(r, "another")
			k.unchanged(before, "List")
			if c, ok := r.(driver.Cataloger); ok {
				k.must("Services", func(ctx context.Context) error {
					_, err := c.Services(ctx)
					return err
				})
				k.unchanged(before, "Services")
			}
			if w, ok := r.(driver.Watcher); ok {
				k.watchFor(5*pollEvery, w, service, since)
				k.watchFor(5*pollEvery, w, "gone", driver.Snapshot{})
				k.unchanged(before, "Watch")
			}
		}
	}
}

// watchFor watches for a while, whatever that yields.
func (k *check) watchFor(d time.Duration, w driver.Watcher, service string, since driver.Snapshot) {
	ctx, cancel := context.WithTimeout(k.Context(), d)
	defer cancel()
	for range w.Watch(ctx, driver.Query{Service: service}, since) {
	}
}

// settled returns what the provider keeps, once that has come to rest.
func (k *check) settled() map[string]string {
	k.Helper()
	last := k.Dump(k)
	for deadline := time.Now().Add(k.Patience); time.Now().Before(deadline); {
		k.sleep(10 * pollEvery)
		now := k.Dump(k)
		if maps.Equal(last, now) {
			if len(now) == 0 {
				k.Fatal("the harness' Dump is empty although instances were published")
			}
			return now
		}
		last = now
	}
	k.Fatalf("what the provider keeps goes on changing although nobody writes")
	return nil
}

func (k *check) unchanged(before map[string]string, what string) {
	k.Helper()
	now := k.Dump(k)
	var said []string
	for key, value := range before {
		if now[key] != value {
			said = append(said, fmt.Sprintf("%q is %.200q and was %.200q", key, now[key], value))
		}
	}
	for key, value := range now {
		if _, was := before[key]; !was {
			said = append(said, fmt.Sprintf("%q is new: %.200q", key, value))
		}
	}
	if len(said) > 0 {
		slices.Sort(said)
		k.broken("after %s %s", what, strings.Join(said, "; "))
	}
}

func listClosed(k *check) {
	d, _ := k.place(instance(service, 0))
	since := k.list(d, service)
	for range 2 {
		if err := d.Close(); err != nil {
			k.broken("Close returned %v", err)
		}
	}
	ctx := k.ctx()
	q := driver.Query{Service: service}
	s, err := d.List(ctx, q)
	k.closed("List", err)
	if len(s.Instances) > 0 {
		k.broken("List after Close returned %d instances with the error", len(s.Instances))
	}
	if w, ok := d.(driver.Watcher); ok {
		k.closed("Watch", lastOf(w.Watch(ctx, q, since)))
	}
	if c, ok := d.(driver.Cataloger); ok {
		_, err := c.Services(ctx)
		k.closed("Services", err)
	}
	if r, ok := d.(driver.Registrar); ok {
		_, err := r.OpenSession(ctx, driver.SessionOptions{TTL: k.SessionTTL})
		k.closed("OpenSession", err)
	}
	if r, ok := d.(driver.PermissionChecker); ok {
		k.closed("CheckPermission", r.CheckPermission(ctx, service))
	}
}

// closed wants the error of a call after Close to be of the one kind.
func (k *check) closed(call string, err error) {
	k.Helper()
	if !errors.Is(err, driver.ErrClosed) || driver.Retryable(err) {
		k.broken("%s after Close returned %v", call, err)
	}
}

// lastOf returns the error that ends a sequence.
func lastOf[T any](all iter.Seq2[T, error]) (last error) {
	for _, err := range all {
		last = err
	}
	return last
}
