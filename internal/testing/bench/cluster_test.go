//go:build linux

package bench

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/tlsfiles"
)

const (
	// perWorker is how many nodes share a process, and rest how long their cost is measured.
	perWorker = 60
	rest      = 10 * time.Second
	// settle is how long a cluster is left alone before that: what idles for long is closed.
	settle = 20 * time.Second
)

var sizes = []int{10, 50, 100, 200, 300}

// BenchmarkCluster starts N nodes at once and reports what one costs when the cluster is at rest,
// and how long it takes until all see all, all know the master, and all miss one that was killed.
func BenchmarkCluster(b *testing.B) {
	for _, secure := range []bool{true, false} {
		for _, nodes := range sizes {
			b.Run(fmt.Sprintf("%s/nodes=%d", map[bool]string{true: "tls", false: "plain"}[secure], nodes), func(b *testing.B) {
				s := setup{Cluster: "bench", TLS: tlsfiles.Config{}}
				if secure {
					s.TLS = certificates(b)
				}
				measure(b, s, nodes)
			})
		}
	}
}

// BenchmarkClusterMemberlist is the same of memberlist over UDP, at our intervals.
func BenchmarkClusterMemberlist(b *testing.B) {
	for _, nodes := range sizes {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			measure(b, setup{Cluster: "bench", Memberlist: true}, nodes)
		})
	}
}

// BenchmarkFormation starts 50 nodes at once, again and again.
func BenchmarkFormation(b *testing.B) {
	var took []float64
	for range b.N {
		c := start(b, setup{Cluster: "bench"}, 50)
		took = append(took, ms(c.await(question{Ask: "members", N: 50})))
		c.stop()
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took[len(took)/2], "median-ms")
	b.ReportMetric(took[len(took)-1], "worst-ms")
}

// measure reports the middle of b.N clusters.
func measure(b *testing.B, s setup, nodes int) {
	values := make(map[string][]float64)
	add := func(unit string, value float64) { values[unit] = append(values[unit], value) }
	for range b.N {
		c := start(b, s, nodes)
		add("see-all-ms", ms(c.await(question{Ask: "members", N: nodes})))
		if !s.Memberlist {
			add("know-master-ms", ms(c.await(question{Ask: "master"})))
		}
		time.Sleep(settle)
		before := c.usage()
		time.Sleep(rest)
		used := c.usage().minus(before)
		per := float64(c.idle()) * rest.Seconds()
		add("core-%", used.CPU.Seconds()/per*100)
		add("B/s", float64(used.Written)/per)
		add("MB", float64(used.RSS)/float64(c.idle())/1e6)
		add("conns", float64(used.Conns)/float64(c.idle()))
		add("dials/s", float64(used.Dials)/per)
		add("miss-killed-ms", ms(c.kill()))
		c.stop()
	}
	b.ReportMetric(0, "ns/op")
	for unit, all := range values {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], unit)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// certificates writes an authority and a certificate for nodes of this host.
func certificates(b *testing.B) tlsfiles.Config {
	b.Helper()
	authority, pair, err := pki.NewAuthority("bench", time.Now(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	issued, err := authority.Issue("bench", []string{"127.0.0.1"}, time.Now(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	files := tlsfiles.Config{
		CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "node.pem"), KeyFile: filepath.Join(dir, "node-key.pem"),
	}
	err = cmp.Or(pair.Write(files.CAFile, filepath.Join(dir, "ca-key.pem"), false), issued.Write(files.CertFile, files.KeyFile, false))
	if err != nil {
		b.Fatal(err)
	}
	return files
}

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		if err := work(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A small cluster forms, misses one that was killed, and reports what it uses.
func TestCluster(t *testing.T) {
	for _, s := range []setup{{Cluster: "bench"}, {Cluster: "bench", Memberlist: true}} {
		c := start(t, s, 5)
		c.await(question{Ask: "members", N: 5})
		if !s.Memberlist {
			c.await(question{Ask: "master"})
		}
		if u := c.usage(); u.CPU <= 0 || u.Written == 0 {
			t.Errorf("a node has used %+v", u)
		}
		c.kill()
		c.stop()
	}
}
