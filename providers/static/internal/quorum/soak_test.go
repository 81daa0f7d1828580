package quorum

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// TestSoak breaks one thing after the other at random: links cut in one or both
// directions, answers that come late, voters killed and restarted, left in good
// order, or robbed of their directory. All the while the checker watches the
// grants, and writers raise a counter of which no acknowledged step may be lost.
// QUORUM_SOAK=10m makes it last, and QUORUM_SEED repeats one.
func TestSoak(t *testing.T) {
	t.Parallel()
	length := 12 * time.Second
	if s := os.Getenv("QUORUM_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		length = d
	}
	seed := rand.Uint64()
	if s := os.Getenv("QUORUM_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	c := newCluster(t, 5)
	c.ttl = 300 * time.Millisecond
	observer := c.add()
	observer.setList(c.addrs()[:5]...)
	observer.dir = ""
	for _, p := range c.nodes {
		p.start()
	}
	c.master()
	voters := c.nodes[:5]

	// The writers go through the observer, which is never killed.
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	acked := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			if raise(ctx, observer.auth) {
				acked++
			}
		}
	})

	began := time.Now()
	steps := 0
	for ; time.Since(began) < length; steps++ {
		p := voters[rnd.IntN(5)]
		q := voters[rnd.IntN(5)]
		rest := func() { time.Sleep(time.Duration(rnd.IntN(1200)) * time.Millisecond) }
		switch fault := rnd.IntN(8); fault {
		case 0:
			c.net.Cut([]string{p.addr}, c.addrs(), true)
			rest()
		case 1:
			c.net.Cut([]string{p.addr}, []string{q.addr}, false)
			rest()
		case 2: // two halves
			k := 1 + rnd.IntN(3)
			c.net.Cut(addrs(voters[:k]), addrs(voters[k:]), true)
			rest()
		case 3:
			for _, x := range c.nodes {
				c.net.Slow(x.addr, p.addr, time.Duration(rnd.IntN(900))*time.Millisecond)
			}
			rest()
		case 4, 5:
			p.crash()
			if fault == 5 {
				q.crash() // perhaps the same
			}
			if rnd.IntN(2) == 0 {
				rest()
			}
			for _, x := range voters {
				if x.auth == nil {
					x.start()
				}
			}
		case 6:
			p.leave()
			rest()
			p.start()
		case 7:
			// A voter without its directory counts as dead until it is taken in, so
			// the others must be well.
			c.net.Heal()
			c.master()
			c.inForce(voters...)
			p.crash()
			p.wipe()
			p.start()
		}
		if rnd.IntN(3) > 0 {
			c.net.Heal()
		}
	}
	c.net.Heal()
	c.inForce(voters...)
	c.master()
	stop()
	wg.Wait()
	counter := c.get(observer, "counter")
	if got, _ := strconv.Atoi(counter); got < acked {
		t.Errorf("the counter is %d after %d acknowledged steps", got, acked)
	}
	t.Logf("%d faults, %d masterships, %d acknowledged writes, counter %s", steps, c.check.count(), acked, counter)
}

// raise adds one to the counter, and reports whether that was acknowledged.
func raise(ctx context.Context, s driver.Store) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	all, err := s.Records(ctx, "counter")
	if err != nil {
		time.Sleep(10 * time.Millisecond)
		return false
	}
	var n int
	var rev driver.Revision
	if len(all) == 1 {
		n, _ = strconv.Atoi(string(all[0].Value))
		rev = all[0].Revision
	}
	_, err = s.Set(ctx, "counter", fmt.Append(nil, n+1), rev)
	return err == nil
}
