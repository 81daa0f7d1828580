package replicated

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
)

// FuzzCommands holds of any log: each voter comes to the same state, one that has it
// from a snapshot too, and terms only rise.
func FuzzCommands(f *testing.F) {
	f.Add([]byte(`{"v":1,"op":"claim","server":"a","holder":{"node_id":"a","instance_id":"a1"},"cluster_id":"c"}
{"v":1,"op":"set","key":"k","value":"dg=="}
{"v":1,"op":"release","server":"a","term":1}
{"v":1,"op":"delete","key":"k","prev":2}
{"v":1,"op":"claim","min_term":18446744073709551615}`))
	f.Add([]byte("{\"op\":\"claim\",\"min_term\":4611686018427387904}\n{\"op\":\"claim\"}\nnull\n[]\n{\"op\":\"later\"}"))
	f.Fuzz(func(t *testing.T, log []byte) {
		a, b := NewState(func() {}), NewState(func() {})
		var term driver.Term
		for n, line := range bytes.Split(log, []byte("\n")) {
			entry := &raft.Log{Index: uint64(n + 1), Term: uint64(n/3 + 1), Data: line}
			a.Apply(entry)
			b.Apply(entry)
			now := a.Mastership()
			if now.Term < term {
				t.Fatalf("term %d after %d", now.Term, term)
			}
			term = now.Term
			snapshot, err := b.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			image, err := json.Marshal(snapshot)
			if err != nil {
				t.Fatal(err)
			}
			b = NewState(func() {})
			if err := b.Restore(io.NopCloser(bytes.NewReader(image))); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(a.Mastership(), b.Mastership()); diff != "" {
			t.Fatal(diff)
		}
		if len(a.records) != len(b.records) {
			t.Fatalf("%d records and %d", len(a.records), len(b.records))
		}
		for key, r := range a.records {
			if got := b.records[strings.ToValidUTF8(key, "\ufffd")]; got.Revision != r.Revision || !bytes.Equal(got.Value, r.Value) {
				t.Fatalf("%q is %+v and %+v", key, r, got)
			}
		}
	})
}

// FuzzSnapshot holds that no snapshot makes a voter panic, then or later.
func FuzzSnapshot(f *testing.F) {
	f.Add([]byte(`{"v":1,"claim":{"term":3,"cluster_id":"c","holder":{"instance_id":"a1"},"server":"a","raft_term":2},"records":{"k":{"value":"dg==","revision":4}}}`))
	f.Add([]byte(`{"v":1}`))
	f.Add([]byte(`{"v":2}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := NewState(func() {})
		if s.Restore(io.NopCloser(bytes.NewReader(in))) != nil {
			return
		}
		s.List("")
		s.Apply(&raft.Log{Index: 1, Term: 1, Data: []byte(`{"v":1,"op":"set","key":"new"}`)})
		s.Apply(&raft.Log{Index: 2, Term: 1, Data: []byte(`{"v":1,"op":"claim","holder":{"instance_id":"b1"}}`)})
	})
}
