package call_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/internal/testing/loopback"
	"github.com/musterhq/muster/internal/testing/process"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/providers/static"
)

// programVariable has the test binary be a node with a cap: "ID PEERS DOWNSTREAM DIR".
const programVariable = "TEST_CAP_PROGRAM"

const (
	programCapLease = 3500 * time.Millisecond
	programTotal    = 8
)

// TestCapProgram is the program of TestCapKill.
func TestCapProgram(t *testing.T) {
	var id int
	var list, downstream, dir string
	if n, _ := fmt.Sscan(os.Getenv(programVariable), &id, &list, &downstream, &dir); n != 4 {
		t.Skip("it is the program of another test")
	}
	peers := strings.Split(list, ",")
	registry, err := discovery.Open("static", &static.Config{Peers: peers}, discovery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(t.Context(), node.Config{
		Cluster: "cap", NodeID: fmt.Sprint("node-", id), Bind: peers[id], DataDir: dir,
		Registries: []*discovery.Registry{registry}, Mastership: node.Mastership{TTL: time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := openCaps(t, n, call.Options{CapLease: programCapLease})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for m.Cap("db").Init(context.Background(), programTotal) != nil {
			<-time.After(10 * time.Millisecond)
		}
	}()
	for range 6 {
		go func() {
			for {
				place, release, err := m.Cap("db").Acquire(context.Background())
				if err == nil {
					useDownstream(place, downstream, id)
					release()
				} else {
					<-time.After(10 * time.Millisecond)
				}
			}
		}()
	}
	status, err := net.Dial("tcp", downstream)
	if err != nil {
		t.Fatal(err)
	}
	for range time.Tick(20 * time.Millisecond) { // until it is killed
		s := m.Cap("db").Stats()
		if _, err := fmt.Fprintln(status, "status", id, n.IsMaster(), s.Share, s.LostEver); err != nil {
			return
		}
	}
}

// useDownstream has a connection for a while: the other end counts it until it is told that it is
// over.
func useDownstream(ctx context.Context, addr string, id int) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer c.Close()
	r := bufio.NewReader(c)
	fmt.Fprintln(c, "use", id)
	if _, err := r.ReadString('\n'); err != nil {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
	fmt.Fprintln(c, "over")
	_, _ = r.ReadString('\n')
}

// counter is a server that counts how many connections are in use at a time.
type counter struct {
	mu      sync.Mutex
	total   int
	using   map[net.Conn]int // by the id of the program
	ignored map[net.Conn]bool
	paused  int // the program that stands still; -1: none
	most    int
	uses    int
	over    []string
	status  [5]programStatus
}

type programStatus struct {
	at     time.Time
	master bool
	share  int
	lost   int
}

func (c *counter) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go c.handle(conn)
	}
}

func (c *counter) handle(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var what string
		var id int
		var s programStatus
		fmt.Sscan(lines.Text(), &what, &id, &s.master, &s.share, &s.lost)
		c.mu.Lock()
		switch what {
		case "status":
			s.at = time.Now()
			c.status[id] = s
		case "use":
			c.using[conn], c.ignored[conn] = id, id == c.paused
			c.uses++
			c.count()
		case "over":
			delete(c.using, conn)
		}
		c.mu.Unlock()
		if what != "status" {
			fmt.Fprintln(conn, "ok")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.using, conn)
	delete(c.ignored, conn)
}

// count counts, with the lock held. What a program had in use when it was paused is not counted: it
// cannot end it, and the place is over all the same.
func (c *counter) count() (n int) {
	for conn := range c.using {
		if !c.ignored[conn] {
			n++
		}
	}
	if c.most = max(c.most, n); n > c.total {
		c.over = append(c.over, fmt.Sprintf("%d of %d", n, c.total))
	}
	return n
}

func (c *counter) now() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count()
}

// pause notes that a program stands still.
func (c *counter) pause(id int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = id
	for conn, of := range c.using {
		if of == id {
			c.ignored[conn] = true
		}
	}
}

// master returns the program that is master, and -1 if there is none, or more than one.
func (c *counter) master() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := -1
	for id, s := range c.status {
		if s.master && time.Since(s.at) < 300*time.Millisecond {
			if found >= 0 {
				return -1
			}
			found = id
		}
	}
	return found
}

// Five processes under load, whose master is killed, or stands still, one after the other: what
// they have in use together, as the system behind them counts it, is never more than the cap
// allows.
func TestCapKill(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("five processes, and several failovers")
	}
	const total = programTotal
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c := &counter{total: total, using: make(map[net.Conn]int), ignored: make(map[net.Conn]bool), paused: -1}
	go c.serve(listener)
	var peers, dirs []string
	for range c.status {
		port, err := loopback.Port()
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, fmt.Sprintf("127.0.0.1:%d", port))
		dirs = append(dirs, t.TempDir())
	}
	log := filepath.Join(t.TempDir(), "programs.log")
	programs := make([]*process.Process, len(peers))
	start := func(id int) {
		programs[id], err = process.Start(process.Config{
			Program: os.Args[0], Args: []string{"-test.run=^TestCapProgram$", "-test.timeout=10m"}, Log: log,
			Env: append(os.Environ(), fmt.Sprintf("%s=%d %s %s %s", programVariable, id, strings.Join(peers, ","), listener.Addr(), dirs[id])),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		for _, p := range programs {
			if p != nil {
				p.Kill()
			}
		}
		if t.Failed() {
			t.Log(process.Tail(log, 40))
		}
	}()
	for id := range programs {
		start(id)
	}
	state := func() string {
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Sprintf("%d in use, %+v", c.count(), c.status)
	}
	master := func(not int) (id int) {
		wait.For(t, "there is a master", func() bool {
			id = c.master()
			return id >= 0 && id != not
		}, state)
		return id
	}
	master(-1)
	full := func(what string) {
		t.Helper()
		began := time.Now()
		wait.For(t, what+": all is in use", func() bool { return c.now() >= total-1 }, state)
		t.Logf("%s: all is in use after %v", what, time.Since(began).Round(10*time.Millisecond))
	}
	full("at first")
	for range 3 {
		id := master(-1)
		programs[id].Kill()
		killed := time.Now()
		next := master(id)
		t.Logf("program %d is killed, and %d is master after %v", id, next, time.Since(killed).Round(10*time.Millisecond))
		full("the master was killed")
		start(id)
	}
	id := master(-1)
	if err := programs[id].Pause(); err != nil {
		t.Fatal(err)
	}
	c.pause(id)
	master(id)
	full("the master stands still")
	if err := programs[id].Resume(); err != nil {
		t.Fatal(err)
	}
	c.pause(-1)
	wait.For(t, "it goes on", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return time.Since(c.status[id].at) < time.Second
	})
	full("and goes on")
	c.mu.Lock()
	defer c.mu.Unlock()
	lost := 0
	for _, s := range c.status {
		lost += s.lost
	}
	t.Logf("%d uses, %d at a time at most, %d places lost", c.uses, c.most, lost)
	if len(c.over) > 0 {
		t.Errorf("%d times too many were in use: %v", len(c.over), slices.Compact(c.over))
	}
}
