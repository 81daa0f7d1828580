package discoverytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/musterhq/muster/discovery/driver"
)

func storeClauses() []clause {
	return []clause{
		{"store/get", "Get returns the record as it was last set, to every node, or ErrNotFound", storeGet},
		{"store/compare_and_set", "Set writes only if the revision is still prev, where 0 stands for a key that does not exist; otherwise it returns ErrConflict", storeCompareAndSet},
		{"store/delete", "Delete removes a key only if its revision is still prev: ErrConflict otherwise, ErrNotFound where there is none", storeDelete},
		{"store/records", "Records returns every record whose key starts with prefix, and no other, by key", storeRecords},
		{"store/size", "a value has at most MaxRecordSize bytes, and may have as many", storeSize},
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
