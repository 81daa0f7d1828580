package registration

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
)

// FuzzService holds of any service in the catalog: it is an error that says why, or an
// instance that can be dialled; and one of our own is the same when it is written and
// read.
func FuzzService(f *testing.F) {
	own, err := Encode(driver.Instance{
		Service: "orders", NodeID: "a", InstanceID: "i1", Addr: "10.0.0.5:7946", Tags: []string{"web"}, Meta: map[string]string{"v": "1"},
	}, "orders:i1", map[string]string{SessionMeta: "s1"})
	if err != nil {
		f.Fatal(err)
	}
	meta, err := json.Marshal(own.Meta)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("orders:i1", "10.0.0.5", 7946, "web", false, meta)
	f.Add("hostname:redis.0:6379", "", 6379, "a, b,", false, []byte(`{"x":"y"}`))
	f.Add("x", "::1", 70000, "", true, []byte(`{"muster-session":"s","muster-0":"{","muster-1":"}"}`))
	f.Add("x", "0.0.0.0", -1, "", true, []byte(`{"muster-session":"s","muster-alive":"k","muster-0":"null"}`))
	f.Fuzz(func(t *testing.T, id, address string, port int, tag string, shared bool, meta []byte) {
		for _, text := range []*string{&id, &address, &tag} {
			*text = strings.ToValidUTF8(*text, "\ufffd") // as in the JSON that Consul answers
		}
		entry := &api.ServiceEntry{
			Node:    &api.Node{Node: "n", Address: "10.0.0.9"},
			Service: &api.AgentService{ID: id, Service: "orders", Address: address, Port: port, Tags: []string{tag}},
			Checks:  api.HealthChecks{{CheckID: id, Status: tag}},
		}
		_ = json.Unmarshal(meta, &entry.Service.Meta)
		HealthOf(entry)
		i, err := Decode(entry, shared)
		if err != nil {
			if !errors.Is(err, driver.ErrInvalid) {
				t.Fatalf("%v is no driver.ErrInvalid", err)
			}
			return
		}
		if err := i.Validate(); err != nil {
			t.Fatalf("%+v: %v", i, err)
		}
		r, err := Encode(i, id, map[string]string{SessionMeta: "s"})
		if err != nil {
			if !errors.Is(err, driver.ErrInvalid) { // too long for Consul
				t.Fatalf("%+v cannot be written: %v", i, err)
			}
			return
		}
		again, err := Decode(&api.ServiceEntry{
			Node:    entry.Node,
			Service: &api.AgentService{ID: r.ID, Service: r.Name, Address: r.Address, Port: r.Port, Tags: r.Tags, Meta: r.Meta},
		}, shared)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if diff := cmp.Diff(i, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}
