package faults

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/netlab"
	"github.com/musterhq/muster/node/history"
)

// BenchmarkFailover takes the time from the end of a master until all others know the
// next one, for the ways in which it ends and for TTLs from the shortest on. Each iteration
// is one fault of three nodes, with three servers and, of Consul, an agent on each host, which
// is cut off with it. limit-ms is what no median should be above: the TTL
// and 0.15 s where the others notice by themselves that the master is gone, twice the TTL and
// 0.5 s where its host is silent.
func BenchmarkFailover(b *testing.B) {
	for _, provider := range providers() {
		for _, ttl := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second} {
			if provider == "etcd" && ttl < 2*time.Second {
				continue // its leases have no shorter one
			}
			b.Run(fmt.Sprintf("%s/%v/killed", provider, ttl), func(b *testing.B) {
				benchmarkFailover(b, provider, ttl, ttl+150*time.Millisecond, func(_ *Lab, m *Host) { m.Kill() })
			})
			b.Run(fmt.Sprintf("%s/%v/host_cut_off", provider, ttl), func(b *testing.B) {
				benchmarkFailover(b, provider, ttl, 2*ttl+500*time.Millisecond, func(l *Lab, m *Host) {
					if l.store.has() {
						l.CutStore(netlab.Drop, m)
					}
					l.Part(netlab.Drop, []*Host{m}, l.Others(m))
				})
			})
		}
	}
}

func benchmarkFailover(b *testing.B, provider string, ttl, limit time.Duration, end func(l *Lab, m *Host)) {
	l := New(b, Options{Name: b.Name(), Provider: provider, Seed: 1, Servers: 3, TTL: ttl, LogLevel: "info"})
	l.Form()
	var took []time.Duration
	for range b.N {
		m := l.Well()
		// A node that has just started keeps quiet for a while, and one that has just been
		// granted renews at a time that depends on the fault before.
		l.Sleep(2*time.Second + l.UpTo(0, ttl))
		began := now()
		end(l, m)
		next := l.Master(l.Others(m), m)
		known := int64(0)
		for _, h := range l.Others(m) {
			known = max(known, l.knew(h, next, began))
		}
		took = append(took, time.Duration(known-began))
		l.Heal()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "median-ms")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "worst-ms")
	b.ReportMetric(float64(limit.Milliseconds()), "limit-ms")
	b.ReportMetric(0, "ns/op")
}

// knew returns when a host named the master of now for the first time since then, by its own
// record, which is written at once.
func (l *Lab) knew(h, master *Host, since int64) (at int64) {
	l.t.Helper()
	l.eventually(h.Name()+" has recorded "+master.Name()+" as master", func(context.Context) bool {
		log, err := h.readHistory()
		if err != nil {
			l.t.Fatal(err)
		}
		log = h.onTrueTime(log)
		i := slices.IndexFunc(log.Records, func(r history.Record) bool {
			return r.Kind == history.View && r.BootNS > since && r.View.Master != nil && r.View.Master.NodeID == master.NodeID
		})
		if i >= 0 {
			at = log.Records[i].BootNS
		}
		return i >= 0
	})
	return at
}
