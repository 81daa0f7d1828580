package quorum

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/musterhq/muster/providers/static/internal/voter"
)

// full is a disk that can be filled.
type full struct {
	raft.StableStore
	is *atomic.Bool
}

func (f full) SetUint64(key []byte, v uint64) error {
	if f.is.Load() {
		return syscall.ENOSPC
	}
	return f.StableStore.SetUint64(key, v)
}

// TestDiskFull is the other half of fault 48: a voter that cannot write does not
// vote, says so, does not take its process down, and comes back when it can.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	var filled atomic.Bool
	victim := c.nodes[0]
	victim.tweak = func(cfg *voter.Config) {
		cfg.WrapStable = func(s raft.StableStore) raft.StableStore { return full{s, &filled} }
	}
	c.start()
	m := c.master()
	c.voting()
	filled.Store(true)
	if m == victim {
		// A renewal writes nothing: the master stays, until another election.
		c.steady(1)
		m.elector.resign()
		m.elector.stop()
		c.masterNot(m)
		m.elector = startElector(m)
	} else {
		m.crash()
		// The one voter that is left cannot win without the victim.
		c.steady(0)
		m.start()
		c.master()
	}
	for range 10 { // elections, until one asks the victim for a vote
		if victim.auth.voter.Member() == nil || victim.auth.voter.Member().Err() != nil {
			break
		}
		if m := c.master(); m != victim {
			m.crash()
			m.start()
		}
		c.master()
	}
	c.eventually("a warning", func() bool {
		ms, err := victim.auth.mastership()
		return err == nil && strings.Contains(ms.Warning, "node.data_dir") && strings.Contains(ms.Warning, "no space left")
	})
	filled.Store(false)
	c.eventually("the voter back", func() bool {
		ms, err := victim.auth.mastership()
		return err == nil && ms.Warning == "" && ms.Holder != nil && victim.auth.voter.Member() != nil
	})
}
