package etcd

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
)

// seconds rounds a TTL up to what etcd counts in.
func seconds(ttl time.Duration) int64 { return int64((ttl + time.Second - 1) / time.Second) }

// checkTTL returns the TTL to ask for.
func checkTTL(ttl, byDefault time.Duration) (time.Duration, error) {
	switch {
	case ttl < 0:
		return 0, fmt.Errorf("etcd: %w: negative TTL %v", driver.ErrInvalid, ttl)
	case ttl == 0:
		return byDefault, nil
	}
	return ttl, nil
}

// grant makes a lease. etcd may grant a longer TTL: 2 s at least with its default
// election timeout.
func (d *Driver) grant(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, time.Duration, error) {
	r, err := d.client.Grant(ctx, seconds(ttl))
	if err != nil {
		return 0, 0, d.failed(ctx, "grant a lease", err)
	}
	return r.ID, time.Duration(r.TTL) * time.Second, nil
}

// keepAlive extends a lease and returns its TTL, or an error that wraps
// driver.ErrSessionLost if there is no such lease.
//
// The etcd client's KeepAliveOnce is not used: while etcd is away it tries again
// without a pause until the context ends.
func (d *Driver) keepAlive(ctx context.Context, id clientv3.LeaseID) (time.Duration, error) {
	r, err := d.keepAliveOnce(ctx, id)
	if err != nil && d.transport.forgetIfStale(err) {
		r, err = d.keepAliveOnce(ctx, id)
	}
	switch {
	case err != nil && leaseGone(err), err == nil && r.TTL <= 0:
		return 0, fmt.Errorf("etcd: lease %x: %w", id, driver.ErrSessionLost)
	case err != nil:
		return 0, d.failed(ctx, "renew a lease", err)
	}
	return time.Duration(r.TTL) * time.Second, nil
}

func (d *Driver) keepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*pb.LeaseKeepAliveResponse, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	stream, err := d.leases.LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err
	}
	// If the stream is broken Recv says why.
	sendErr := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)})
	r, err := stream.Recv()
	if err == nil && sendErr != nil {
		err = sendErr
	}
	return r, err
}

// revoke ends a lease and removes its keys. That it has ended already is no error.
func (d *Driver) revoke(ctx context.Context, id clientv3.LeaseID) error {
	if _, err := d.client.Revoke(ctx, id); err != nil && !leaseGone(err) {
		return d.failed(ctx, "revoke a lease", err)
	}
	return nil
}
