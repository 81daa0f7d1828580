package history

import (
	"bytes"
	"io"
	"sync"
)

// RecentBytes is how much a Recent keeps.
const RecentBytes = 1 << 20

// Recent keeps the last records that are written to it, up to RecentBytes, and at least one. The
// zero value is ready; its methods are safe for concurrent use, and Write never fails.
type Recent struct {
	mu    sync.Mutex
	lines [][]byte // which nobody changes
	size  int
}

// Write adds a line, and drops the oldest.
func (r *Recent) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, bytes.Clone(line))
	r.size += len(line)
	drop := 0
	for r.size > RecentBytes && drop < len(r.lines)-1 {
		r.size -= len(r.lines[drop])
		r.lines[drop] = nil // the array lives on
		drop++
	}
	r.lines = r.lines[drop:]
	return len(line), nil
}

// WriteTo writes what is kept now, and does not keep Write waiting for w.
func (r *Recent) WriteTo(w io.Writer) (n int64, err error) {
	r.mu.Lock()
	lines := append([][]byte(nil), r.lines...)
	r.mu.Unlock()
	for _, line := range lines {
		k, err := w.Write(line)
		if n += int64(k); err != nil {
			return n, err
		}
	}
	return n, nil
}
