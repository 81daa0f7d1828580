package format

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/internal/testing/formattest"
)

func FuzzHazelcast(f *testing.F) {
	for _, value := range []string{
		`{"ip":"192.168.0.208","port":5702,"hostname":"192.168.0.208","registeredAt":"2015.11.25 14:25:59.026 +0000"}`,
		`{"ip":"2001:db8::1","port":"5701"}`, `{"ip":"0.0.0.0","port":0}`, `null`, `{`,
	} {
		f.Add("node1", []byte(value))
	}
	f.Fuzz(func(t *testing.T, id string, value []byte) { decodes(t, hazelcastKV, id, value) })
}

func FuzzRegistrator(f *testing.F) {
	for _, value := range []string{"192.168.1.102:10000", "[2001:db8::1]:1", "[fe80::1%25eth0]:1\n", "host:0", ":1", ""} {
		f.Add("hostname:redis.0:6379", []byte(value))
		f.Add("https.12345", []byte(value))
		f.Add("eu/https.12345", []byte(value))
		f.Add("0123456789abcdef0123456789abcdef", []byte(value))
	}
	f.Fuzz(func(t *testing.T, id string, value []byte) { decodes(t, registratorKV, id, value) })
}

func FuzzSkyDNS(f *testing.F) {
	for _, value := range []string{`{"host":"10.0.0.5","port":6379}`, `{"host":"db.example","port":"1","ttl":60}`, `{"host":"a b","port":1e3}`, `[]`} {
		f.Add("redis-1", []byte(value))
	}
	f.Fuzz(func(t *testing.T, id string, value []byte) { decodes(t, skyDNSKV, id, value) })
}

// decodes wants an instance to be the same however often it is written and read.
func decodes(t *testing.T, kv KV, id string, value []byte) {
	read, again, ok := formattest.RoundTrip(t, kv, id, value)
	if minted.MatchString(id) && again.InstanceID != id {
		again.InstanceID, again.NodeID = read.InstanceID, read.NodeID // a node's, which registrator's readers are not told
	}
	if diff := cmp.Diff(read, again); ok && diff != "" {
		t.Fatal(diff)
	}
}
