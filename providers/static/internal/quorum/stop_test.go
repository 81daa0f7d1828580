package quorum

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// Raft forgets what it holds when it ends, and then a caller would wait without end.
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
	// The ports stay bound for as long as the test runs.
	ports := goleak.IgnoreAnyFunction("github.com/musterhq/muster/internal/testing/testnet.(*Port).serve")
	if err := goleak.Find(running, ports); err != nil {
		t.Error(err)
	}
}
