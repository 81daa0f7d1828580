package discovery

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Stats counts what a Registry did since it was made.
type Stats struct {
	// Calls of the driver by operation: list, watch, services, open_session,
	// open_authority.
	Calls map[string]uint64
	// Errors of those calls by Kind.
	Errors map[string]uint64
	// LastError is the newest of them, and LastErrorAt its time.
	LastError   error
	LastErrorAt time.Time
	// LastSuccessAt is when a set was last read.
	LastSuccessAt time.Time
	// Snapshots is how many sets were read, listed or watched.
	Snapshots uint64
	// Skipped is how many unreadable entries were met, counted at each reading.
	Skipped uint64
	// WatchRestarts is how often a driver's watch broke and was begun again.
	WatchRestarts uint64
}

// Kind names the kind of a driver's error in one word, for metrics: unavailable,
// denied, invalid, not_found, conflict, closed or unsupported; an error of no kind is
// unavailable. Of nil it is empty.
func Kind(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, driver.ErrDenied):
		return "denied"
	case errors.Is(err, driver.ErrInvalid):
		return "invalid"
	case errors.Is(err, driver.ErrClosed):
		return "closed"
	case errors.Is(err, driver.ErrUnsupported):
		return "unsupported"
	case errors.Is(err, driver.ErrConflict):
		return "conflict"
	case errors.Is(err, driver.ErrNotFound):
		return "not_found"
	}
	return "unavailable"
}

type counters struct {
	mu sync.Mutex
	s  Stats
}

func (c *counters) called(op string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s.Calls == nil {
		c.s.Calls = make(map[string]uint64)
	}
	c.s.Calls[op]++
	if err != nil {
		c.failed(err)
	}
}

// failed wants the lock held.
func (c *counters) failed(err error) {
	if c.s.Errors == nil {
		c.s.Errors = make(map[string]uint64)
	}
	c.s.Errors[Kind(err)]++
	c.s.LastError, c.s.LastErrorAt = err, time.Now()
}

// restarted counts a watch that broke.
func (c *counters) restarted(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.WatchRestarts++
	c.failed(err)
}

func (c *counters) snapshot(skipped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Snapshots++
	c.s.Skipped += uint64(skipped)
	c.s.LastSuccessAt = time.Now()
}

func (c *counters) load() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.s
	s.Calls, s.Errors = maps.Clone(s.Calls), maps.Clone(s.Errors)
	return s
}
