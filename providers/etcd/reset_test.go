package etcd

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// dump returns all keys below a prefix, with their values.
func dump(t *testing.T, c *clientv3.Client, prefix string) map[string]string {
	t.Helper()
	r, err := c.Get(wait.Context(t), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, kv := range r.Kvs {
		all[string(kv.Key)] = string(kv.Value)
	}
	return all
}

// What an operator resets is the record of one cluster's mastership, and nothing else.
func TestReset(t *testing.T) {
	server := testserver.SharedEtcd(t)
	prefix := newPrefix()
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Prefix: prefix})
	a, other := openAuthority(t, d, "orders"), openAuthority(t, d, "orders2")
	claim := func(id string) driver.Claim {
		return driver.Claim{Holder: driver.Holder{NodeID: id, InstanceID: id, Addr: "10.0.0.1:1"}, ClusterID: "old"}
	}
	g, err := a.Acquire(wait.Context(t), claim("n1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Acquire(wait.Context(t), claim("n2")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Set(wait.Context(t), "key", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	cli := server.Client()
	before := dump(t, cli, prefix)
	for name, o := range map[string]driver.ResetOptions{
		"a dry run":             {ClusterID: "new", Force: true, DryRun: true},
		"while a master stands": {ClusterID: "new"},
		"to the same id":        {ClusterID: "old", Force: true},
		"without an id":         {Force: true},
		"to an absurd term":     {ClusterID: "new", Force: true, Term: driver.MaxTerm + 1},
	} {
		was, err := a.Reset(wait.Context(t), o)
		want := driver.ErrInvalid
		switch name {
		case "a dry run":
			want = nil
		case "while a master stands":
			want = driver.ErrConflict
		}
		if !errors.Is(err, want) {
			t.Errorf("Reset %s: %v, want %v", name, err, want)
		}
		if recorded := was.Term == g.Term && was.ClusterID == "old" && was.Holder != nil && was.Holder.NodeID == "n1"; !recorded && was.Term != 0 {
			t.Errorf("Reset %s returns %+v", name, was)
		}
		if diff := cmp.Diff(before, dump(t, cli, prefix)); diff != "" {
			t.Fatalf("Reset %s has changed:\n%s", name, diff)
		}
	}

	if _, err := a.Reset(wait.Context(t), driver.ResetOptions{ClusterID: "new", Term: 40, Force: true}); err != nil {
		t.Fatal(err)
	}
	want := before
	keys := newKeys(prefix).cluster("orders")
	delete(want, keys+"master")
	want[keys+"term"], want[keys+"id"] = "40", "new"
	if diff := cmp.Diff(want, dump(t, cli, prefix)); diff != "" {
		t.Errorf("after Reset:\n%s", diff)
	}
	if _, err := a.Renew(wait.Context(t), g); !errors.Is(err, driver.ErrSessionLost) {
		t.Errorf("Renew of a grant from before: %v, want ErrSessionLost", err)
	}
	known := claim("n3")
	known.Known = true
	if _, err := a.Acquire(wait.Context(t), known); !errors.Is(err, driver.ErrClusterMismatch) {
		t.Errorf("Acquire by a node that remembers the old id: %v, want ErrClusterMismatch", err)
	}
	next, err := openAuthority(t, d, "orders").Acquire(wait.Context(t), claim("n3"))
	if err != nil || next.Term != 41 || next.ClusterID != "new" {
		t.Errorf("Acquire = %+v, %v, want term 41 of new", next, err)
	}
	if err := a.Release(wait.Context(t), g); err != nil {
		t.Errorf("Release of a grant from before: %v", err)
	}
	for m, err := range a.Observe(wait.Context(t)) {
		if err != nil || m.Holder == nil || m.Holder.NodeID != "n3" {
			t.Errorf("after a late Release the authority shows %+v, %v", m, err)
		}
		break
	}
}

// What cannot be read is replaced too; a master's key only by force.
func TestResetOfWhatCannotBeRead(t *testing.T) {
	server := testserver.SharedEtcd(t)
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Prefix: newPrefix()})
	a := openAuthority(t, d, "orders")
	cli := server.Client()
	put := func(name, value string) {
		if _, err := cli.Put(wait.Context(t), a.prefix+name, value); err != nil {
			t.Fatal(err)
		}
	}
	claim := driver.Claim{Holder: driver.Holder{NodeID: "n1", InstanceID: "n1"}, ClusterID: "fresh"}
	put("term", "18446744073709551615")
	put("id", "old")
	if _, err := a.Acquire(wait.Context(t), claim); !errors.Is(err, driver.ErrInvalid) {
		t.Fatalf("Acquire after an absurd term: %v", err)
	}
	was, err := a.Reset(wait.Context(t), driver.ResetOptions{ClusterID: "new"})
	if err != nil || was.ClusterID != "old" || len(was.Problems) != 1 || !strings.Contains(was.Problems[0], "/term holds") {
		t.Errorf("Reset = %+v, %v", was, err)
	}
	put("master", "junk")
	if was, err := a.Reset(wait.Context(t), driver.ResetOptions{ClusterID: "newer"}); !errors.Is(err, driver.ErrConflict) || len(was.Problems) != 1 {
		t.Errorf("Reset of an unreadable master = %+v, %v, want ErrConflict", was, err)
	}
	if _, err := a.Reset(wait.Context(t), driver.ResetOptions{ClusterID: "newer", Force: true}); err != nil {
		t.Errorf("Reset by force: %v", err)
	}
	if g, err := a.Acquire(wait.Context(t), claim); err != nil || g.Term != 1 || g.ClusterID != "newer" {
		t.Errorf("Acquire = %+v, %v, want term 1 of newer", g, err)
	}
}

// A candidate that is granted between the read and the write of Reset keeps its grant.
func TestResetLosesToAnAcquire(t *testing.T) {
	server := testserver.SharedEtcd(t)
	proxy := testserver.NewProxy(t, server.Addr())
	prefix := newPrefix()
	a := openAuthority(t, open(t, Config{Endpoints: []string{"http://" + proxy.Addr()}, Prefix: prefix}), "orders")
	b := openAuthority(t, open(t, Config{Endpoints: []string{server.Endpoint()}, Prefix: prefix}), "orders")
	for attempt := range 50 {
		reset := make(chan error, 1)
		go func() {
			_, err := a.Reset(wait.Context(t), driver.ResetOptions{ClusterID: "new-" + strings.Repeat("x", attempt+1)})
			reset <- err
		}()
		g, err := b.Acquire(wait.Context(t), driver.Claim{Holder: driver.Holder{NodeID: "n1", InstanceID: "n1"}, ClusterID: "fresh"})
		resetErr := <-reset
		if err == nil {
			if _, err := b.Renew(wait.Context(t), g); err != nil {
				t.Fatalf("Reset = %v beside an Acquire whose grant is lost: %v", resetErr, err)
			}
			_ = b.Release(wait.Context(t), g)
		}
		if resetErr != nil && !errors.Is(resetErr, driver.ErrConflict) {
			t.Fatalf("Reset beside an Acquire: %v", resetErr)
		}
	}
}
