package consul

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// Consul answers a query below a prefix at each write anywhere, as long as nothing
// stands there. None of that is news, nor worth a request each.
func TestObserveAmongOthersWrites(t *testing.T) {
	t.Parallel()
	server := testserver.LendConsul(t)
	i := startIngress(t, server)
	opened, err := open(t, Config{Address: i.URL}).OpenAuthority(t.Context(), driver.AuthorityOptions{Cluster: "c", TTL: grantTTL})
	if err != nil {
		t.Fatal(err)
	}
	a := opened.(*authority)
	t.Cleanup(func() { _ = a.Close(context.Background()) })
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan driver.Mastership, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range a.Observe(ctx) {
			if err != nil {
				t.Errorf("Observe: %v", err)
			}
			seen <- m
		}
	}()
	defer func() { cancel(); <-done }()
	next := func(what string) driver.Mastership {
		t.Helper()
		select {
		case m := <-seen:
			return m
		case <-time.After(wait.Patience):
			t.Fatalf("%s: not seen within %v", what, wait.Patience)
			panic("not reached")
		}
	}
	if m := next("nothing"); m.Holder != nil || m.Term != 0 {
		t.Fatalf("at first there is %+v", m)
	}
	kv := server.Client().KV()
	put := func(key string, n int) {
		t.Helper()
		if _, err := kv.Put(&api.KVPair{Key: key, Value: fmt.Append(nil, n)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	began, before := time.Now(), i.requests.Load()
	const writes = 500
	for n := range writes {
		put("of/others", n)
	}
	// A pause is an eighth of a second at least. The first few readings need none.
	if made, most := i.requests.Load()-before, 4+int64(time.Since(began)/(shortestPause/2)); made > most {
		t.Errorf("%d requests for %d writes of others, want %d at most", made, writes, most)
	}

	var g driver.Grant
	wait.For(t, "a grant", func() bool {
		g, err = a.Acquire(wait.Context(t), driver.Claim{Holder: driver.Holder{NodeID: "n1", InstanceID: "i1"}, ClusterID: "id"})
		return err == nil
	})
	if m := next("the holder"); m.Holder == nil || m.Term != g.Term {
		t.Errorf("after %d writes of others %+v is seen, want term %d and its holder alone", writes, m, g.Term)
	}
	for n := range 20 {
		put(a.Key()+"-of-others", n)
	}
	if err := a.Release(wait.Context(t), g); err != nil {
		t.Fatal(err)
	}
	if m := next("the vacancy"); m.Holder != nil || m.Term != g.Term {
		t.Errorf("after the release %+v is seen, want the vacancy alone", m)
	}
}
