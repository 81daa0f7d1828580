package faultproxy_test

import (
	"context"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/testserver"
)

// A real client of gRPC and a real server: calls, streams, errors and faults.
func TestGRPC(t *testing.T) {
	server := testserver.StartEtcd(t)
	h := faultproxy.NewHTTP(t, server.Addr())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + h.Addr()}, MaxUnaryRetries: 1, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	put := func(key string) error {
		_, err := client.Txn(ctx).Then(clientv3.OpPut(key, "value")).Commit()
		return err
	}
	has := func(key string) bool {
		r, err := server.Client().Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		return r.Count == 1
	}

	// Calls and streams, in messages.
	lease, err := client.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	keep, err := pb.NewLeaseClient(client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := keep.Send(&pb.LeaseKeepAliveRequest{ID: int64(lease.ID)}); err != nil {
			t.Fatal(err)
		}
		if r, err := keep.Recv(); err != nil || r.TTL != 60 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	events := client.Watch(watching, "a", clientv3.WithCreatedNotify())
	if r := <-events; !r.Created {
		t.Fatalf("%+v, %v", r, r.Err())
	}
	if err := put("a"); err != nil {
		t.Fatal(err)
	}
	if r := <-events; len(r.Events) != 1 {
		t.Fatalf("%+v, %v", r, r.Err())
	}
	// An error that is all there is of an answer.
	if _, err := client.Revoke(ctx, lease.ID+1); err != rpctypes.ErrLeaseNotFound {
		t.Errorf("Revoke = %v, want what etcd says", err)
	}
	for call, want := range map[string]faultproxy.Count{
		"POST /etcdserverpb.Lease/LeaseGrant":     {Calls: 1, Requests: 1, Answers: 1},
		"POST /etcdserverpb.Lease/LeaseKeepAlive": {Calls: 1, Requests: 3, Answers: 3},
		"POST /etcdserverpb.Watch/Watch":          {Calls: 1, Requests: 1, Answers: 2},
		"POST /etcdserverpb.KV/Txn":               {Calls: 1, Requests: 1, Answers: 1},
		"POST /etcdserverpb.Lease/LeaseRevoke":    {Calls: 1, Requests: 1},
	} {
		if got := h.Counts()[call]; got != want {
			t.Errorf("%s: %+v, want %+v", call, got, want)
		}
	}

	// Faults of calls.
	const txn = "POST /etcdserverpb.KV/Txn"
	for _, v := range []struct {
		outcome faultproxy.Outcome
		key     string
		done    bool
		code    codes.Code
	}{
		{faultproxy.Refuse, "refused", false, codes.Unavailable},
		{faultproxy.Break, "broken", true, codes.Internal},
		{faultproxy.Garbage, "garbled", true, codes.Internal},
	} {
		hits := h.Inject(faultproxy.Fault{Outcome: v.outcome, Calls: txn, Nth: 1})
		err := put(v.key)
		if code := status.Code(err); code != v.code {
			t.Errorf("%s: %v, want code %v", v.key, err, v.code)
		}
		if done := has(v.key); done != v.done || hits.Count() != 1 {
			t.Errorf("%s: carried out %v, want %v; %d hits", v.key, done, v.done, hits.Count())
		}
		if err := put(v.key + "-again"); err != nil {
			t.Errorf("the call after: %v", err)
		}
	}
	hits := h.Inject(faultproxy.Fault{Outcome: faultproxy.Silence, Calls: txn, Nth: 1})
	short, giveUp := context.WithCancel(ctx)
	go func() {
		if hits.Wait(ctx, 1) == nil {
			giveUp()
		}
	}()
	if _, err := client.Txn(short).Then(clientv3.OpPut("silent", "value")).Commit(); err == nil {
		t.Error("an answer that was lost came")
	}
	if !has("silent") {
		t.Error("what was silenced is not carried out")
	}

	// The watch has gone on all the while.
	if err := put("a"); err != nil {
		t.Fatal(err)
	}
	if r := <-events; len(r.Events) != 1 {
		t.Fatalf("%+v, %v", r, r.Err())
	}
	if got := h.Counts()["POST /etcdserverpb.Watch/Watch"]; got.Calls != 1 || got.Answers != 3 {
		t.Errorf("watches: %+v", got)
	}

	// The end of the server ends a stream on which the client has nothing to say.
	keep, err = pb.NewLeaseClient(client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err == nil {
		err = keep.Send(&pb.LeaseKeepAliveRequest{ID: int64(lease.ID)})
	}
	if err == nil {
		_, err = keep.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if r, err := keep.Recv(); err == nil || ctx.Err() != nil {
		t.Errorf("a stream of a server that is gone: %v, %v", r, err)
	}
}
