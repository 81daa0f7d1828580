package static

import (
	"context"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
)

// settleTime is how long a file is left alone after a change was reported: an
// editor that writes in place makes several, with half a file in between.
const settleTime = 50 * time.Millisecond

// Watch yields the set each time that it changes. It learns of changes to the
// file by the system, and looks for itself at each refresh, which is all there is
// for names. A file that is broken, or a name that cannot be resolved, ends the
// sequence with the error.
func (d *Driver) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return func(yield func(driver.Snapshot, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		changed := d.fileChanges(ctx, &wg)
		revision := since.Revision
		for {
			listed, _ := d.listed()
			now, err := d.List(ctx, q)
			if err != nil && ctx.Err() == nil {
				// Perhaps caught half-written: look again before making a noise.
				if backoff.Sleep(ctx, 2*settleTime) != nil {
					return
				}
				listed, _ = d.listed()
				now, err = d.List(ctx, q)
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				yield(driver.Snapshot{}, err)
				return
			case now.Revision > revision:
				revision = now.Revision
				if !yield(now, nil) {
					return
				}
			}
			if !d.awaitChange(ctx, changed, listed) {
				return
			}
		}
	}
}

// awaitChange waits for the next refresh, or until the file is another than
// listed. It reports false when ctx has ended.
func (d *Driver) awaitChange(ctx context.Context, changed <-chan struct{}, listed []string) bool {
	refresh := time.NewTimer(d.config.Refresh*3/4 + rand.N(d.config.Refresh/2))
	defer refresh.Stop()
	for {
		select {
		case <-refresh.C:
			return true
		case <-changed:
			if backoff.Sleep(ctx, settleTime) != nil {
				return false
			}
			// The directory may be a busy one, and names are not to be looked up for
			// what goes on in it.
			if now, err := d.listed(); err != nil || !slices.Equal(now, listed) {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// fileChanges returns a channel that is sent to when the file may have changed,
// until ctx ends. It is nil, and the timer alone must do, if there is no file
// or the system cannot watch it.
//
// The directory is watched and not the file: a rename over the file, or a swap of
// the symbolic link that Kubernetes mounts it behind, would take the watched file
// away.
func (d *Driver) fileChanges(ctx context.Context, wg *sync.WaitGroup) <-chan struct{} {
	if d.config.File == "" {
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil
	}
	if err := w.Add(filepath.Dir(d.config.File)); err != nil {
		_ = w.Close()
		return nil
	}
	changed := make(chan struct{}, 1)
	wg.Go(func() {
		defer w.Close()
		for {
			select {
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				if e.Op == fsnotify.Chmod {
					continue
				}
			case _, ok := <-w.Errors: // such as an overflow: look
				if !ok {
					return
				}
			case <-ctx.Done():
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	return changed
}
