//go:build linux

package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// voters is how many nodes vote on mastership.
const voters = 3

// cluster is a number of workers, seen from the process that measures. The first of them has the
// voters, which cost more than an idle node, and the last has one node alone, which kill kills.
type cluster struct {
	t       testing.TB
	began   time.Time
	workers []*worker
}

type worker struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	ask   *json.Encoder
	reply *json.Decoder
	nodes int
}

// start starts the workers, waits until each is there, and lets all of them start their nodes.
func start(t testing.TB, s setup, nodes int) *cluster {
	t.Helper()
	c := &cluster{t: t}
	t.Cleanup(c.stop)
	s.Voters = freeAddrs(t, voters)
	for first, n := 0, voters; first < nodes; first, n = first+n, max(1, min(perWorker, nodes-1-first-n)) {
		s.First, s.Nodes, s.Dir = first, n, t.TempDir()
		c.workers = append(c.workers, spawn(t, s))
	}
	c.each(question{Ask: "ready"})
	c.began = time.Now()
	c.each(question{Ask: "start"})
	return c
}

func spawn(t testing.TB, s setup) *worker {
	t.Helper()
	w := &worker{cmd: exec.Command(os.Args[0]), nodes: s.Nodes}
	w.cmd.Env = append(os.Environ(), workerEnv+"=1")
	w.cmd.Stderr = os.Stderr
	in, err := w.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.in, w.ask, w.reply = in, json.NewEncoder(in), json.NewDecoder(out)
	if err := w.ask.Encode(s); err != nil {
		t.Fatal(err)
	}
	return w
}

// each asks all workers at once and returns what they answer.
func (c *cluster) each(q question) []answer {
	c.t.Helper()
	answers := make([]answer, len(c.workers))
	var wg sync.WaitGroup
	for i, w := range c.workers {
		wg.Go(func() {
			err := w.ask.Encode(q)
			if err == nil {
				err = w.reply.Decode(&answers[i])
			}
			if err != nil {
				answers[i].Error = fmt.Sprintf("worker %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for _, a := range answers {
		if a.Error != "" {
			c.t.Fatalf("%s: %s", q.Ask, a.Error)
		}
	}
	return answers
}

// await returns how long after the start, at the latest, the condition held at all workers.
func (c *cluster) await(q question) time.Duration {
	c.t.Helper()
	return latest(c.each(q)).Sub(c.began)
}

func latest(answers []answer) (at time.Time) {
	for _, a := range answers {
		if a.At.After(at) {
			at = a.At
		}
	}
	return at
}

// kill ends the last worker's process without a word, and returns how long it took until all
// others missed its node.
func (c *cluster) kill() time.Duration {
	c.t.Helper()
	last := c.workers[len(c.workers)-1]
	c.workers = c.workers[:len(c.workers)-1]
	n := c.nodes()
	began := time.Now()
	if err := last.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	defer last.cmd.Wait()
	return latest(c.each(question{Ask: "members", N: n})).Sub(began)
}

func (c *cluster) nodes() (n int) {
	for _, w := range c.workers {
		n += w.nodes
	}
	return n
}

// idle is how many nodes usage is about.
func (c *cluster) idle() int { return c.nodes() - voters - 1 }

// usage is the sum of all nodes but the voters and the one that is to be killed.
func (c *cluster) usage() usage {
	c.t.Helper()
	var sum usage
	answers := c.each(question{Ask: "usage"})
	for _, a := range answers[1 : len(answers)-1] {
		sum = sum.plus(a.Usage)
	}
	return sum
}

// stop ends the processes.
func (c *cluster) stop() {
	for _, w := range c.workers {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
	}
	c.workers = nil
}

// freeAddrs returns addresses of this host that were free a moment ago.
func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs
}
