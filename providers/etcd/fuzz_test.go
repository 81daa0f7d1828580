package etcd

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/musterhq/muster/internal/testing/formattest"
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
		read, again, ok := formattest.RoundTrip(t, l, id, value)
		if diff := cmp.Diff(read, again, cmpopts.EquateEmpty()); ok && diff != "" {
			t.Fatal(diff)
		}
	})
}
