package etcd

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/providers/etcd/internal/grants"
)

func openAuthority(t testing.TB, d *Driver, cluster string) *authority {
	t.Helper()
	a, err := d.OpenAuthority(context.Background(), driver.AuthorityOptions{Cluster: cluster, TTL: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(wait.Context(t)); err != nil {
			t.Errorf("Close of the authority: %v", err)
		}
	})
	return a.(*authority)
}

func claim(instance string) driver.Claim {
	return driver.Claim{Holder: driver.Holder{NodeID: "node-" + instance, InstanceID: instance, Addr: "10.0.0.5:7946"}, ClusterID: "id-of-" + instance}
}

// reconnected calls until the answer is no longer that etcd cannot be reached, and
// wants it to be a success.
func reconnected(t testing.TB, call func() error) {
	t.Helper()
	var err error
	wait.For(t, "etcd is reached again", func() bool {
		err = call()
		return !errors.Is(err, driver.ErrUnavailable)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestGrantedTTLIsReported(t *testing.T) {
	d := open(t, Config{Endpoints: []string{testserver.SharedEtcd(t).Endpoint()}, Prefix: newPrefix()})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if s.TTL() != 2*time.Second {
		t.Errorf("TTL of a session = %v, want the least that etcd grants, 2 s", s.TTL())
	}
	s.Close(wait.Context(t))
	opened, err := d.OpenAuthority(wait.Context(t), driver.AuthorityOptions{Cluster: "orders", TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close(wait.Context(t))
	g, err := opened.Acquire(wait.Context(t), claim("i1"))
	if err != nil || g.ValidFor != 2*time.Second {
		t.Errorf("Acquire = %+v, %v, want it valid for 2 s", g, err)
	}
	if g, err = opened.Renew(wait.Context(t), g); err != nil || g.ValidFor != 2*time.Second {
		t.Errorf("Renew = %+v, %v, want it valid for 2 s", g, err)
	}
	opened.Release(wait.Context(t), g)
	for _, o := range []driver.SessionOptions{{TTL: -1}} {
		if _, err := d.OpenSession(wait.Context(t), o); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("OpenSession(%v) = %v", o, err)
		}
	}
}

// Killed for longer than the TTL: nothing is an empty set meanwhile, and all is as
// it was soon after.
func TestEtcdKilledAndBack(t *testing.T) {
	server := testserver.StartEtcd(t)
	d := open(t, Config{Endpoints: []string{server.Endpoint()}})
	const ttl = 2 * time.Second
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	i := driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	if err := s.Register(wait.Context(t), i); err != nil {
		t.Fatal(err)
	}
	a := openAuthority(t, d, "orders")
	g, err := a.Acquire(wait.Context(t), claim("i1"))
	if err != nil {
		t.Fatal(err)
	}
	q := driver.Query{Service: "orders"}
	since, err := d.List(wait.Context(t), q)
	if err != nil {
		t.Fatal(err)
	}
	watching := make(chan error, 2)
	go func() {
		for _, err := range d.Watch(wait.Context(t), q, since) {
			watching <- err
		}
	}()
	go func() {
		for m, err := range a.Observe(wait.Context(t)) {
			if err != nil || m.Holder == nil {
				watching <- err
			}
		}
	}()

	server.Kill()
	for range 2 {
		select {
		case err := <-watching:
			if !errors.Is(err, driver.ErrUnavailable) {
				t.Errorf("a watch while etcd is killed: %v, want ErrUnavailable", err)
			}
		case <-time.After(wait.Patience):
			t.Fatal("a watch is silent though etcd is gone")
		}
	}
	for down := time.Now(); time.Since(down) < 2*ttl; time.Sleep(50 * time.Millisecond) {
		for what, err := range map[string]error{"Renew": s.Renew(wait.Context(t)), "Register": s.Register(wait.Context(t), i)} {
			if !errors.Is(err, driver.ErrUnavailable) || errors.Is(err, driver.ErrSessionLost) {
				t.Fatalf("%s while etcd is killed: %v, want ErrUnavailable", what, err)
			}
		}
		if _, err := a.Renew(wait.Context(t), g); !errors.Is(err, driver.ErrUnavailable) || errors.Is(err, driver.ErrSessionLost) {
			t.Fatalf("Renew of the grant while etcd is killed: %v, want ErrUnavailable", err)
		}
		if got, err := d.List(wait.Context(t), q); !errors.Is(err, driver.ErrUnavailable) {
			t.Fatalf("List while etcd is killed: %v, %v, want ErrUnavailable", got, err)
		}
	}
	server.Restart()
	start := time.Now()
	reconnected(t, func() error { return s.Renew(wait.Context(t)) })
	if took := time.Since(start); took > wait.Patience/3 {
		t.Errorf("%v until etcd was reached again", took)
	}
	// etcd has started the leases afresh.
	if got, err := d.List(wait.Context(t), q); err != nil || len(got.Instances) != 1 {
		t.Errorf("List once etcd is back: %v, %v", got, err)
	}

	// Not renewed, both go; what follows is another session and a higher term.
	wait.For(t, "the session ends", func() bool {
		got, err := d.List(wait.Context(t), q)
		return err == nil && len(got.Instances) == 0
	})
	if err := s.Renew(wait.Context(t)); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew of a session that ended: %v, want ErrSessionLost", err)
	}
	if err := s.Register(wait.Context(t), i); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Register on a session that ended: %v, want ErrSessionLost", err)
	}
	var next driver.Grant
	wait.For(t, "mastership is free", func() bool {
		next, err = a.Acquire(wait.Context(t), claim("i2"))
		return err == nil
	})
	if next.Term <= g.Term {
		t.Errorf("term %d after term %d", next.Term, g.Term)
	}
	if _, err := a.Renew(wait.Context(t), g); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew of a grant that ended: %v, want ErrSessionLost", err)
	}
}

// A member that hangs keeps connections open and answers nothing.
func TestEtcdPaused(t *testing.T) {
	server := testserver.StartEtcd(t)
	d := open(t, Config{Endpoints: []string{server.Endpoint()}})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	a := openAuthority(t, d, "orders")
	server.Pause()
	calls := map[string]func(context.Context) error{
		"Renew":   s.Renew,
		"Acquire": func(ctx context.Context) error { _, err := a.Acquire(ctx, claim("i1")); return err },
		"List":    func(ctx context.Context) error { _, err := d.List(ctx, driver.Query{Service: "orders"}); return err },
	}
	for what, call := range calls {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		start := time.Now()
		err := call(ctx)
		cancel()
		if !errors.Is(err, driver.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s of an etcd that hangs: %v, want ErrUnavailable for the deadline", what, err)
		}
		if took := time.Since(start); took > wait.Patience/3 {
			t.Errorf("%s took %v with a deadline of 100 ms", what, took)
		}
	}
	server.Resume()
	reconnected(t, func() error { return s.Renew(wait.Context(t)) })
	if err := s.Close(wait.Context(t)); err != nil {
		t.Error(err)
	}
}

func TestEtcdWiped(t *testing.T) {
	server := testserver.StartEtcd(t)
	d := open(t, Config{Endpoints: []string{server.Endpoint()}})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	i := driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	a := openAuthority(t, d, "orders")
	g, err := a.Acquire(wait.Context(t), claim("i1"))
	for n := 0; err == nil && n < 20; n++ { // the wiped etcd stands far behind
		err = errors.Join(s.Register(wait.Context(t), i), s.Deregister(wait.Context(t), i))
	}
	if err != nil {
		t.Fatal(err)
	}
	q := driver.Query{Service: "orders"}
	since, err := d.List(wait.Context(t), q)
	if err != nil {
		t.Fatal(err)
	}

	server.Wipe()
	server.Restart()
	reconnected(t, func() error { _, err := d.List(wait.Context(t), q); return err })

	if err := s.Renew(wait.Context(t)); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew: %v, want ErrSessionLost", err)
	}
	if _, err := a.Renew(wait.Context(t), g); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew of the grant: %v, want ErrSessionLost", err)
	}
	ended := false
	for _, err := range d.Watch(wait.Context(t), q, since) {
		if !errors.Is(err, driver.ErrCompacted) {
			t.Errorf("a watch from a revision that is yet to come: %v, want ErrCompacted", err)
		}
		ended = true
	}
	if !ended {
		t.Error("a watch from a revision that is yet to come stays silent")
	}
	c := claim("i1")
	c.MinTerm, c.ClusterID, c.Known = g.Term, g.ClusterID, true
	next, err := a.Acquire(wait.Context(t), c)
	if err != nil || next.Term != g.Term+1 || next.ClusterID != g.ClusterID {
		t.Errorf("Acquire = %+v, %v, want term %d of the same cluster", next, err, g.Term+1)
	}
}

// A registry watches; the connection breaks, and what it missed is compacted.
func TestCompactionWhileCutOff(t *testing.T) {
	server := testserver.SharedEtcd(t)
	proxy := testserver.NewProxy(t, server.Addr())
	prefix := newPrefix()
	direct := open(t, Config{Endpoints: []string{server.Endpoint()}, Prefix: prefix})
	s, err := direct.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(wait.Context(t))
	one := driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	two := driver.Instance{Service: "orders", InstanceID: "i2", Addr: "10.0.0.6:7946"}
	if err := s.Register(wait.Context(t), one); err != nil {
		t.Fatal(err)
	}

	d, err := New(Config{Endpoints: []string{"http://" + proxy.Addr()}, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	registry := discovery.New("etcd", d, discovery.Options{})
	defer registry.Close()
	var step int
	for snapshot := range registry.Watch(wait.Context(t), discovery.Query{Service: "orders"}) {
		has := func(i driver.Instance) bool {
			listed, _ := snapshot.Instances()
			for _, j := range listed {
				if j.Key() == i.Key() {
					return true
				}
			}
			return false
		}
		switch {
		case step == 0 && has(one) && !snapshot.Stale:
			step++
			proxy.Cut()
		case step == 1 && snapshot.Stale:
			if !has(one) {
				t.Fatalf("the last good set is lost: %+v", snapshot)
			}
			step++
			if err := errors.Join(s.Register(wait.Context(t), two), s.Deregister(wait.Context(t), one)); err != nil {
				t.Fatal(err)
			}
			r, err := server.Client().Get(wait.Context(t), "any")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := server.Client().Compact(wait.Context(t), r.Header.Revision); err != nil {
				t.Fatal(err)
			}
			proxy.Restore()
		case step == 2 && has(two) && !has(one) && !snapshot.Stale:
			return
		}
	}
	t.Fatalf("the watch ended at step %d", step)
}

// lossy carries out transactions and loses their answers.
type lossy struct{ clientv3.KV }

func (l lossy) Txn(ctx context.Context) clientv3.Txn { return lossyTxn{l.KV.Txn(ctx)} }

type lossyTxn struct{ clientv3.Txn }

func (t lossyTxn) If(c ...clientv3.Cmp) clientv3.Txn  { return lossyTxn{t.Txn.If(c...)} }
func (t lossyTxn) Then(o ...clientv3.Op) clientv3.Txn { return lossyTxn{t.Txn.Then(o...)} }
func (t lossyTxn) Commit() (*clientv3.TxnResponse, error) {
	if _, err := t.Txn.Commit(); err != nil {
		return nil, err
	}
	return nil, status.Error(codes.Unavailable, "the answer was lost")
}

// late holds revocations back.
type late struct {
	clientv3.Lease
	mu   sync.Mutex
	held []clientv3.LeaseID
	got  chan struct{}
}

func (l *late) Revoke(_ context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	l.mu.Lock()
	l.held = append(l.held, id)
	l.mu.Unlock()
	l.got <- struct{}{}
	return nil, status.Error(codes.Unavailable, "the request is on its way")
}

// The answer to an Acquire is lost, and so is the revocation that follows, for now.
func TestAcquireWhoseAnswerIsLost(t *testing.T) {
	server := testserver.SharedEtcd(t)
	c := Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()}
	d, other := open(t, c), open(t, c)
	a, b := openAuthority(t, d, "orders"), openAuthority(t, other, "orders")

	kv, lease := d.client.KV, d.client.Lease
	held := &late{Lease: lease, got: make(chan struct{}, 1)}
	d.client.KV, d.client.Lease = lossy{kv}, held
	if _, err := a.Acquire(wait.Context(t), claim("i1")); !errors.Is(err, driver.ErrUnavailable) {
		t.Fatalf("Acquire without an answer: %v, want ErrUnavailable", err)
	}
	<-held.got
	d.client.KV, d.client.Lease = kv, lease

	for m, err := range b.Observe(wait.Context(t)) {
		if err != nil || m.Holder == nil || m.Holder.InstanceID != "i1" {
			t.Fatalf("Observe yields %+v, %v, want the grant of which its holder knows nothing", m, err)
		}
		break
	}
	if _, err := b.Acquire(wait.Context(t), claim("i2")); !errors.Is(err, driver.ErrConflict) {
		t.Fatalf("Acquire by another: %v, want ErrConflict", err)
	}
	g, err := a.Acquire(wait.Context(t), claim("i1"))
	if err != nil || g.Term != 2 {
		t.Fatalf("Acquire by the same = %+v, %v, want term 2", g, err)
	}
	// Now the revocation of the first lease arrives. It ends nothing that is in use.
	if _, err := lease.Revoke(wait.Context(t), held.held[0]); err != nil {
		t.Fatal(err)
	}
	if g, err = a.Renew(wait.Context(t), g); err != nil {
		t.Fatalf("Renew after a late revocation: %v", err)
	}
	if _, err := b.Acquire(wait.Context(t), claim("i2")); !errors.Is(err, driver.ErrConflict) {
		t.Fatalf("Acquire by another: %v, want ErrConflict", err)
	}
	if err := a.Release(wait.Context(t), g); err != nil {
		t.Fatal(err)
	}
	if next, err := b.Acquire(wait.Context(t), claim("i2")); err != nil || next.Term != 3 {
		t.Fatalf("Acquire after the release = %+v, %v, want term 3", next, err)
	}
}

// The answer is lost on the wire, and the grant that nobody knows of goes away.
func TestAcquireOverABrokenWire(t *testing.T) {
	server := testserver.SharedEtcd(t)
	proxy := testserver.NewProxy(t, server.Addr())
	prefix := newPrefix()
	d := open(t, Config{Endpoints: []string{"http://" + proxy.Addr()}, Prefix: prefix})
	other := open(t, Config{Endpoints: []string{server.Endpoint()}, Prefix: prefix})
	a, b := openAuthority(t, d, "orders"), openAuthority(t, other, "orders")
	// Nothing is heard from the moment that the transaction is sent.
	kv := d.client.KV
	d.client.KV = onTxn{kv, proxy.Mute}
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if _, err := a.Acquire(ctx, claim("i1")); !errors.Is(err, driver.ErrUnavailable) {
		t.Fatalf("Acquire without an answer: %v, want ErrUnavailable", err)
	}
	d.client.KV = kv
	var g driver.Grant
	wait.For(t, "mastership is free again", func() bool {
		var err error
		g, err = b.Acquire(wait.Context(t), claim("i2"))
		return err == nil
	})
	// Nothing was granted if the revocation overtook the transaction.
	if g.Term != 1 && g.Term != 2 {
		t.Errorf("term = %d", g.Term)
	}
	proxy.Restore()
	reconnected(t, func() error {
		_, err := a.Acquire(wait.Context(t), claim("i1"))
		if errors.Is(err, driver.ErrConflict) {
			return nil
		}
		return errors.Join(err, errors.New("want ErrConflict"))
	})
}

type onTxn struct {
	clientv3.KV
	do func()
}

func (o onTxn) Txn(ctx context.Context) clientv3.Txn {
	o.do()
	return o.KV.Txn(ctx)
}

// A key of the master that was written by hand, as to restore it, is on no lease and never
// expires: every node says so, until it is deleted.
func TestMasterKeyWrittenByHand(t *testing.T) {
	t.Parallel()
	server := testserver.SharedEtcd(t)
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()})
	a := openAuthority(t, d, "c")
	claim := driver.Claim{Holder: driver.Holder{NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.1:1"}, ClusterID: "id"}
	if _, err := a.Acquire(wait.Context(t), claim); err != nil {
		t.Fatal(err)
	}
	observed := func() driver.Mastership {
		for m, err := range a.Observe(wait.Context(t)) {
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		t.Fatal("nothing is observed")
		return driver.Mastership{}
	}
	if m := observed(); m.Holder == nil || m.Warning != "" {
		t.Errorf("of a grant is observed %+v", m)
	}
	key := a.prefix + grants.MasterKey
	r, err := server.Client().Get(wait.Context(t), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client().Put(wait.Context(t), key, string(r.Kvs[0].Value)); err != nil {
		t.Fatal(err)
	}
	if m := observed(); m.Holder == nil || !strings.Contains(m.Warning, key) || !strings.Contains(m.Warning, "never expires") {
		t.Errorf("of what was written by hand is observed %+v", m)
	}
	other := driver.Claim{Holder: driver.Holder{NodeID: "n2", InstanceID: "i2", Addr: "10.0.0.2:1"}}
	if _, err := a.Acquire(wait.Context(t), other); !errors.Is(err, driver.ErrConflict) {
		t.Errorf("granted beside it: %v", err)
	}
	if _, err := server.Client().Delete(wait.Context(t), key); err != nil {
		t.Fatal(err)
	}
	if m := observed(); m.Holder != nil || m.Warning != "" {
		t.Errorf("of what was deleted is observed %+v", m)
	}
	if g, err := a.Acquire(wait.Context(t), other); err != nil || g.Term != 2 {
		t.Errorf("granted is %+v, %v", g, err)
	}
}

func TestMasterKeyDeletedByHand(t *testing.T) {
	server := testserver.SharedEtcd(t)
	c := Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()}
	a, b := openAuthority(t, open(t, c), "orders"), openAuthority(t, open(t, c), "orders")
	g, err := a.Acquire(wait.Context(t), claim("i1"))
	if err != nil {
		t.Fatal(err)
	}
	states := make(chan driver.Mastership, 10)
	ctx, cancel := context.WithCancel(wait.Context(t))
	defer cancel()
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	done.Go(func() {
		for m, err := range b.Observe(ctx) {
			if err != nil {
				t.Errorf("Observe: %v", err)
			}
			states <- m
		}
	})
	if m := <-states; m.Holder == nil || m.Term != 1 {
		t.Fatalf("Observe yields %+v", m)
	}
	if _, err := server.Client().Delete(wait.Context(t), a.prefix+grants.MasterKey); err != nil {
		t.Fatal(err)
	}
	if m := <-states; m.Holder != nil || m.Term != 1 || m.ClusterID != "id-of-i1" {
		t.Fatalf("Observe yields %+v, want nobody, term 1 and the cluster id", m)
	}
	if _, err := a.Renew(wait.Context(t), g); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew: %v, want ErrSessionLost", err)
	}
	next, err := b.Acquire(wait.Context(t), claim("i2"))
	if err != nil || next.Term != 2 || next.ClusterID != "id-of-i1" {
		t.Fatalf("Acquire = %+v, %v, want term 2 of the same cluster", next, err)
	}
	if _, err := a.Renew(wait.Context(t), g); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew: %v, want ErrSessionLost", err)
	}
	if err := a.Release(wait.Context(t), g); err != nil {
		t.Errorf("Release: %v", err)
	}
	if _, err := b.Renew(wait.Context(t), next); err != nil {
		t.Errorf("the release of an old grant ended the new one: %v", err)
	}
}

func TestGarbageInTheKeysOfACluster(t *testing.T) {
	server := testserver.SharedEtcd(t)
	c := Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()}
	a := openAuthority(t, open(t, c), "orders")
	for _, key := range []string{grants.MasterKey, grants.TermKey} {
		for _, value := range []string{"garbage", "", "{}", "-1", "1.5"} {
			if _, err := server.Client().Put(wait.Context(t), a.prefix+key, value); err != nil {
				t.Fatal(err)
			}
			if g, err := a.Acquire(wait.Context(t), claim("i1")); !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%s = %q: Acquire = %+v, %v, want ErrInvalid", key, value, g, err)
			}
			for m, err := range a.Observe(wait.Context(t)) {
				if !errors.Is(err, driver.ErrInvalid) {
					t.Errorf("%s = %q: Observe yields %+v, %v, want ErrInvalid", key, value, m, err)
				}
			}
		}
		if _, err := server.Client().Delete(wait.Context(t), a.prefix+key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := server.Client().Put(wait.Context(t), a.prefix+"of-the-future", "garbage"); err != nil {
		t.Fatal(err)
	}
	if g, err := a.Acquire(wait.Context(t), claim("i1")); err != nil || g.Term != 1 {
		t.Errorf("Acquire beside a key that is not ours = %+v, %v", g, err)
	}
}

// Clusters whose names start alike, or hold a slash, share a prefix.
func TestClustersOnOnePrefix(t *testing.T) {
	server := testserver.SharedEtcd(t)
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()})
	for _, cluster := range []string{"foo", "foobar", "foo/bar", "foo/", "master"} {
		if err := everything(wait.Context(t), d, cluster, "i1"); err != nil {
			t.Errorf("%q: %v", cluster, err)
		}
		a := openAuthority(t, d, cluster)
		g, err := a.Acquire(wait.Context(t), claim("of "+cluster))
		if err != nil || g.Term != 2 || g.ClusterID != "id" {
			t.Errorf("%q: Acquire = %+v, %v, want term 2", cluster, g, err)
		}
	}
}

// Many candidates, one grant at a time, and a term for each.
func TestRaceForMastership(t *testing.T) {
	server := testserver.SharedEtcd(t)
	c := Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()}
	const candidates, rounds = 5, 10
	var all []*authority
	for range candidates {
		all = append(all, openAuthority(t, open(t, c), "orders"))
	}
	for round := range rounds {
		grants := make([]driver.Grant, candidates)
		errs := make([]error, candidates)
		var race sync.WaitGroup
		for n, a := range all {
			race.Go(func() { grants[n], errs[n] = a.Acquire(wait.Context(t), claim(string(rune('a'+n)))) })
		}
		race.Wait()
		var winner = -1
		for n, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("round %d: two are granted: %+v and %+v", round, grants[winner], grants[n])
			case err == nil:
				winner = n
			case !errors.Is(err, driver.ErrConflict):
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody is granted: %v", round, errs)
		}
		if want := driver.Term(round + 1); grants[winner].Term != want {
			t.Fatalf("round %d: term %d, want %d", round, grants[winner].Term, want)
		}
		if err := all[winner].Release(wait.Context(t), grants[winner]); err != nil {
			t.Fatal(err)
		}
	}
}

// A predecessor that stops late leaves the registration of its successor alone.
func TestSuccessorsRegistrationStays(t *testing.T) {
	server := testserver.SharedEtcd(t)
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()})
	i := driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	var sessions []driver.Session
	for range 2 {
		s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{})
		if err == nil {
			err = s.Register(wait.Context(t), i)
		}
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, s)
	}
	if err := errors.Join(sessions[0].Deregister(wait.Context(t), i), sessions[0].Close(wait.Context(t)), sessions[0].Close(wait.Context(t))); err != nil {
		t.Fatal(err)
	}
	if got, err := d.List(wait.Context(t), driver.Query{Service: "orders"}); err != nil || len(got.Instances) != 1 {
		t.Errorf("List = %v, %v, want the successor's", got, err)
	}
	if err := sessions[0].Renew(wait.Context(t)); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("Renew after Close: %v, want ErrClosed", err)
	}
	if err := sessions[1].Close(wait.Context(t)); err != nil {
		t.Fatal(err)
	}
}

// A watch that was lost on the way is an error, and not one of which there is nothing
// to tell.
func TestWatchThatIsNeverAnswered(t *testing.T) {
	t.Parallel()
	proxy := faultproxy.NewHTTP(t, testserver.SharedEtcd(t).Addr())
	d := open(t, Config{Endpoints: []string{"http://" + proxy.Addr()}, Prefix: newPrefix()})
	since, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	hits := proxy.Inject(faultproxy.Fault{Outcome: faultproxy.Silence, Calls: "POST /etcdserverpb.Watch/Watch"})
	var got error
	for _, err := range d.Watch(wait.Context(t), driver.Query{Service: "orders"}, since) {
		got = err
	}
	if !errors.Is(got, driver.ErrUnavailable) || hits.Count() == 0 {
		t.Errorf("Watch = %v after %d lost answers, want %v", got, hits.Count(), driver.ErrUnavailable)
	}
}
