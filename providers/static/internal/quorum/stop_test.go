package quorum

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// Raft forgets what it holds when it ends, and then whoever asked would wait for ever.
func TestStopLeavesNobodyWaiting(t *testing.T) {
	running := goleak.IgnoreCurrent()
	for range 3 {
		c := newCluster(t, 1)
		c.start()
		p := c.master()
		var writers sync.WaitGroup
		var written sync.WaitGroup
		for w := range 32 {
			written.Add(1)
			writers.Go(func() {
				key := fmt.Sprint(w)
				rev, err := p.auth.Set(context.Background(), key, nil, 0)
				written.Done()
				for err == nil {
					rev, err = p.auth.Set(context.Background(), key, nil, rev)
				}
			})
		}
		written.Wait()
		auth := p.auth // which crash forgets
		p.elector.stop()
		p.elector = nil
		auth.Close(context.Background())
		writers.Wait()
		p.crash()
	}
	if err := goleak.Find(running); err != nil {
		t.Error(err)
	}
}
