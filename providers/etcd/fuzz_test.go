package etcd

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/musterhq/muster/discovery/driver"
)

// FuzzInstance holds of anything below the prefix of a service: it is an error that says
// why, or an instance that can be dialled and is the same when it is written and read.
func FuzzInstance(f *testing.F) {
	l := musterLayout{newKeys(DefaultPrefix)}
	for _, value := range []string{
		`{"service":"orders","node_id":"a","instance_id":"i1","addr":"10.0.0.5:7946","tags":["web"],"meta":{"v":"1"}}`,
		`{"addr":"10.0.0.5:7946"}`, `{"addr":"[::1]:1","weight":1e9}`, `null`, `{`, `[]`, `{"addr":"0.0.0.0:0"}`,
	} {
		f.Add("i1", []byte(value))
		f.Add("10.0.0.5:7946", []byte(value))
	}
	f.Fuzz(func(t *testing.T, id string, value []byte) {
		i, err := l.Decode("orders", l.Prefix("orders")+id, value)
		if err != nil {
			if !errors.Is(err, driver.ErrInvalid) {
				t.Fatalf("%v is no driver.ErrInvalid", err)
			}
			return
		}
		if err := i.Validate(); err != nil {
			t.Fatalf("%+v: %v", i, err)
		}
		key, text, err := l.Encode(i)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", i, err)
		}
		again, err := l.Decode("orders", key, []byte(text))
		if err != nil {
			t.Fatalf("%s = %s: %v", key, text, err)
		}
		if diff := cmp.Diff(i, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}
