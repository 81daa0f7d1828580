package etcd

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
)

// What stands in etcd is read by programs of other versions: a change here is a
// change of the layout, and gets another version.
func TestLayout(t *testing.T) {
	server := testserver.SharedEtcd(t)
	prefix := newPrefix()
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Prefix: prefix})

	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(wait.Context(t))
	for _, i := range []driver.Instance{
		{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:7946"},
		{
			Service: "orders/eu 1", NodeID: "n1", InstanceID: "a/b%", Addr: "[::1]:7946", Zone: "eu-1",
			Tags: []string{"web"}, Meta: map[string]string{"k": "v"}, AppAddrs: map[string]string{"http": "10.0.0.5:8080"},
			Version: "1.4", RegisteredAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		},
	} {
		if err := s.Register(wait.Context(t), i); err != nil {
			t.Fatal(err)
		}
	}
	a := openAuthority(t, d, "orders")
	g, err := a.Acquire(wait.Context(t), driver.Claim{
		Holder:    driver.Holder{NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946", AppAddrs: map[string]string{"http": "10.0.0.5:8080"}},
		MinTerm:   41,
		ClusterID: "c1",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release(wait.Context(t), g)
	if _, err := a.Set(wait.Context(t), "releases/db", []byte("7"), 0); err != nil {
		t.Fatal(err)
	}

	r, err := server.Client().Get(wait.Context(t), strings.TrimSuffix(prefix, "muster"), clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, kv := range r.Kvs {
		got[strings.TrimPrefix(string(kv.Key), prefix)] = string(kv.Value)
	}
	want := map[string]string{
		"/v1/services/orders/i1":                `{"service":"orders","instance_id":"i1","addr":"10.0.0.5:7946"}`,
		"/v1/services/orders%2Feu%201/a%2Fb%25": `{"service":"orders/eu 1","node_id":"n1","instance_id":"a/b%","addr":"[::1]:7946","zone":"eu-1","tags":["web"],"meta":{"k":"v"},"app_addrs":{"http":"10.0.0.5:8080"},"version":"1.4","registered_at":"2026-01-02T03:04:05.000000006Z"}`,
		"/v1/clusters/orders/master":            `{"node_id":"n1","instance_id":"i1","addr":"10.0.0.5:7946","app_addrs":{"http":"10.0.0.5:8080"},"term":42}`,
		"/v1/clusters/orders/term":              `42`,
		"/v1/clusters/orders/id":                `c1`,
		"/v1/records/orders/releases/db":        `7`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the layout has changed (-want +got):\n%s", diff)
	}
}

func TestKeysKeepNamesApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newKeys("/muster")
		name := rapid.StringN(1, 8, -1)
		a, b, id := name.Draw(t, "a"), name.Draw(t, "b"), name.Draw(t, "id")
		key := k.instance(a, id)
		if back, ok := segment(k.service(a), key); !ok || back != id {
			t.Fatalf("instance %q of %q comes back as %q, %v", id, a, back, ok)
		}
		if a != b && strings.HasPrefix(key, k.service(b)) {
			t.Fatalf("service %q sees the instances of %q", b, a)
		}
		if a != b && (strings.HasPrefix(k.cluster(a), k.cluster(b)) || strings.HasPrefix(k.records(a), k.records(b))) {
			t.Fatalf("cluster %q sees the keys of %q", b, a)
		}
	})
}

func TestDecode(t *testing.T) {
	layout := musterLayout{newKeys("/muster")}
	const at = "/muster/v1/services/orders/"
	for _, c := range []struct {
		key, value string
		want       driver.Instance // zero: skipped
	}{
		{"i1", `{"service":"orders","instance_id":"i1","addr":"10.0.0.5:1"}`, driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:1"}},
		{"i1", `{"addr":"10.0.0.5:1"}`, driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:1"}},
		{"10.0.0.5:1", `{"addr":"10.0.0.5:1"}`, driver.Instance{Service: "orders", Addr: "10.0.0.5:1"}},
		{"i1", `{"addr":"10.0.0.5:1","of the future":{"x":[1]}}`, driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:1"}},
		{"i1", `{"service":"orders","instance_id":"i2","addr":"10.0.0.5:1"}`, driver.Instance{}},
		{"i1", `{"service":"other","addr":"10.0.0.5:1"}`, driver.Instance{}},
		{"i1", `{"addr":"10.0.0.5"}`, driver.Instance{}},
		{"i1", `{"addr":"0.0.0.0:1"}`, driver.Instance{}},
		{"i1", `{"addr":5}`, driver.Instance{}},
		{"i1", `null`, driver.Instance{}},
		{"i1", ``, driver.Instance{}},
		{"", `{"addr":"10.0.0.5:1"}`, driver.Instance{}},
		{"a/b", `{"addr":"10.0.0.5:1"}`, driver.Instance{}},
		{"a%2fb", `{"addr":"10.0.0.5:1"}`, driver.Instance{}}, // we write %2F
		{"%zz", `{"addr":"10.0.0.5:1"}`, driver.Instance{}},
	} {
		got, err := layout.Decode("orders", at+c.key, []byte(c.value))
		if c.want.Addr == "" {
			if !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%s %s: read as %+v, %v; want driver.ErrInvalid", c.key, c.value, got, err)
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s %s: %v\n%s", c.key, c.value, err, diff)
		}
	}
}
