package quorum

import (
	"context"
	"fmt"

	"github.com/musterhq/muster/discovery/driver"
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
		return storeReply{}, errClosed
	}
	if m := a.member.Load(); m != nil {
		if _, leads := m.leading(); leads {
			return a.answerStore(ctx, r)
		}
	}
	leader := a.knownLeader()
	if leader == "" {
		a.look() // the last look may have been in the middle of an election
		leader = a.knownLeader()
	}
	if leader == "" {
		return storeReply{}, fmt.Errorf("%w: the voters have no leader; %s", driver.ErrUnavailable, a.waitingFor())
	}
	var reply storeReply
	err := a.caller.call(ctx, addrOf(leader), pathStore, r, &reply)
	return reply, err
}

// answerStore carries r out on the leader.
func (a *Authority) answerStore(ctx context.Context, r storeRequest) (storeReply, error) {
	m := a.member.Load()
	if m == nil {
		return storeReply{}, errNotLeader
	}
	term, leads := m.leading()
	if !leads {
		return storeReply{}, errNotLeader
	}
	switch r.Op {
	case storeSet:
		if r.Key == "" || len(r.Value) > driver.MaxRecordSize {
			return storeReply{}, fmt.Errorf("%w: record %q of %d bytes", driver.ErrInvalid, r.Key, len(r.Value))
		}
		out, err := m.apply(ctx, command{Op: opSet, Key: r.Key, Value: r.Value, Prev: r.Prev})
		return storeReply{Revision: out.revision}, err
	case storeDelete:
		_, err := m.apply(ctx, command{Op: opDelete, Key: r.Key, Prev: r.Prev})
		return storeReply{}, err
	case storeGet, storeList:
		return a.read(ctx, m, term, r)
	}
	return storeReply{}, fmt.Errorf("%w: unknown operation %q; upgrade voter %s", driver.ErrInvalid, r.Op, a.cfg.Self)
}

// read is linearizable, and writes to no disk except once in each term of Raft:
// the state holds all that was committed in earlier terms, and all that was
// acknowledged in this one; and that no later leader had been elected when the
// read began is confirmed by a majority after that.
func (a *Authority) read(ctx context.Context, m *member, term uint64, r storeRequest) (storeReply, error) {
	if err := m.catchUp(ctx, term); err != nil {
		return storeReply{}, err
	}
	if _, err := a.prove(ctx, m, term, 0); err != nil {
		return storeReply{}, err
	}
	var reply storeReply
	if r.Op == storeList {
		for _, rec := range m.state.list(r.Key) {
			reply.Records = append(reply.Records, storeRecord(rec))
		}
		return reply, nil
	}
	rec, err := m.state.get(r.Key)
	if err == nil {
		reply.Records = []storeRecord{storeRecord(rec)}
	}
	return reply, err
}
