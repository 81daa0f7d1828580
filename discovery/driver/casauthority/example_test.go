package casauthority_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/driver/casauthority"
)

// memory is a provider: a map with a lock in place of a database. What it has beside the
// three methods of casauthority.Store is OpenAuthority.
type memory struct {
	mu       sync.Mutex
	values   map[string]casauthority.Value
	revision driver.Revision
}

func (m *memory) OpenAuthority(_ context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	return casauthority.New(casauthority.Config{Store: m, Name: "memory", Cluster: o.Cluster, TTL: o.TTL, MaxTTL: time.Minute})
}

func (m *memory) Read(_ context.Context, key string) (casauthority.Value, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[key], nil
}

func (m *memory) CompareAndSet(_ context.Context, key string, data []byte, prev driver.Revision) (casauthority.Value, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values[key].Revision != prev {
		return casauthority.Value{}, driver.ErrConflict
	}
	m.revision++
	v := casauthority.Value{Data: data, Revision: m.revision}
	if m.values[key] = v; data == nil {
		delete(m.values, key)
	}
	return v, nil
}

func (m *memory) List(_ context.Context, prefix string) (map[string]casauthority.Value, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := maps.Clone(m.values)
	maps.DeleteFunc(found, func(key string, _ casauthority.Value) bool { return !strings.HasPrefix(key, prefix) })
	return found, nil
}

// Two nodes, of which one becomes master, and then the other.
func Example() {
	provider := &memory{values: make(map[string]casauthority.Value)}
	ctx := context.Background()
	for _, node := range []string{"n1", "n2"} {
		self := driver.Holder{NodeID: node, InstanceID: node + "-1", Addr: node + ":7946"}
		authority, err := provider.OpenAuthority(ctx, driver.AuthorityOptions{Cluster: "orders", Self: self, TTL: 500 * time.Millisecond})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer authority.Close(ctx)
		for {
			// package node/mastership does this, and renews.
			grant, err := authority.Acquire(ctx, driver.Claim{Holder: self, ClusterID: "c1"})
			if err == nil {
				fmt.Println(node, "is master with term", grant.Term)
				fmt.Println(authority.Release(ctx, grant))
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	// Output:
	// n1 is master with term 1
	// <nil>
	// n2 is master with term 2
	// <nil>
}

// One election for each shard: a holder and a term each.
func ExampleConfig_election() {
	provider := &memory{values: make(map[string]casauthority.Value)}
	ctx := context.Background()
	for node, shard := range []string{"shard-1", "shard-2"} {
		election, err := casauthority.New(casauthority.Config{Store: provider, Cluster: "orders", Election: shard, TTL: 500 * time.Millisecond})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer election.Close(ctx)
		self := driver.Holder{NodeID: fmt.Sprint("n", node), InstanceID: fmt.Sprint(node), Addr: "10.0.0.1:7946"}
		for {
			grant, err := election.Acquire(ctx, driver.Claim{Holder: self, ClusterID: "c1"})
			if err == nil {
				fmt.Println(self.NodeID, "leads", shard, "with term", grant.Term)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	// Output:
	// n0 leads shard-1 with term 1
	// n1 leads shard-2 with term 1
}
