package node

import (
	"context"
	"errors"
	"iter"
	"sync"
)

// MaxViewsBehind is how many views wait for a reader of AllViews. Each has a list of all members,
// so that a reader which hangs would cost the memory of the process if there were no bound.
const MaxViewsBehind = 1024

// ErrViewsLost ends AllViews for a reader that was too slow.
var ErrViewsLost = errors.New("views were lost: the reader was too slow")

// AllViews yields the view now and each one after it, in order, until ctx or the node ends: the
// Seq of each is one more than that of the last. It is for those who must see each change; Views
// is for all others. A reader that lets more than MaxViewsBehind views wait is yielded those, and
// then ErrViewsLost with a zero view, which is the last: call AllViews again to go on with the view
// at that time. Views that wait when the node ends are yielded.
func (n *Node) AllViews(ctx context.Context) iter.Seq2[View, error] {
	return func(yield func(View, error) bool) {
		ctx, stop := n.bind(ctx)
		defer stop()
		r := n.readers.open()
		defer n.readers.close(r)
		for {
			views, lost := n.readers.take(r)
			for _, view := range views {
				if !yield(view, nil) {
					return
				}
			}
			if lost {
				yield(View{}, ErrViewsLost)
				return
			}
			select {
			case <-r.arrived:
			case <-ctx.Done():
				if n.ctx.Err() == nil {
					return
				}
				views, _ := n.readers.take(r)
				for _, view := range views {
					if !yield(view, nil) {
						return
					}
				}
				return
			}
		}
	}
}

// viewReaders are the calls of AllViews that are under way.
type viewReaders struct {
	mu   sync.Mutex
	last *View
	all  map[*viewReader]bool
}

type viewReader struct {
	waiting []View
	lost    bool
	arrived chan struct{} // holds one element
}

func (s *viewReaders) put(v View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = &v
	for r := range s.all {
		if len(r.waiting) >= MaxViewsBehind {
			r.lost = true
		}
		if !r.lost {
			r.waiting = append(r.waiting, v)
		}
		signal(r.arrived)
	}
}

func (s *viewReaders) open() *viewReader {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &viewReader{arrived: make(chan struct{}, 1)}
	if s.last != nil {
		r.waiting = []View{*s.last}
	}
	if s.all == nil {
		s.all = make(map[*viewReader]bool)
	}
	s.all[r] = true
	return r
}

func (s *viewReaders) close(r *viewReader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, r)
}

// take returns what waits, and whether views after that were lost.
func (s *viewReaders) take(r *viewReader) ([]View, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	views := r.waiting
	r.waiting = nil
	return views, r.lost
}
