package quorum

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static/internal/raftstream"
	"github.com/musterhq/muster/providers/static/internal/replicated"
	"github.com/musterhq/muster/providers/static/internal/voter"
)

// The operations of driver.Store are carried out by the leader: by this node if
// it leads, and by a request to the leader if not.

const (
	storeGet    = "get"
	storeList   = "list"
	storeSet    = "set"
	storeDelete = "delete"
)

// Get implements driver.Store.
func (a *Authority) Get(ctx context.Context, key string) (driver.Record, error) {
	reply, err := a.store(ctx, storeRequest{Op: storeGet, Key: key})
	if err != nil {
		return driver.Record{}, err
	}
	if len(reply.Records) != 1 {
		return driver.Record{}, fmt.Errorf("%w: %d records for one key", driver.ErrUnavailable, len(reply.Records))
	}
	return driver.Record(reply.Records[0]), nil
}

// Records implements driver.Store.
func (a *Authority) Records(ctx context.Context, prefix string) ([]driver.Record, error) {
	reply, err := a.store(ctx, storeRequest{Op: storeList, Key: prefix})
	if err != nil {
		return nil, err
	}
	records := make([]driver.Record, 0, len(reply.Records))
	for _, r := range reply.Records {
		records = append(records, driver.Record(r))
	}
	return records, nil
}

// Set implements driver.Store.
func (a *Authority) Set(ctx context.Context, key string, value []byte, prev driver.Revision) (driver.Revision, error) {
	if key == "" {
		return 0, fmt.Errorf("%w: a record needs a key", driver.ErrInvalid)
	}
	if len(value) > driver.MaxRecordSize {
		return 0, fmt.Errorf("%w: record %q has %d bytes, and at most %d fit", driver.ErrInvalid, key, len(value), driver.MaxRecordSize)
	}
	reply, err := a.store(ctx, storeRequest{Op: storeSet, Key: key, Value: value, Prev: prev})
	return reply.Revision, err
}

// Delete implements driver.Store.
func (a *Authority) Delete(ctx context.Context, key string, prev driver.Revision) error {
	_, err := a.store(ctx, storeRequest{Op: storeDelete, Key: key, Prev: prev})
	return err
}

func (a *Authority) store(ctx context.Context, r storeRequest) (storeReply, error) {
	if a.ctx.Err() != nil {
		return storeReply{}, voter.ErrClosed
	}
	if m := a.voter.Member(); m != nil {
		if _, leads := m.Leading(); leads {
			return a.answerStore(ctx, r)
		}
	}
	leader := a.voter.KnownLeader()
	if leader == "" {
		a.voter.PollVoters() // the last look may have been in the middle of an election
		leader = a.voter.KnownLeader()
	}
	if leader == "" {
		return storeReply{}, fmt.Errorf("%w: the voters have no leader; %s", driver.ErrUnavailable, a.voter.WaitingFor())
	}
	reply, err := a.askLeader(ctx, leader, r)
	if errors.Is(err, errReplaced) && (r.Op == storeGet || r.Op == storeList) {
		return a.store(ctx, r) // nothing was changed
	}
	return reply, err
}

// errReplaced ends a request to a leader that is none any more: it may be paused, or cut off.
var errReplaced = fmt.Errorf("%w: the voters have another leader than the one that was asked", driver.ErrUnavailable)

// askLeader has a leader carry r out. It waits for the answer until there is another leader.
func (a *Authority) askLeader(ctx context.Context, leader string, r storeRequest) (storeReply, error) {
	calling, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	watching.Go(func() {
		for range a.voter.WatchChanges(calling) {
			if now := a.voter.KnownLeader(); now != "" && now != leader {
				cancel(errReplaced)
				return
			}
		}
	})
	var reply storeReply
	err := a.voter.Call(calling, raftstream.AddrOf(leader), pathStore, r, &reply)
	if err != nil && errors.Is(context.Cause(calling), errReplaced) {
		err = errReplaced
	}
	return reply, err
}

// answerStore carries r out on the leader.
func (a *Authority) answerStore(ctx context.Context, r storeRequest) (storeReply, error) {
	m := a.voter.Member()
	if m == nil {
		return storeReply{}, voter.ErrNotLeader
	}
	term, leads := m.Leading()
	if !leads {
		return storeReply{}, voter.ErrNotLeader
	}
	switch r.Op {
	case storeSet:
		if r.Key == "" || len(r.Value) > driver.MaxRecordSize {
			return storeReply{}, fmt.Errorf("%w: record %q of %d bytes", driver.ErrInvalid, r.Key, len(r.Value))
		}
		out, err := m.Apply(ctx, replicated.Command{Op: replicated.OpSet, Key: r.Key, Value: r.Value, Prev: r.Prev})
		return storeReply{Revision: out.Revision}, err
	case storeDelete:
		_, err := m.Apply(ctx, replicated.Command{Op: replicated.OpDelete, Key: r.Key, Prev: r.Prev})
		return storeReply{}, err
	case storeGet, storeList:
		return a.read(ctx, m, term, r)
	}
	return storeReply{}, fmt.Errorf("%w: unknown operation %q; upgrade voter %s", driver.ErrInvalid, r.Op, a.voter.Self())
}

// read is linearizable, and writes to no disk except once in each term of Raft:
// the state holds all that was committed in earlier terms, and all that was
// acknowledged in this one; and that no later leader had been elected when the
// read began is confirmed by a majority after that.
func (a *Authority) read(ctx context.Context, m *voter.Member, term uint64, r storeRequest) (storeReply, error) {
	if err := m.CatchUp(ctx, term); err != nil {
		return storeReply{}, err
	}
	if _, err := a.collectLeases(ctx, m, term, 0); err != nil {
		return storeReply{}, err
	}
	var reply storeReply
	if r.Op == storeList {
		for _, rec := range m.State.List(r.Key) {
			reply.Records = append(reply.Records, storeRecord(rec))
		}
		return reply, nil
	}
	rec, err := m.State.Get(r.Key)
	if err == nil {
		reply.Records = []storeRecord{storeRecord(rec)}
	}
	return reply, err
}
