package netlab

import (
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Trouble is what a cable does to the packets that go over it, in each direction.
type Trouble struct {
	// Delay is how much later each packet comes, and Jitter how much more by chance: with
	// it packets overtake each other.
	Delay, Jitter time.Duration
	// Twice is how many of a hundred packets come a second time, with a delay of its own.
	Twice int
}

// cable joins a host to the bridge by way of this process, frame by frame: what netem
// does in kernels that have it.
type cable struct {
	host, bridge *os.File // network devices: each read is a frame
	trouble      atomic.Pointer[Trouble]
	underWay     atomic.Int64
	ends         sync.WaitGroup
}

const (
	// maxFrame is the largest that an Ethernet of the usual MTU has.
	maxFrame = 1 << 11
	// maxUnderWay bounds the frames on a cable, as the queue of a router does.
	maxUnderWay = 10_000
)

// lay starts the cable between two devices, which it owns from then on.
func lay(host, bridge *os.File) *cable {
	c := &cable{host: host, bridge: bridge}
	c.trouble.Store(new(Trouble))
	c.ends.Go(func() { c.carry(host, bridge) })
	c.ends.Go(func() { c.carry(bridge, host) })
	return c
}

// cut ends it. What is under way is lost.
func (c *cable) cut() {
	_ = c.host.Close()
	_ = c.bridge.Close()
	c.ends.Wait()
}

// carry carries frames until a device is closed. A device that takes no more loses a
// frame, as one of hardware does.
func (c *cable) carry(from, to *os.File) {
	buffer := make([]byte, maxFrame)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		t := *c.trouble.Load()
		if t == (Trouble{}) {
			_, _ = to.Write(buffer[:n])
			continue
		}
		frame := append([]byte(nil), buffer[:n]...)
		c.later(to, frame, t)
		if rand.IntN(100) < t.Twice {
			c.later(to, frame, t)
		}
	}
}

func (c *cable) later(to *os.File, frame []byte, t Trouble) {
	if c.underWay.Add(1) > maxUnderWay {
		c.underWay.Add(-1)
		return
	}
	wait := t.Delay
	if t.Jitter > 0 {
		wait += rand.N(t.Jitter)
	}
	time.AfterFunc(wait, func() {
		defer c.underWay.Add(-1)
		_, _ = to.Write(frame)
	})
}
