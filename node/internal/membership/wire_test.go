package membership

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/memberlist"
)

const someInstance = "0123456789abcdef0123456789abcdef"

// The layouts are read by other versions of this software. They only ever gain
// fields; a change of these texts is a change of the protocol.
func TestGoldenMeta(t *testing.T) {
	details, err := encodeDetails(Details{
		Zone: "eu-1", Tags: []string{"web"}, Meta: map[string]string{"k": "v"},
		AppAddrs: map[string]string{"http": "10.0.0.5:8080"}, Version: "1.4", Voter: "v:1",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := string(meta{InstanceID: someInstance, Claim: 1732265432123, ClusterID: "c1", Single: true}.encode(details))
	want := `{"v":1,"i":"0123456789abcdef0123456789abcdef","c":1732265432123,"k":"c1","s":true,` +
		`"d":{"zone":"eu-1","tags":["web"],"meta":{"k":"v"},"app_addrs":{"http":"10.0.0.5:8080"},"version":"1.4","voter":"v:1"}}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	details, _ = encodeDetails(Details{Zone: strings.Repeat("z", 500)})
	got = string(meta{InstanceID: someInstance, Claim: 1732265432123}.encode(details))
	want = `{"v":1,"i":"0123456789abcdef0123456789abcdef","c":1732265432123,"h":"2e92493bf5f61ff0e822760d10c5f7e0"}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMetaAlwaysFits(t *testing.T) {
	for _, size := range []int{0, 100, 300, 400, 500, 5000} {
		details, err := encodeDetails(Details{Zone: strings.Repeat("<", size)}) // which JSON escapes
		if err != nil {
			t.Fatal(err)
		}
		in := meta{InstanceID: strings.Repeat("i", MaxID), Claim: 1 << 60, ClusterID: strings.Repeat("k", MaxID), Single: true}
		b := in.encode(details)
		if len(b) > memberlist.MetaMaxSize {
			t.Fatalf("%d bytes", len(b))
		}
		out, err := decodeMeta(b)
		if err != nil {
			t.Fatal(err)
		}
		if (out.Details == nil || !out.Details.Equal(details.Details)) && out.Digest != details.digest && size > 0 {
			t.Errorf("size %d: neither the details nor their digest: %+v", size, out)
		}
	}
}

func TestDecodeMeta(t *testing.T) {
	if _, err := decodeMeta([]byte(`{"v":1,"i":"` + someInstance + `","c":5,"new":{"a":[1]}}`)); err != nil {
		t.Errorf("a field that is not known: %v", err)
	}
	for text, want := range map[string]error{
		"":        errMetaLayout,
		"serf":    errMetaLayout,
		`{"v":1}`: errMetaLayout,
		`{"v":2}`: errMetaVersion,
		`{}`:      errMetaVersion,
		`{"v":1,"i":"0123456789abcdef","k":"not an id"}`: errMetaLayout,
	} {
		if _, err := decodeMeta([]byte(text)); !errors.Is(err, want) {
			t.Errorf("decodeMeta(%q) = %v, want %v", text, err, want)
		}
	}
}

func TestGoldenWire(t *testing.T) {
	m := message{kindUser, "c1", "a~0123456789ab", "key", 300, []byte("payload")}
	const wantMessage = "01010263310e617e303132333435363738396162036b6579ac027061796c6f6164"
	if got := hex.EncodeToString(m.encode()); got != wantMessage {
		t.Errorf("message %s, want %s", got, wantMessage)
	}
	e := exchange{"c1", []string{"a~0123456789ab"}, []byte("payload")}
	const wantExchange = "01026331010e617e3031323334353637383961627061796c6f6164"
	if got := hex.EncodeToString(e.encode()); got != wantExchange {
		t.Errorf("exchange %s, want %s", got, wantExchange)
	}
	if got, err := decodeMessage(m.encode()); err != nil || cmp.Diff(m, got, cmp.AllowUnexported(message{})) != "" {
		t.Errorf("decoded %+v, %v", got, err)
	}
	if got, err := decodeExchange(e.encode()); err != nil || cmp.Diff(e, got, cmp.AllowUnexported(exchange{})) != "" {
		t.Errorf("decoded %+v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(message{kindUser, "c1", "a~0123456789ab", "key", 300, []byte("payload")}.encode())
	f.Add(exchange{"c1", []string{"a", "b"}, nil}.encode())
	f.Add([]byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeMessage(b); err == nil {
			if again, err := decodeMessage(m.encode()); err != nil || again.name() != m.name() || again.seq != m.seq {
				t.Errorf("%+v became %+v, %v", m, again, err)
			}
		}
		if e, err := decodeExchange(b); err == nil && len(e.left) > len(b) {
			t.Errorf("%d names from %d bytes", len(e.left), len(b))
		}
		_, _ = decodeMeta(b)
	})
}

// FuzzMeta holds of what anyone may gossip about himself: it is refused, or it is a
// member that can be reported in turn.
func FuzzMeta(f *testing.F) {
	d, err := encodeDetails(Details{Zone: "eu-1", Tags: []string{"web"}, Meta: map[string]string{"v": "1"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a~"+someInstance[:shortInstance], meta{InstanceID: someInstance, Claim: 1, ClusterID: "c1"}.encode(d))
	f.Add("a~"+someInstance[:shortInstance], []byte(`{"v":1,"i":"`+someInstance+`","c":-1,"d":null,"h":"x"}`))
	f.Add("a", []byte(`{"v":2}`))
	f.Add("~", []byte(`null`))
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		id, md, reason, err := identify(&memberlist.Node{Name: name, Meta: raw})
		if reason != "" {
			if err == nil {
				t.Fatalf("refused for %s without a word", reason)
			}
			return
		}
		if memberName(id.nodeID, id.instanceID) != name {
			t.Fatalf("%q is known as %+v", name, id)
		}
		if md.Details != nil {
			if _, err := json.Marshal(md.Details); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestSplitName(t *testing.T) {
	for _, id := range []string{"a", "a~b", "~", "host.example"} {
		nodeID, short, ok := splitName(memberName(id, someInstance))
		if !ok || nodeID != id || short != someInstance[:shortInstance] {
			t.Errorf("%q became %q, %q, %v", id, nodeID, short, ok)
		}
	}
	for _, name := range []string{"", "a", "a~short", "~0123456789ab"} {
		if _, _, ok := splitName(name); ok {
			t.Errorf("%q is a name", name)
		}
	}
}

func TestValidate(t *testing.T) {
	err := Config{NodeID: "a\n", InstanceID: "short"}.Validate()
	for _, want := range []string{"cluster: missing", `node id "a\n"`, `instance id "short"`, "address", "transport", "network"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate() = %v, want it to name %q", err, want)
		}
	}
}
