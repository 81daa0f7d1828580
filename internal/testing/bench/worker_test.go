//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/providers/static"
	"github.com/musterhq/muster/tlsfiles"
)

// workerEnv makes this test binary a worker: it reads a setup and then questions from its
// standard input, and writes an answer to each.
const workerEnv = "MUSTER_BENCH_WORKER"

// patience bounds how long a worker waits for a condition.
const patience = time.Minute

// setup is what a worker runs: Nodes of them, from number First on.
type setup struct {
	Cluster      string
	Voters       []string // the addresses of the first nodes
	First, Nodes int
	Dir          string
	TLS          tlsfiles.Config
	Memberlist   bool // members of memberlist in place of nodes
}

// question is ready, start, members, master or usage.
type question struct {
	Ask string
	N   int
}

type answer struct {
	At    time.Time // when what was asked for held
	Usage usage
	Error string
}

// usage is what the process of a worker has used so far, and holds now.
type usage struct {
	CPU     time.Duration
	Written uint64 // bytes, sockets included
	RSS     int64  // beyond that of the process before it had nodes
	Conns   int    // of each node; a connection within the process counts for both
	Dials   uint64
}

func (u usage) plus(v usage) usage {
	return usage{u.CPU + v.CPU, u.Written + v.Written, u.RSS + v.RSS, u.Conns + v.Conns, u.Dials + v.Dials}
}

// minus is what was used since v, and what is held now.
func (u usage) minus(v usage) usage {
	return usage{u.CPU - v.CPU, u.Written - v.Written, u.RSS, u.Conns, u.Dials - v.Dials}
}

// member is one node, or one member of memberlist.
type member interface {
	members() int
	knowsMaster() bool
	links() (conns int, dials uint64)
}

func work(in io.Reader, out io.Writer) error {
	asked, reply := json.NewDecoder(in), json.NewEncoder(out)
	var s setup
	if err := asked.Decode(&s); err != nil {
		return err
	}
	base := rss()
	var all []member
	for {
		var q question
		if err := asked.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var err error
		a := answer{}
		switch q.Ask {
		case "start":
			all, err = s.start()
		case "members":
			err = await(all, func(m member) bool { return m.members() == q.N })
		case "master":
			err = await(all, member.knowsMaster)
		case "usage":
			a.Usage = used(all, base)
		}
		a.At = time.Now()
		if err != nil {
			a.Error = err.Error()
		}
		if err := reply.Encode(a); err != nil {
			return err
		}
	}
}

// await waits until a condition has held for each member.
func await(all []member, holds func(member) bool) error {
	deadline := time.Now().Add(patience)
	for _, m := range all {
		for !holds(m) {
			if time.Now().After(deadline) {
				return fmt.Errorf("not within %v: a member sees %d", patience, m.members())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}

func (s setup) start() ([]member, error) {
	all := make([]member, s.Nodes)
	errs := make([]error, s.Nodes)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			if s.Memberlist {
				all[i], errs[i] = s.memberlist(s.First + i)
			} else {
				all[i], errs[i] = s.node(s.First + i)
			}
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// bind is the address that node i listens on.
func (s setup) bind(i int) string {
	if i < len(s.Voters) {
		return s.Voters[i]
	}
	return "127.0.0.1:0"
}

type realNode struct{ *node.Node }

func (s setup) node(i int) (member, error) {
	provider, err := static.New(static.Config{Peers: s.Voters})
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("node-%03d", i)
	n, err := node.Start(context.Background(), node.Config{
		Cluster: s.Cluster, NodeID: id, Bind: s.bind(i), DataDir: filepath.Join(s.Dir, id), TLS: s.TLS,
		Registries: []*discovery.Registry{discovery.New("static", provider, discovery.Options{})},
	})
	if err != nil {
		return nil, err
	}
	return realNode{n}, nil
}

func (n realNode) members() int { return len(n.Members()) }

func (n realNode) knowsMaster() bool { _, known := n.Master(); return known }

func (n realNode) links() (int, uint64) {
	s := n.Status().Link
	return s.Inbound + s.Outbound, s.Dials
}

type udpMember struct{ *memberlist.Memberlist }

// memberlist starts a member with the intervals of node/internal/membership.
func (s setup) memberlist(i int) (member, error) {
	c := memberlist.DefaultLANConfig()
	addr, err := net.ResolveTCPAddr("tcp", s.bind(i))
	if err != nil {
		return nil, err
	}
	c.Name, c.BindAddr, c.BindPort = fmt.Sprintf("node-%03d", i), "127.0.0.1", addr.Port
	c.AdvertisePort = addr.Port
	c.Logger = log.New(io.Discard, "", 0)
	c.GossipInterval, c.GossipNodes, c.RetransmitMult = 150*time.Millisecond, 3, 8
	c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 250*time.Millisecond
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 3, 2
	c.PushPullInterval, c.EnableCompression = 5*time.Second, false
	m, err := memberlist.Create(c)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			if n, err := m.Join(s.Voters); err == nil && n > 1 {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return udpMember{m}, nil
}

func (m udpMember) members() int         { return m.NumMembers() }
func (m udpMember) knowsMaster() bool    { return true }
func (m udpMember) links() (int, uint64) { return 0, 0 }

func used(all []member, base int64) usage {
	u := usage{RSS: rss() - base, Written: written()}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err == nil {
		u.CPU = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	for _, m := range all {
		conns, dials := m.links()
		u.Conns += conns
		u.Dials += dials
	}
	return u
}

// rss is the resident memory of this process in bytes.
func rss() int64 {
	text, _ := os.ReadFile("/proc/self/statm")
	var size, resident int64
	_, _ = fmt.Sscan(string(text), &size, &resident)
	return resident * int64(os.Getpagesize())
}

// written is how many bytes this process has handed to write, as it does with those for a TCP
// connection.
func written() (n uint64) {
	text, _ := os.ReadFile("/proc/self/io")
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "wchar: %d", &n); err == nil {
			return n
		}
	}
	return 0
}
