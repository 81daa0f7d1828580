package etcd

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// A key that cannot be removed keeps none of those after it.
func TestOneKeyThatStaysKeepsNone(t *testing.T) {
	t.Parallel()
	server := testserver.SharedEtcd(t)
	way := faultproxy.NewHTTP(t, server.Addr())
	c := Config{Endpoints: []string{"http://" + way.Addr()}, Prefix: newPrefix()}
	d := open(t, c)
	opened, err := d.OpenSession(wait.Context(t), driver.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close(wait.Context(t))
	s := opened.(*session)
	var keys []string
	for n := range 3 {
		i := driver.Instance{Service: "orders", InstanceID: fmt.Sprint(n), Addr: "10.0.0.5:7946"}
		if err := s.Register(wait.Context(t), i); err != nil {
			t.Fatal(err)
		}
		key, _, err := d.layout.Encode(i)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	way.Inject(faultproxy.Fault{Outcome: faultproxy.Refuse, Calls: "POST /etcdserverpb.KV/Txn", Nth: 1})
	err = s.remove(wait.Context(t), keys)
	if !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), keys[0]) || strings.Contains(err.Error(), keys[1]) {
		t.Errorf("remove returned %v", err)
	}
	found, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
	if err != nil || len(found.Instances) != 1 || found.Instances[0].Key() != "0" {
		t.Errorf("after the first of three could not be removed: %+v, %v", found.Instances, err)
	}
}

// etcd counts in whole seconds: what is asked for is never less than what was wanted.
func TestSeconds(t *testing.T) {
	for ttl, want := range map[time.Duration]int64{
		time.Nanosecond: 1, time.Millisecond: 1, time.Second: 1, time.Second + 1: 2, 2 * time.Second: 2, 36 * time.Second: 36, time.Minute - 1: 60,
	} {
		if got := seconds(ttl); got != want {
			t.Errorf("%v: %d s, want %d", ttl, got, want)
		}
	}
}
