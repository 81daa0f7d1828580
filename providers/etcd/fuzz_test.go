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

// FuzzState holds of anything that stands in the keys of mastership: it is an error, or
// a term that can be raised.
func FuzzState(f *testing.F) {
	for _, value := range []string{
		`{"node_id":"a","instance_id":"i1","addr":"10.0.0.5:7946","app_addrs":{"http":"10.0.0.5:80"},"term":7}`,
		`{"instance_id":"i1","term":18446744073709551615}`, `7`, `18446744073709551615`, `-1`, `null`, ``, `c1`,
	} {
		for name := range 3 {
			f.Add(name, []byte(value))
		}
	}
	f.Fuzz(func(t *testing.T, name int, value []byte) {
		names := []string{masterKey, termKey, idKey}
		var s state
		if err := s.parse(names[uint(name)%3], value); err != nil {
			return
		}
		term := s.term
		if s.master != nil {
			term = max(term, s.master.Term)
			if s.master.InstanceID == "" {
				t.Fatalf("%q is a master without an id", value)
			}
		}
		if term+1 <= term {
			t.Fatalf("%q is term %d, which cannot be raised", value, term)
		}
	})
}
