package etcd

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/providertest"
	"github.com/musterhq/muster/internal/testing/testserver"
)

// Beside a bare put on a lease and the watch of the etcd client. Both write as much.
func BenchmarkRegisterToVisible(b *testing.B) {
	server := testserver.SharedEtcd(b)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	clients := make([]*clientv3.Client, 2)
	for i := range clients {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, Logger: zap.NewNop()})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		clients[i] = c
	}
	lease, err := clients[0].Grant(ctx, 600)
	if err != nil {
		b.Fatal(err)
	}
	prefix := newPrefix()
	changes := clients[1].Watch(ctx, prefix+"/raw/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-changes

	config := Config{Endpoints: []string{server.Endpoint()}, Prefix: prefix}
	writer, reader := open(b, config), open(b, config)
	providertest.RegisterToVisible(b, writer, reader, func(n int) (time.Duration, driver.Instance) {
		i := driver.Instance{Service: "bench", NodeID: "node-1", InstanceID: fmt.Sprintf("%032x", n%20), Addr: "10.0.0.5:7946", Version: fmt.Sprint(n)}
		_, value, err := writer.layout.Encode(i)
		if err != nil {
			b.Fatal(err)
		}
		// As with ours, what counts is when the other client sees it; that the
		// answer to the put comes later or earlier does not.
		start, done := time.Now(), make(chan error, 1)
		go func() {
			_, err := clients[0].Put(ctx, prefix+"/raw/"+i.InstanceID, value, clientv3.WithLease(lease.ID))
			done <- err
		}()
		<-changes
		took := time.Since(start)
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		return took, i
	})
}

// What keeping a mastership costs: a renewal proves the lease and then the key.
func BenchmarkRenewGrant(b *testing.B) {
	server := testserver.SharedEtcd(b)
	d := open(b, Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()})
	a := openAuthority(b, d, "bench")
	g, err := a.Acquire(context.Background(), claim("i1"))
	if err != nil {
		b.Fatal(err)
	}
	var lease, whole []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := d.keepAlive(context.Background(), g.Token.(token).lease); err != nil {
			b.Fatal(err)
		}
		lease = append(lease, time.Since(start))
		start = time.Now()
		if g, err = a.Renew(context.Background(), g); err != nil {
			b.Fatal(err)
		}
		whole = append(whole, time.Since(start))
	}
	b.ReportMetric(providertest.P50(lease), "lease-p50-µs")
	b.ReportMetric(providertest.P50(whole), "renew-p50-µs")
}

// How long mastership is vacant when it is given back: from the release to the
// grant of one who waits for it.
func BenchmarkHandover(b *testing.B) {
	server := testserver.SharedEtcd(b)
	config := Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()}
	all := []*authority{openAuthority(b, open(b, config), "bench"), openAuthority(b, open(b, config), "bench")}
	ctx := context.Background()
	g, err := all[0].Acquire(ctx, claim("0"))
	if err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		from, to := all[n%2], all[(n+1)%2]
		next, stop := iter.Pull2(to.Observe(ctx))
		until := func(holds func(driver.Mastership) bool) {
			for {
				m, err, ok := next()
				if err != nil || !ok {
					b.Fatalf("Observe ended: %v", err)
				}
				if holds(m) {
					return
				}
			}
		}
		until(func(m driver.Mastership) bool { return m.Holder != nil })
		// A key that means nothing shows that the watch stands.
		if _, err := server.Client().Put(ctx, to.prefix+"bench", ""); err != nil {
			b.Fatal(err)
		}
		until(func(driver.Mastership) bool { return true })

		start := time.Now()
		released := make(chan error, 1)
		go func() { released <- from.Release(ctx, g) }()
		until(func(m driver.Mastership) bool { return m.Holder == nil })
		if g, err = to.Acquire(ctx, claim(fmt.Sprint((n+1)%2))); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
		if err := <-released; err != nil {
			b.Fatal(err)
		}
		stop()
	}
	b.ReportMetric(providertest.P50(took), "handover-p50-µs")
}
