package casauthority

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// oneRecord is a Store of one record, which nobody writes, and counts how often it is read.
type oneRecord struct {
	record record
	reads  atomic.Int64
}

func (s *oneRecord) Read(context.Context, string) (Value, error) {
	s.reads.Add(1)
	return Value{Data: s.record.encode(), Revision: 1}, nil
}

func (s *oneRecord) CompareAndSet(context.Context, string, []byte, driver.Revision) (Value, error) {
	return Value{}, driver.ErrUnavailable
}

func (s *oneRecord) List(context.Context, string) (map[string]Value, error) { return nil, nil }

// A member that goes on to announce a master that is gone has the others look rarely, and cannot
// keep them from finding the vacancy: neither by saying the same, nor by inventing proofs.
func TestHearsayHidesNoVacancy(t *testing.T) {
	t.Parallel()
	const ttl = 500 * time.Millisecond
	for name, lie := range map[string]func(a *Authority, n int){
		"the last proof":  func(a *Authority, _ int) { a.Learn("proof") },
		"invented proofs": func(a *Authority, n int) { a.Learn(fmt.Sprint("proof-", n)) },
		"no proof":        func(*Authority, int) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &oneRecord{record: record{
				Version: layout, Term: 1, ClusterID: "c", Holder: &driver.Holder{NodeID: "a", InstanceID: "a-1"}, Nonce: "n", TTL: ttl, Proof: "proof",
			}}
			a, err := New(Config{Store: s, Cluster: "orders", TTL: ttl})
			if err != nil {
				t.Fatal(err)
			}
			a.rarely = 4 * ttl
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			go func() {
				for n := 0; ctx.Err() == nil; n++ {
					a.Suspect(false)
					lie(a, n)
					select {
					case <-time.After(20 * time.Millisecond):
					case <-ctx.Done():
					}
				}
			}()
			for m, err := range a.Observe(ctx) {
				if err != nil {
					t.Fatal(err)
				}
				if m.Holder == nil {
					return
				}
			}
			t.Fatalf("no vacancy is observed, after %d reads", s.reads.Load())
		})
	}
}
