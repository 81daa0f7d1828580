package voter

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/providers/static/internal/voterdir"
)

// diskRetry is how long a voter whose disk failed waits before it opens it again.
const diskRetry = 5 * time.Second

// directory is the directory of this voter: open while it takes part in Raft or is about to, and
// what it proved last, which others ask for also after it was closed.
type directory struct {
	path string

	// Of the goroutine of the life cycle alone.
	dir        *voterdir.Dir // nil while it is closed
	quietUntil clock.Instant // leases of an earlier process may be running until then
	blank      bool          // when it was opened: no voter ever ran on it
	retryAt    clock.Instant // not to be opened before

	mu     sync.Mutex
	proven voterdir.Identity // what it says, also after it was closed
	phase  Phase             // how far the voter has come, while there is no member
	// What an operator should fix: why it cannot be used, and why the last mastership is not saved.
	problem, committedProblem string
}

// open opens the directory of the voter self and begins the quiet time: vote leases that an earlier
// process gave may still be running, and the table of them ended with the process. The longest
// lease that is ever given is on disk before the first. The quiet time lasts as long, and for quiet
// at least. A voter that founds a cluster with all others has nothing to be quiet about: see
// foundedByAll.
func (d *directory) open(cluster, self string, quiet time.Duration, logger *slog.Logger) error {
	dir, err := voterdir.Open(d.path, cluster, self, raftLogger(logger))
	if err != nil {
		return err
	}
	established, err := dir.Established()
	if err != nil {
		_ = dir.Close()
		return d.unreadable(err)
	}
	has, err := dir.HasState()
	if err != nil {
		_ = dir.Close()
		return d.unreadable(err)
	}
	d.dir = dir
	d.quietUntil = clock.Now().Add(max(dir.LongestLease, quiet))
	d.blank = !established && !has && dir.LongestLease == 0
	phase := PhaseEmpty
	switch {
	case established:
		phase = phaseEstablished
	case has:
		phase = phaseFresh
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.proven, d.phase = dir.Identity, phase
	return nil
}

func (d *directory) unreadable(err error) error {
	return fmt.Errorf("node.data_dir: %q: %w; make it readable or name another", d.path, voterdir.BareError(err))
}

func (d *directory) isOpen() bool { return d.dir != nil }

// exists reports whether a voter has ever used it.
func (d *directory) exists() bool { return voterdir.Exists(d.path) }

func (d *directory) close() error {
	if d.dir == nil {
		return nil
	}
	err := d.dir.Close()
	d.dir = nil
	return err
}

// discard closes the directory and empties it.
func (d *directory) discard() error {
	dir := d.dir
	d.dir = nil
	if err := dir.Discard(); err != nil {
		return err
	}
	d.setPhase(PhaseEmpty)
	return nil
}

// save saves i and has others see what concerns them.
func (d *directory) save(i voterdir.Identity) error {
	if err := d.dir.SaveIdentity(i); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.proven = i
	return nil
}

// standing returns what the directory proves, and how far the voter has come.
func (d *directory) standing() (voterdir.Identity, Phase) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.proven, d.phase
}

func (d *directory) setPhase(p Phase) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.phase = p
}

// retryLater has the directory stay closed for a while.
func (d *directory) retryLater() { d.retryAt = clock.Now().Add(diskRetry) }

// setProblem notes why the directory cannot be used. Nil: it can.
func (d *directory) setProblem(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problem = ""
	if err != nil {
		d.problem = err.Error()
	}
}

// setCommittedProblem notes why the last mastership is not saved. Nil: it is.
func (d *directory) setCommittedProblem(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.committedProblem = ""
	if err != nil {
		d.committedProblem = d.unwritable(err).Error()
	}
}

// problems returns what an operator should fix, each "" if nothing is to be.
func (d *directory) problems() (problem, committed string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.problem, d.committedProblem
}

func (d *directory) unwritable(err error) error {
	return fmt.Errorf("node.data_dir: %q cannot be written: %v", d.path, voterdir.BareError(err))
}
