package consul

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/internal/grants"
)

// The value of the key is what nodes of other versions read.
func TestMasterLayout(t *testing.T) {
	m := master{
		grants.Master{Holder: driver.Holder{NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946", AppAddrs: map[string]string{"http": "10.0.0.5:80"}}, Term: 7},
		hold{TTL: 3 * time.Second, Pulse: pulseID{Node: "n", ServiceID: "s", CheckID: "c"}, Released: true},
	}
	const want = `{"node_id":"n1","instance_id":"i1","addr":"10.0.0.5:7946","app_addrs":{"http":"10.0.0.5:80"},"term":7,` +
		`"ttl_ns":3000000000,"pulse":{"node":"n","service_id":"s","check_id":"c"},"released":true}`
	if got := string(m.encode()); got != want {
		t.Errorf("a master is written as %s, want %s", got, want)
	}
	var s state
	if err := s.parse(grants.MasterKey, &api.KVPair{Value: []byte(want), Session: "session", LockIndex: 4}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, master{*s.Master, s.hold}, cmp.AllowUnexported(master{})); diff != "" || s.Term != 7 || !s.held() || s.locks != 4 {
		t.Errorf("read is %+v: %s", s, diff)
	}
	if err := s.parse(grants.MasterKey, &api.KVPair{Value: []byte(`{"instance_id":"i1","ttl_ns":"3s"}`)}); err == nil {
		t.Error("a TTL that nobody can read is taken for one")
	}
}
