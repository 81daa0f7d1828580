package discoverytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

func storeClauses() []clause {
	return []clause{
		{"store/get", "Get returns the record as it was last set, to every node, or ErrNotFound", storeGet},
		{"store/compare_and_set", "Set writes only if the revision is still prev, where 0 stands for a key that does not exist; otherwise it returns ErrConflict", storeCompareAndSet},
		{"store/delete", "Delete removes a key only if its revision is still prev: ErrConflict otherwise, ErrNotFound where there is none", storeDelete},
		{"store/records", "Records returns every record whose key starts with prefix, and no other, by key", storeRecords},
		{"store/size", "a value has at most MaxRecordSize bytes, and may have as many", storeSize},
		{"store/watch", "WatchRecords yields every record whose key starts with prefix, and no other, now and after each change, also to a node that changed nothing", storeWatch},
		{"store/watch_outage", "an error ends WatchRecords and is yielded last, without records: it is no empty set", storeWatchOutage},
		{"store/counter", "of several writers that saw one revision one wins: a counter that all raise loses no step", storeCounter},
	}
}

// stores opens the stores of n nodes of one cluster.
func (k *check) stores(n int) []driver.Store {
	k.Helper()
	var ss []driver.Store
	for _, c := range k.candidates(cluster, n, k.GrantTTL) {
		s, ok := c.Authority.(driver.Store)
		if !ok {
			k.Skipf("%T is no driver.Store", c.Authority)
		}
		ss = append(ss, s)
	}
	return ss
}

// set writes a record for certain: after an answer that says nothing it looks.
func (k *check) set(s driver.Store, key string, value []byte, prev driver.Revision) driver.Revision {
	k.Helper()
	var revision driver.Revision
	doubt := false
	k.must("Set", func(ctx context.Context) (err error) {
		revision, err = s.Set(ctx, key, value, prev)
		if doubt && errors.Is(err, driver.ErrConflict) {
			r, getErr := s.Get(ctx, key)
			if getErr == nil && bytes.Equal(r.Value, value) {
				revision, err = r.Revision, nil
			}
		}
		doubt = doubt || unavailable(err)
		return err
	})
	if revision == 0 || revision == prev {
		k.broken("Set returned revision %d where it was %d", revision, prev)
	}
	return revision
}

func (k *check) get(s driver.Store, key string) (driver.Record, error) {
	k.Helper()
	var r driver.Record
	var err error
	k.must("Get", func(ctx context.Context) error {
		r, err = s.Get(ctx, key)
		if errors.Is(err, driver.ErrNotFound) {
			return nil
		}
		return err
	})
	return r, err
}

func (k *check) expect(s driver.Store, key string, value string, revision driver.Revision) {
	k.Helper()
	r, err := k.get(s, key)
	if err != nil || r.Key != key || string(r.Value) != value || r.Revision != revision {
		k.broken("%q was set to %q at revision %d, and Get returned %q = %q at revision %d, %v", key, value, revision, r.Key, r.Value, r.Revision, err)
	}
}

func storeGet(k *check) {
	ss := k.stores(3)
	if r, err := k.get(ss[0], "a/key"); !errors.Is(err, driver.ErrNotFound) {
		k.broken("Get of a key that was never set returned %+v, %v", r, err)
	}
	values := []string{"one", "", "zero\x00byte \xff ü"}
	var revision driver.Revision
	for n, v := range values {
		revision = k.set(ss[n], "a/key", []byte(v), revision)
		for _, s := range ss {
			k.expect(s, "a/key", v, revision)
		}
	}
}

func storeCompareAndSet(k *check) {
	ss := k.stores(2)
	first := k.set(ss[0], "key", []byte("one"), 0)
	second := k.set(ss[1], "key", []byte("two"), first)
	for _, prev := range []driver.Revision{0, first, second + 1000} {
		err := k.answer("Set", func(ctx context.Context) error {
			_, err := ss[0].Set(ctx, "key", []byte("three"), prev)
			return err
		})
		if !errors.Is(err, driver.ErrConflict) {
			k.broken("the revision is %d, and Set with prev %d returned %v", second, prev, err)
		}
	}
	err := k.answer("Set", func(ctx context.Context) error {
		_, err := ss[0].Set(ctx, "other", []byte("three"), first)
		return err
	})
	if !errors.Is(err, driver.ErrConflict) {
		k.broken("there is no such key, and Set with prev %d returned %v", first, err)
	}
	k.expect(ss[0], "key", "two", second)
}

func storeDelete(k *check) {
	ss := k.stores(2)
	first := k.set(ss[0], "key", []byte("one"), 0)
	second := k.set(ss[0], "key", []byte("two"), first)
	del := func(prev driver.Revision) error {
		return k.answer("Delete", func(ctx context.Context) error { return ss[1].Delete(ctx, "key", prev) })
	}
	if err := del(first); !errors.Is(err, driver.ErrConflict) {
		k.broken("the revision is %d, and Delete with prev %d returned %v", second, first, err)
	}
	k.expect(ss[0], "key", "two", second)
	// After an answer that was lost, the key is no longer there.
	if err := del(second); err != nil && !errors.Is(err, driver.ErrNotFound) {
		k.broken("Delete returned %v", err)
	}
	if r, err := k.get(ss[0], "key"); !errors.Is(err, driver.ErrNotFound) {
		k.broken("after Delete, Get returned %+v, %v", r, err)
	}
	if err := del(second); !errors.Is(err, driver.ErrNotFound) {
		k.broken("Delete of a key that is not there returned %v", err)
	}
	third := k.set(ss[0], "key", []byte("three"), 0)
	if third == first || third == second {
		k.broken("a key that was set again after it was deleted has its old revision %d", third)
	}
	if err := del(second); !errors.Is(err, driver.ErrConflict) {
		k.broken("the key was set again, and Delete with its former revision returned %v", err)
	}
}

func storeRecords(k *check) {
	ss := k.stores(2)
	for n, key := range []string{"b", "job/2", "job/1", "job/10", "job", "jobs/1", "job/sub/1"} {
		k.set(ss[n%2], key, []byte("value of "+key), 0)
	}
	for prefix, want := range map[string][]string{
		"":       {"b", "job", "job/1", "job/10", "job/2", "job/sub/1", "jobs/1"},
		"job/":   {"job/1", "job/10", "job/2", "job/sub/1"},
		"job":    {"job", "job/1", "job/10", "job/2", "job/sub/1", "jobs/1"},
		"job/1":  {"job/1", "job/10"},
		"absent": nil,
	} {
		var rs []driver.Record
		k.must("Records", func(ctx context.Context) (err error) {
			rs, err = ss[0].Records(ctx, prefix)
			return err
		})
		var have []string
		for _, r := range rs {
			have = append(have, r.Key)
			k.expect(ss[1], r.Key, "value of "+r.Key, r.Revision)
			if string(r.Value) != "value of "+r.Key {
				k.broken("Records returned %q = %q", r.Key, r.Value)
			}
		}
		if !slices.Equal(have, want) {
			k.broken("Records(%q) returned the keys %q, want %q", prefix, have, want)
		}
	}
}

func storeSize(k *check) {
	s := k.stores(1)[0]
	big := bytes.Repeat([]byte{0xfe}, driver.MaxRecordSize)
	revision := k.set(s, "big", big, 0)
	r, err := k.get(s, "big")
	if err != nil || !bytes.Equal(r.Value, big) {
		k.broken("%d bytes were set, and Get returned %d, %v", len(big), len(r.Value), err)
	}
	err = k.answer("Set", func(ctx context.Context) error {
		_, err := s.Set(ctx, "big", append(big, 0), revision)
		return err
	})
	if !errors.Is(err, driver.ErrInvalid) {
		k.broken("Set of %d bytes returned %v, want ErrInvalid", len(big)+1, err)
	}
}

func storeCounter(k *check) {
	const writers, steps = 3, 10
	ss := k.stores(writers)
	k.set(ss[0], "counter", []byte("0"), 0)
	var all sync.WaitGroup
	var mu sync.Mutex
	doubts := 0 // sets of which nobody knows whether they happened
	ctx := k.ctx()
	for _, s := range ss {
		all.Go(func() {
			for done := 0; done < steps && ctx.Err() == nil; {
				r, err := s.Get(ctx, "counter")
				if err != nil {
					k.sleep(pollEvery)
					continue
				}
				n, _ := strconv.Atoi(string(r.Value))
				_, err = s.Set(ctx, "counter", fmt.Append(nil, n+1), r.Revision)
				switch {
				case err == nil:
					done++
				case errors.Is(err, driver.ErrConflict):
				default:
					done++
					mu.Lock()
					doubts++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		k.broken("%d writers did not raise a counter %d times each within %v", writers, steps, k.Patience)
	}
	r, err := k.get(ss[0], "counter")
	if err != nil {
		k.Fatal(err)
	}
	if n, _ := strconv.Atoi(string(r.Value)); n > writers*steps || n < writers*steps-doubts {
		k.broken("%d writers raised a counter %d times each, %d of the answers were lost, and it stands at %s", writers, steps, doubts, r.Value)
	}
}

// watchRecords follows the records until the clause ends.
func (k *check) watchRecords(s driver.Store, prefix string) (next func(want string)) {
	k.Helper()
	w, ok := s.(driver.StoreWatcher)
	if !ok {
		k.Skipf("%T is no driver.StoreWatcher", s)
	}
	ctx, cancel := context.WithCancel(k.Context())
	seen := make(chan string)
	unsupported := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			for records, err := range w.WatchRecords(ctx, prefix) {
				if errors.Is(err, driver.ErrUnsupported) {
					close(unsupported)
					return
				}
				if err != nil && len(records) > 0 {
					k.Errorf("clause %q: WatchRecords yielded %d records with the error %v", k.clause.name, len(records), err)
				}
				if err != nil {
					continue
				}
				text := ""
				for _, r := range records {
					text += fmt.Sprintf("%s=%s ", r.Key, r.Value)
				}
				select {
				case seen <- text:
				case <-ctx.Done():
				}
			}
			k.sleep(pollEvery)
		}
	})
	k.Cleanup(func() { cancel(); done.Wait() })
	return func(want string) {
		k.Helper()
		deadline := time.After(k.Patience)
		last := "nothing"
		for {
			select {
			case last = <-seen:
				if last == want {
					return
				}
			case <-unsupported:
				k.Skip("WatchRecords is not supported")
			case <-deadline:
				k.broken("for %v WatchRecords did not yield %q, but last %q", k.Patience, want, last)
			}
		}
	}
}

func storeWatch(k *check) {
	ss := k.stores(2)
	views := []func(string){k.watchRecords(ss[0], "job/"), k.watchRecords(ss[1], "job/")}
	all := func(want string) {
		k.Helper()
		for _, next := range views {
			next(want)
		}
	}
	all("")
	one := k.set(ss[0], "job/1", []byte("a"), 0)
	all("job/1=a ")
	k.set(ss[0], "jobs", []byte("a"), 0)
	k.set(ss[1], "job/0", []byte("b"), 0)
	all("job/0=b job/1=a ")
	one = k.set(ss[1], "job/1", []byte("c"), one)
	all("job/0=b job/1=c ")
	k.watchRecords(ss[0], "job/1")("job/1=c ")
	k.must("Delete", func(ctx context.Context) error {
		err := ss[0].Delete(ctx, "job/1", one)
		if errors.Is(err, driver.ErrNotFound) {
			return nil
		}
		return err
	})
	all("job/0=b ")
}

func storeWatchOutage(k *check) {
	k.needs("Stop and Start", k.Stop != nil)
	s := k.stores(1)[0]
	w, ok := s.(driver.StoreWatcher)
	if !ok {
		k.Skipf("%T is no driver.StoreWatcher", s)
	}
	k.set(s, "job/1", []byte("a"), 0)
	k.Stop(k)
	ctx, cancel := context.WithTimeout(k.Context(), k.Patience)
	defer cancel()
	var last error
	for records, err := range w.WatchRecords(ctx, "job/") {
		if errors.Is(err, driver.ErrUnsupported) {
			k.Start(k)
			k.Skip("WatchRecords is not supported")
		}
		if err == nil && len(records) == 0 {
			k.Start(k)
			k.broken("with the provider stopped it yielded an empty set")
		}
		last = err
	}
	k.Start(k)
	if last == nil && ctx.Err() == nil {
		k.broken("with the provider stopped it ended without an error")
	}
	k.watchRecords(s, "job/")("job/1=a ")
}
