package link

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
)

func (s *station) tcpAddr() net.Addr { return net.TCPAddrFromAddrPort(s.Addr()) }

// Packets of the usual size from one node to another, 64 on the way at a time.
func BenchmarkPackets(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tls"}[secure], func(b *testing.B) {
			w := &world{}
			if secure {
				w.ca = newAuthority(b)
			}
			from, to := w.station(b), w.station(b)
			packet := make([]byte, 1200)
			b.SetBytes(int64(len(packet)))
			b.ReportAllocs()
			b.ResetTimer()
			for sent := 0; sent < b.N; {
				window := min(64, b.N-sent)
				for range window {
					if _, err := from.tr.WriteTo(packet, to.name()); err != nil {
						b.Fatal(err)
					}
				}
				for range window {
					<-to.tr.PacketCh()
				}
				sent += window
			}
			b.StopTimer()
			s := from.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
			b.ReportMetric(float64(s.PacketsDropped), "dropped")
		})
	}
}

// How long a packet takes to come back, as a probe of memberlist does.
func BenchmarkRoundTrip(b *testing.B) {
	w := &world{}
	x, y := w.station(b), w.station(b)
	for b.Loop() {
		x.send(b, y.name(), "ping")
		y.receive(b)
		y.send(b, x.name(), "ack")
		x.receive(b)
	}
}

func BenchmarkDial(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tls"}[secure], func(b *testing.B) {
			w := &world{}
			if secure {
				w.ca = newAuthority(b)
			}
			l := w.link(b)
			echo(b, l, "x")
			for b.Loop() {
				c, err := l.Dial(b.Context(), "x", l.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
		})
	}
}

// Fifty members start at once and join one seed; each run reports how long it
// took until all saw all, and what they cost when they are at rest.
func BenchmarkConvergence50(b *testing.B) {
	const nodes = 50
	for _, secure := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tls"}[secure], func(b *testing.B) {
			var took []time.Duration
			var cores float64
			for range b.N {
				w := &world{}
				if secure {
					w.ca = newAuthority(b)
				}
				all := make([]*gossiper, nodes)
				for i := range all {
					all[i] = w.gossiper(b, fmt.Sprintf("node%02d", i))
				}
				began := time.Now()
				for _, g := range all[1:] {
					go g.Join([]string{all[0].name()})
				}
				for _, g := range all {
					wait.For(b, "all see all", func() bool { return g.sees(nodes) })
				}
				took = append(took, time.Since(began))
				time.Sleep(3 * time.Second) // the last connections are still being made
				const rest = 5 * time.Second
				before := cpuTime()
				time.Sleep(rest)
				cores += (cpuTime() - before).Seconds() / rest.Seconds() / nodes
				for _, g := range all {
					g.Shutdown()
					g.Close()
				}
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1000, "median-ms")
			b.ReportMetric(took[len(took)-1].Seconds()*1000, "worst-ms")
			b.ReportMetric(cores/float64(b.N)*100, "idle-core-%/node")
		})
	}
}
