package etcd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/discovery/driver"
)

// Watch applies to since the changes after since.Revision.
func (d *Driver) Watch(ctx context.Context, q driver.Query, since driver.Snapshot) iter.Seq2[driver.Snapshot, error] {
	return func(yield func(driver.Snapshot, error) bool) {
		if q.Service == "" {
			yield(driver.Snapshot{}, fmt.Errorf("etcd: %w: query without a service", driver.ErrInvalid))
			return
		}
		set, err := d.resume(ctx, q.Service, since)
		if err != nil {
			if ctx.Err() == nil {
				yield(driver.Snapshot{}, err)
			}
			return
		}
		from, end := set.interval()
		for events, err := range d.watch(ctx, from, end, int64(since.Revision)) {
			if err != nil {
				yield(driver.Snapshot{}, err)
				return
			}
			events = slices.DeleteFunc(events, func(e *mvccpb.Event) bool { return !set.owns(string(e.Kv.Key)) })
			if len(events) == 0 {
				continue
			}
			for _, e := range events {
				if e.Type == mvccpb.Event_DELETE {
					set.delete(string(e.Kv.Key))
				} else {
					set.put(string(e.Kv.Key), e.Kv.Value)
				}
			}
			if !yield(set.snapshot(last(events)), nil) {
				return
			}
		}
	}
}

// resume returns the set of since by its keys. Those of Muster follow from the
// instances. Those of other systems do not, as who writes them may choose them:
// there the set is read again, as it stood at that revision.
func (d *Driver) resume(ctx context.Context, service string, since driver.Snapshot) (*registrations, error) {
	own, ok := d.layout.(musterLayout)
	if !ok {
		set, _, err := d.read(ctx, service, int64(since.Revision))
		return set, err
	}
	set := d.registrations(service)
	for _, i := range since.Instances {
		set.instances[own.keys.instance(service, i.Key())] = i
	}
	for _, s := range since.Skipped {
		set.skipped[s.Key] = s.Reason
	}
	return set, nil
}

// last returns the revision up to which events are complete. It is not that of
// the header of their response, which may be ahead of what was sent so far.
func last(events []*mvccpb.Event) int64 { return events[len(events)-1].Kv.ModRevision }

// watch yields the changes of keys from one, and before end, after a revision, those
// of one revision together. An error ends it and comes last; the end of ctx ends
// it without one.
//
// The watcher of the etcd client is not used. It reconnects by itself, indefinitely and silently,
// so that its user does not learn that what it sees is old. And with a server whose data was lost
// it waits until the revision has been reached again.
func (d *Driver) watch(ctx context.Context, from, end string, after int64) iter.Seq2[[]*mvccpb.Event, error] {
	return func(yield func([]*mvccpb.Event, error) bool) {
		streaming, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		silent := time.AfterFunc(openTimeout, func() { cancel(errNotOpened) })
		defer silent.Stop()
		stream, err := d.openWatch(streaming, from, end, after)
		for err == nil {
			var r *pb.WatchResponse
			if r, err = stream.Recv(); err == nil {
				silent.Stop()
				err = d.checkWatch(r, after)
			}
			if err == nil && len(r.Events) > 0 && !yield(r.Events, nil) {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		if streaming.Err() != nil {
			err = status.Error(codes.Unavailable, context.Cause(streaming).Error())
		}
		if !errors.Is(err, driver.ErrCompacted) {
			if d.transport.forgetIfStale(err) {
				// The caller lists and watches again, and has another token then.
				err = status.Error(codes.Unavailable, "token refused: "+err.Error())
			}
			err = d.failed(ctx, "watch "+from, err)
		}
		yield(nil, err)
	}
}

// openTimeout bounds the time until etcd says that it watches. A watch that was lost on
// the way looks like one without changes.
const openTimeout = 10 * time.Second

var errNotOpened = fmt.Errorf("etcd does not say within %v that it watches", openTimeout)

func (d *Driver) openWatch(ctx context.Context, from, end string, after int64) (pb.Watch_WatchClient, error) {
	stream, err := d.watches.Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return nil, err
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key:           []byte(from),
		RangeEnd:      []byte(end),
		StartRevision: after + 1,
	}}})
	if err != nil {
		// The stream is broken; Recv says why.
		if _, recvErr := stream.Recv(); recvErr != nil {
			err = recvErr
		}
		return nil, err
	}
	return stream, nil
}

// checkWatch finds what a response says that is no change.
func (d *Driver) checkWatch(r *pb.WatchResponse, after int64) error {
	switch {
	case r.CompactRevision != 0:
		return fmt.Errorf("etcd: watch: %w: %d, the oldest is %d", driver.ErrCompacted, after, r.CompactRevision)
	case r.Canceled:
		// The reason is the text of a gRPC error.
		_, text, cut := strings.Cut(r.CancelReason, " desc = ")
		if !cut {
			text = r.CancelReason
		}
		return rpctypes.Error(status.Error(codes.Unknown, text))
	case r.Created && r.Header.GetRevision() < after:
		// etcd was wiped or restored: it would wait until it has reached that
		// revision again.
		return fmt.Errorf("etcd: watch: %w: %d, etcd is at %d and has lost data", driver.ErrCompacted, after, r.Header.GetRevision())
	}
	return nil
}
