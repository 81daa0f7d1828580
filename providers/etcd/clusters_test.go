package etcd

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/registrar"
)

// One of the endpoints is of another cluster. All is kept in one of the two, and it is said that
// there are two.
func TestEndpointsOfSeveralClusters(t *testing.T) {
	t.Parallel()
	one, two := testserver.StartEtcd(t), testserver.StartEtcd(t)
	d := open(t, Config{Endpoints: []string{one.Endpoint(), two.Endpoint()}})
	registry := discovery.New("etcd", d, discovery.Options{})
	t.Cleanup(func() { registry.Close() })
	r := registrar.New(registrar.Config{Registry: registry, TTL: 2 * time.Second})
	t.Cleanup(func() { r.Stop(t.Context()) })
	const n = 9
	var all []discovery.Instance
	for i := range n {
		all = append(all, driver.Instance{Service: "s", InstanceID: fmt.Sprint(i), Addr: "10.0.0.1:1"})
	}
	if err := r.Set(all...); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(wait.Context(t)); err != nil {
		t.Fatal(err)
	}
	waitForAsked(t, d)
	// A renewal that reaches the cluster which has not granted the lease finds the session lost at
	// once. The TTL is no part of that: a loaded machine may be late by seconds.
	session, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for range 12 {
		if err := session.Renew(wait.Context(t)); err != nil {
			t.Errorf("Renew: %v", err)
		}
	}
	if err := session.Close(wait.Context(t)); err != nil {
		t.Error(err)
	}
	before := r.Status().Counters
	wait.For(t, "renewed", func() bool { return r.Status().Counters.Renewals > before.Renewals+5 && r.Status().Registered() })
	has := func(s *testserver.Etcd) int {
		own := open(t, Config{Endpoints: []string{s.Endpoint()}})
		found, err := own.List(wait.Context(t), driver.Query{Service: "s"})
		if err != nil {
			t.Fatal(err)
		}
		return len(found.Instances)
	}
	wait.For(t, "kept in one", func() bool { a, b := has(one), has(two); return a+b == n && (a == 0 || b == 0) })
	for what, text := range map[string]string{"registry": registry.Warning(), "status": r.Status().Warning} {
		if !strings.Contains(text, one.Endpoint()) || !strings.Contains(text, two.Endpoint()) || !strings.Contains(text, "List the endpoints of one cluster") {
			t.Errorf("the warning of the %s is %q", what, text)
		}
	}
	if names, err := d.Identify(wait.Context(t)); err != nil || len(names) != 2 {
		t.Errorf("identified %q, %v", names, err)
	}
}

// Of one cluster nothing is said, also when a member is away, and neither of one that was set up
// again.
func TestEndpointsOfOneCluster(t *testing.T) {
	t.Parallel()
	server := testserver.StartEtcd(t)
	d := open(t, Config{Endpoints: []string{server.Endpoint(), "http://127.0.0.1:1"}})
	list := func() bool {
		_, err := d.List(wait.Context(t), driver.Query{Service: "s"})
		return err == nil
	}
	wait.For(t, "listed", list)
	if names, err := d.Identify(wait.Context(t)); err != nil || len(names) != 1 {
		t.Errorf("identified %q, %v", names, err)
	}
	server.Wipe()
	server.Restart()
	wait.For(t, "listed again", list)
	if text := d.Warning(); text != "" {
		t.Errorf("the warning is %q", text)
	}
}

// Nodes with one list come to the same cluster, whichever has answered each of them first.
func TestWhichOfSeveralClusters(t *testing.T) {
	t.Parallel()
	one, two := testserver.StartEtcd(t), testserver.StartEtcd(t)
	for _, first := range []*testserver.Etcd{one, two} {
		other := one
		if first == one {
			other = two
		}
		d := open(t, Config{Endpoints: []string{one.Endpoint(), two.Endpoint()}})
		c := &d.transport.clusters
		for _, from := range []*testserver.Etcd{first, other} {
			_ = c.check(wait.Context(t), &pb.RangeResponse{Header: &pb.ResponseHeader{ClusterId: clusterOf(t, from)}})
		}
		if want := clusterOf(t, one); !c.isHome(want) {
			t.Errorf("after an answer of %s, %x is not used: %s", first.Endpoint(), want, d.Warning())
		}
		if got := d.client.Endpoints(); len(got) != 1 || got[0] != one.Endpoint() {
			t.Errorf("after an answer of %s, the endpoints in use are %q, want that of the first cluster", first.Endpoint(), got)
		}
	}
	c := clusters{all: []string{"a", "b", "c"}}
	if got := c.choose(map[uint64][]string{1: {"a"}, 2: {"b", "c"}}); got != 2 {
		t.Errorf("chosen is %d, want the cluster with the most endpoints", got)
	}
}

// While the endpoints are asked for their clusters, one of which does not answer, nothing else
// waits: a status has the warning in it.
func TestWarningWhileEndpointsAreAsked(t *testing.T) {
	t.Parallel()
	server := testserver.StartEtcd(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := open(t, Config{Endpoints: []string{server.Endpoint()}})
	if _, err := d.List(wait.Context(t), driver.Query{Service: "s"}); err != nil {
		t.Fatal(err)
	}
	waitForAsked(t, d)
	c := &d.transport.clusters
	c.all = append(c.all, "http://"+silent.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.check(ctx, &pb.RangeResponse{Header: &pb.ResponseHeader{ClusterId: 1}})
	}()
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	d.Warning()
	took := time.Since(began)
	select {
	case <-done: // a busy machine is late, and the endpoints are still being asked
		if took > statusTimeout/2 {
			t.Errorf("the warning took %v, as long as the endpoints are asked", took)
		}
	default:
	}
	cancel()
	<-done
}

func clusterOf(t *testing.T, server *testserver.Etcd) uint64 {
	t.Helper()
	d := open(t, Config{Endpoints: []string{server.Endpoint()}})
	r, err := d.client.Status(wait.Context(t), server.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.GetClusterId()
}

// The cluster in use cannot be reached, and an endpoint of another one can. There may be a master
// in the first, so that the other does not replace it; nor does it once the first was set up again.
func TestEndpointsOfAnotherClusterAlone(t *testing.T) {
	t.Parallel()
	one, two := testserver.StartEtcd(t), testserver.StartEtcd(t)
	two.Kill()
	d := open(t, Config{Endpoints: []string{one.Endpoint(), two.Endpoint()}})
	list := func() error {
		_, err := d.List(wait.Context(t), driver.Query{Service: "s"})
		return err
	}
	wait.For(t, "listed", func() bool { return list() == nil })
	waitForAsked(t, d)
	one.Kill()
	two.Restart()
	var err error
	wait.For(t, "refused", func() bool {
		if err = list(); err == nil {
			t.Fatal("the other cluster is in use")
		}
		return strings.Contains(err.Error(), "cannot be reached at "+one.Endpoint())
	})
	if !driver.Retryable(err) {
		t.Errorf("not to be tried again: %v", err)
	}
	one.Restart()
	wait.For(t, "listed when it is back", func() bool { return list() == nil })
	wait.For(t, "the other one is met", func() bool { return list() == nil && d.Warning() != "" })
	one.Wipe()
	one.Restart()
	wait.For(t, "listed when it was set up again", func() bool { return list() == nil })
}

// An endpoint of the cluster in use that was away when another cluster was met is used later.
func TestEndpointThatWasAwayIsUsed(t *testing.T) {
	t.Parallel()
	members, other := testserver.StartEtcdCluster(t, 3), testserver.StartEtcd(t)
	d := open(t, Config{Endpoints: []string{members[0].Endpoint(), members[1].Endpoint(), other.Endpoint()}})
	list := func() bool {
		_, err := d.List(wait.Context(t), driver.Query{Service: "s"})
		return err == nil
	}
	other.Kill()
	members[1].Kill()
	wait.For(t, "listed", list)
	other.Restart()
	wait.For(t, "the other one is met", func() bool { return list() && d.Warning() != "" })
	members[1].Restart()
	members[0].Kill()
	wait.For(t, "listed by the other member", list)
}

// waitForAsked waits until the endpoints were asked for their clusters after the first answer.
func waitForAsked(t *testing.T, d *Driver) {
	t.Helper()
	c := &d.transport.clusters
	wait.For(t, "it is known of which cluster the endpoints are", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.sawHome // set with what is decided
	})
}
