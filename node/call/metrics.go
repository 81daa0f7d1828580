package call

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// maxMethods bounds how many methods have counts of their own: a caller may name any.
const maxMethods = 1000

// otherMethods is what all others are counted as.
const otherMethods = "other"

// Stats are what a Mesh has counted since it was opened. It is a copy.
type Stats struct {
	// Made are the calls of this node, by method and how they ended, with what they have taken from
	// the call to its end, all attempts included. Of a stream that is until it was opened.
	Made []MethodStats
	// Served are the calls that were made to this node, by method and what it has answered, with
	// Served are the calls that were made to this node, by method and what it has answered, with
	// the time that they waited for the limit and were worked on.
	Served []MethodStats
	// Pending counts the attempts of this node that go on, Running the calls that it serves.
	Pending, Running int
}

// MethodStats are those of the calls of one method that ended alike.
type MethodStats struct {
	// Method is /SERVICE/METHOD, or "other" above a thousand of them.
	Method string
	// Result is ok, error (that of the handler), left, unreachable, deadline, cancelled, not_ready,
	// no_handler, overloaded, not_master, no_master, uncertain or nested.
	Result string
	Calls  uint64
	Took   time.Duration // all of them together
}

// Stats returns what was counted so far. It does not block.
func (m *Mesh) Stats() Stats {
	s := Stats{Made: m.made.stats(), Served: m.served.stats(), Running: m.running.count()}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, p := range m.peers {
		s.Pending += int(p.pending.Load())
	}
	return s
}

// counts are those of calls, by method and result.
type counts struct {
	all     sync.Map // of countKey, to *count
	methods atomic.Int64
}

type countKey struct{ method, result string }

type count struct {
	calls atomic.Uint64
	took  atomic.Int64
}

func (c *counts) add(method, result string, took time.Duration) {
	key := countKey{method, result}
	v, ok := c.all.Load(key)
	if !ok {
		if c.methods.Add(1) > maxMethods {
			key.method = otherMethods
		}
		v, _ = c.all.LoadOrStore(key, new(count))
	}
	v.(*count).calls.Add(1)
	v.(*count).took.Add(int64(took))
}

func (c *counts) stats() []MethodStats {
	byKey := make(map[countKey]MethodStats)
	c.all.Range(func(k, v any) bool {
		key, n := k.(countKey), v.(*count)
		byKey[key] = MethodStats{key.method, key.result, n.calls.Load(), time.Duration(n.took.Load())}
		return true
	})
	return slices.SortedFunc(maps.Values(byKey), func(a, b MethodStats) int {
		if d := strings.Compare(a.Method, b.Method); d != 0 {
			return d
		}
		return strings.Compare(a.Result, b.Result)
	})
}

// counted is a way to members whose calls are counted.
type counted struct {
	grpc.ClientConnInterface
	mesh *Mesh
}

func (c counted) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	began := time.Now()
	err := c.ClientConnInterface.Invoke(ctx, method, args, reply, options...)
	c.mesh.made.add(method, result(err), time.Since(began))
	return err
}

func (c counted) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	began := time.Now()
	s, err := c.ClientConnInterface.NewStream(ctx, desc, method, options...)
	c.mesh.made.add(method, result(err), time.Since(began))
	return s, err
}

// resultOf names what a node has answered with a mark.
func resultOf(md metadata.MD, err error) string {
	mark := ""
	if v := md[markKey]; len(v) > 0 {
		mark = v[0]
	}
	switch {
	case err == nil:
		return "ok"
	case mark == "":
		return "deadline" // it had passed before the handler began
	case mark == markFailed, mark == markEnded:
		return "error"
	}
	return strings.ReplaceAll(mark, "-", "_")
}
