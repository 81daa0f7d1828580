package format

import (
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// A resolver keeps an answer no longer than the registration outlives its process, and at
// least for the second that is the least that DNS can say.
func TestTTLOfSkyDNS(t *testing.T) {
	i := driver.Instance{Service: "redis", InstanceID: "redis-1", Addr: "10.0.0.5:6379"}
	for ttl, want := range map[time.Duration]string{
		36 * time.Second:        `{"host":"10.0.0.5","port":6379,"ttl":36}`,
		2500 * time.Millisecond: `{"host":"10.0.0.5","port":6379,"ttl":2}`,
		time.Millisecond:        `{"host":"10.0.0.5","port":6379,"ttl":1}`,
		1 << 62:                 `{"host":"10.0.0.5","port":6379,"ttl":2147483647}`,
	} {
		kv := skyDNSKV.WithTTL(ttl)
		key, value, err := kv.Encode(i)
		if err != nil || value != want {
			t.Errorf("TTL %v: %s, %v; want %s", ttl, value, err, want)
		}
		if got, err := kv.Decode("redis", key, []byte(value)); err != nil || got.Addr != i.Addr {
			t.Errorf("TTL %v is read as %+v, %v", ttl, got, err)
		}
	}
	if _, value, _ := registratorKV.WithTTL(time.Minute).Encode(i); value != "10.0.0.5:6379" {
		t.Errorf("registrator's record became %s", value)
	}
}

// What others write as a TTL is theirs: CoreDNS may refuse it, we do not look at it.
func TestForeignTTLIsNotRead(t *testing.T) {
	for _, ttl := range []string{"60", `"60"`, "-1", "1e30", "null", "{}"} {
		value := `{"host":"10.0.0.5","port":1,"ttl":` + ttl + `}`
		if i, err := skyDNSKV.Decode("svc", "/skydns/local/cluster/svc/x", []byte(value)); err != nil || i.Addr != "10.0.0.5:1" {
			t.Errorf("%s is read as %+v, %v", value, i, err)
		}
	}
}

func TestLeafKey(t *testing.T) {
	value := []byte(`{"host":"10.0.0.5","port":1}`)
	i, err := skyDNSKV.Decode("svc", "/skydns/local/cluster/svc", value)
	if err != nil || i.InstanceID != "" || i.Addr != "10.0.0.5:1" || i.Service != "svc" {
		t.Errorf("the leaf is read as %+v, %v", i, err)
	}
	for key, want := range map[string]bool{
		"/skydns/local/cluster/svc": true, "/skydns/local/cluster/svc/x": true, "/skydns/local/cluster/svc/a/b": true,
		"/skydns/local/cluster/svc-2/x": false, "/skydns/local/cluster/svc2": false, "/skydns/local/cluster": false,
	} {
		if skyDNSKV.Of("svc", key) != want {
			t.Errorf("%s is of svc: %v, want %v", key, !want, want)
		}
	}
	for key, want := range map[string]string{"/skydns/local/cluster/svc": "svc", "/skydns/local/cluster/svc/x": "svc", "/skydns/local/cluster/": "", "/skydns/local/cluster/svc/": ""} {
		if name, ok := skyDNSKV.Service(key); name != want || ok != (want != "") {
			t.Errorf("%s is of service %q, %v; want %q", key, name, ok, want)
		}
	}
	for _, kv := range []KV{hazelcastKV, registratorKV} {
		leaf, may := kv.Leaf("svc")
		if _, err := kv.Decode("svc", leaf, value); may || err == nil || kv.Of("svc", leaf) {
			t.Errorf("%s may be a record", leaf)
		}
		if name, ok := kv.Service(leaf); ok {
			t.Errorf("%s is of service %s", leaf, name)
		}
	}
}

// Who does not find what, by how CoreDNS makes a key of a name: in lower case, a segment for
// each label.
func TestReviewOfSkyDNS(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct{ service, id, want string }{
		{"web", "web-1", ""},
		{"web", "host1:web_1:80", ""},
		{"web_2", "0123456789abcdef0123456789abcdef", ""},
		{long, long, ""},
		{"eu/web", "x1", ""}, // web.eu
		{"Web", "x1", `do not find service "Web": names are asked for in lower case`},
		{"wEb/eu", "x1", "lower case"},
		{"web.eu", "x1", "a dot parts two labels"},
		{long + "a", "x1", "a label has 64 letters"},
		{"w b", "x1", "letters that names are written without"},
		{"büro", "x1", "letters that names are written without"},
		{"web:80", "x1", "letters that names are written without"},
		{"any", "x1", "stands for every name"},
		{"a//b", "x1", "is empty"},
		{"web", "Hunt_Host:web:80", `the target of the SRV record of service "web", "Hunt_Host:web:80.web.cluster.local": names are asked for in lower case`},
		{"eu/web", "X", `"X.web.eu.cluster.local": names are asked for in lower case`},
		{"web", "host1:redis.0:80", "a dot parts"},
		{"web", "*", "stands for"},
		{"web", long + "1", "answer no SRV query for service \"web\""},
		{strings.Repeat(long+"/", 3) + "web", long, "answer no SRV query"}, // 253 letters at most
	} {
		got := skyDNSKV.Review(driver.Instance{Service: c.service, InstanceID: c.id, Addr: "10.0.0.5:1"})
		if (c.want == "") != (got == nil) || got != nil && !strings.Contains(got.Error(), c.want) {
			t.Errorf("service %s, id %s: %v, want %q", c.service, c.id, got, c.want)
		}
	}
	// 253 letters, and one more.
	room := 253 - len("."+long+"."+long+"."+long+".cluster.local")
	for n, want := range map[int]bool{room: false, room + 1: true} {
		got := skyDNSKV.Review(driver.Instance{Service: long + "/" + long + "/" + long, InstanceID: strings.Repeat("b", n), Addr: "10.0.0.5:1"})
		if (got != nil) != want {
			t.Errorf("an id of %d letters: %v", n, got)
		}
	}
	for _, kv := range []KV{hazelcastKV, registratorKV} {
		if got := kv.Review(driver.Instance{Service: "Web", InstanceID: "X.1", Addr: "10.0.0.5:1"}); got != nil {
			t.Errorf("of another system: %v", got)
		}
	}
}

func TestIsDomain(t *testing.T) {
	for domain, want := range map[string]bool{
		"cluster.local": true, "cluster.local.": true, "local": true, "a-b_c.1": true,
		"": false, ".": false, "a..b": false, "a b": false, "a/b": false, "Lab.local": false, "a\tb": false, "any.local": false,
		strings.Repeat("a", 64) + ".local": false, strings.Repeat("a.", 126) + "a": true, strings.Repeat("a.", 127) + "a": false,
	} {
		if IsDomain(domain) != want {
			t.Errorf("%q: %v, want %v", domain, !want, want)
		}
	}
}

// Two that would stand at one key have one place.
func TestPlace(t *testing.T) {
	at := func(service, id, addr string) driver.Instance {
		return driver.Instance{Service: service, NodeID: "n1", InstanceID: id, Addr: addr}
	}
	for _, c := range []struct {
		kv   KV
		a, b driver.Instance
		same bool
	}{
		{hazelcastKV, at("web", "a", "10.0.0.5:1"), at("web", "b", "10.0.0.5:1"), true},
		{hazelcastKV, at("web", "a", "10.0.0.5:1"), at("web", "b", "10.0.0.5:2"), false},
		{registratorKV, at("web", "eu/a", "10.0.0.5:1"), at("web", "us/a", "10.0.0.5:1"), true},
		{registratorKV, at("web", "a", "10.0.0.5:1"), at("api", "a", "10.0.0.5:1"), false},
		{skyDNSKV, at("web", "a", "10.0.0.5:1"), at("web", "b", "10.0.0.5:1"), false},
	} {
		a, b := c.kv.RecordKey(c.a), c.kv.RecordKey(c.b)
		if a == "" || b == "" || (a == b) != c.same {
			t.Errorf("%+v and %+v stand at %q and %q; the same: want %v", c.a, c.b, a, b, c.same)
		}
	}
	if place := skyDNSKV.RecordKey(at("web", "a", "0.0.0.0:1")); place != "" {
		t.Errorf("what cannot be registered stands at %s", place)
	}
}
