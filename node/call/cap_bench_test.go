package call_test

import (
	"testing"

	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/nodetest"
)

// BenchmarkCap is what a place costs where the node's share has one.
func BenchmarkCap(b *testing.B) {
	m, err := call.Open(nodetest.Alone(b), call.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(m.Close)
	if err := m.Start(); err != nil {
		b.Fatal(err)
	}
	c := m.Cap("db")
	if err := c.Set(b.Context(), 100); err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, release, err := c.Acquire(b.Context())
			if err != nil {
				b.Error(err)
				return
			}
			release()
		}
	})
}
