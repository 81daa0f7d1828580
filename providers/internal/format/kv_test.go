package format

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/discovery/driver"
)

// What the other systems write and read, to the byte. The host of what registers
// is "hostname".
var (
	hazelcastKV   = Hazelcast("/")
	registratorKV = Registrator("/services/", "hostname")
	skyDNSKV      = SkyDNS("/skydns/", "cluster.local")
)

const redisID = "hostname:redis.0:6379"

func TestEncode(t *testing.T) {
	node := driver.Instance{
		Service: "orders", NodeID: "n1", InstanceID: "0123456789abcdef0123456789abcdef", Addr: "192.168.1.102:7946",
		Zone: "eu-1", Tags: []string{"web"}, Meta: map[string]string{"k": "v"}, AppAddrs: map[string]string{"http": "10.0.0.5:80"},
		Version: "1.4", RegisteredAt: time.Date(2015, 11, 25, 15, 25, 59, 26_999_999, time.FixedZone("CET", 3600)),
	}
	with := func(change func(*driver.Instance)) driver.Instance {
		i := node
		change(&i)
		return i
	}
	container := driver.Instance{Service: "redis", InstanceID: redisID, Addr: "192.168.1.102:10000"}
	for _, c := range []struct {
		name       string
		kv         KV
		instance   driver.Instance
		key, value string
	}{
		{"hazelcast", hazelcastKV,
			driver.Instance{Service: "hz-discovery-test-cluster", Addr: "192.168.0.208:5701", RegisteredAt: node.RegisteredAt},
			"/hz-discovery-test-cluster/hz-discovery-test-cluster-192.168.0.208-192.168.0.208-5701",
			`{"ip":"192.168.0.208","port":5701,"hostname":"192.168.0.208","registeredAt":"2015.11.25 14:25:59.026 +0000"}`},
		{"hazelcast, a node", hazelcastKV, node, "/orders/orders-192.168.1.102-192.168.1.102-7946",
			`{"ip":"192.168.1.102","port":7946,"hostname":"192.168.1.102","registeredAt":"2015.11.25 14:25:59.026 +0000"}`},
		{"hazelcast, no time", hazelcastKV, container, "/redis/redis-192.168.1.102-192.168.1.102-10000",
			`{"ip":"192.168.1.102","port":10000,"hostname":"192.168.1.102"}`},
		{"hazelcast, IPv6", hazelcastKV, with(func(i *driver.Instance) { i.Addr = "[2001:db8::1]:7946"; i.RegisteredAt = time.Time{} }),
			"/orders/orders-2001:db8::1-2001:db8::1-7946", `{"ip":"2001:db8::1","port":7946,"hostname":"2001:db8::1"}`},
		{"hazelcast below a prefix", Hazelcast("/hz/"), container, "/hz/redis/redis-192.168.1.102-192.168.1.102-10000",
			`{"ip":"192.168.1.102","port":10000,"hostname":"192.168.1.102"}`},

		{"registrator", registratorKV, container, "/services/redis/hostname:redis.0:6379", "192.168.1.102:10000"},
		{"registrator, UDP", registratorKV, driver.Instance{Service: "dns", InstanceID: "hostname:dns:53:udp", Addr: "192.168.1.102:53"},
			"/services/dns/hostname:dns:53:udp", "192.168.1.102:53"},
		{"registrator, a node", registratorKV, node, "/services/orders/hostname:n1:7946", "192.168.1.102:7946"},
		{"registrator, no node id", registratorKV, with(func(i *driver.Instance) { i.NodeID = "" }),
			"/services/orders/hostname:0123456789abcdef0123456789abcdef:7946", "192.168.1.102:7946"},
		{"registrator, an id that somebody chose", registratorKV, driver.Instance{Service: "https", NodeID: "n1", InstanceID: "https.12345", Addr: "192.168.1.102:4443"},
			"/services/https/https.12345", "192.168.1.102:4443"},
		{"registrator, an id with a slash", registratorKV, driver.Instance{Service: "https", NodeID: "n1", InstanceID: "eu/https.12345", Addr: "192.168.1.102:4443"},
			"/services/https/hostname:n1:4443", "192.168.1.102:4443"},
		{"registrator, IPv6", registratorKV, with(func(i *driver.Instance) { i.Addr = "[2001:db8::1]:7946" }),
			"/services/orders/hostname:n1:7946", "[2001:db8::1]:7946"},
		{"registrator without a prefix", Registrator("", "hostname"), container, "redis/hostname:redis.0:6379", "192.168.1.102:10000"},
		{"registrator, a name with a slash", registratorKV, driver.Instance{Service: "team/redis", InstanceID: redisID, Addr: "192.168.1.102:10000"},
			"/services/team/redis/hostname:redis.0:6379", "192.168.1.102:10000"},
		{"registrator, a port with zeros", registratorKV, driver.Instance{Service: "redis", InstanceID: redisID, Addr: "192.168.1.102:00080"},
			"/services/redis/hostname:redis.0:6379", "192.168.1.102:80"},

		{"skydns", skyDNSKV, driver.Instance{Service: "redis", InstanceID: "redis-1", Addr: "192.168.1.102:10000"},
			"/skydns/local/cluster/redis/redis-1", `{"host":"192.168.1.102","port":10000}`},
		{"skydns, of registrator", skyDNSKV, container, "/skydns/local/cluster/redis/hostname:redis.0:6379", `{"host":"192.168.1.102","port":10000}`},
		{"skydns, a node", skyDNSKV, node, "/skydns/local/cluster/orders/0123456789abcdef0123456789abcdef", `{"host":"192.168.1.102","port":7946}`},
		{"skydns, IPv6", skyDNSKV, with(func(i *driver.Instance) { i.Addr = "[2001:db8::1]:7946" }),
			"/skydns/local/cluster/orders/0123456789abcdef0123456789abcdef", `{"host":"2001:db8::1","port":7946}`},
		{"skydns, no instance id", skyDNSKV, with(func(i *driver.Instance) { i.InstanceID = "" }),
			"/skydns/local/cluster/orders/n1", `{"host":"192.168.1.102","port":7946}`},
		{"skydns, another domain", SkyDNS("/skydns/", "prod.example.com."), container,
			"/skydns/com/example/prod/redis/hostname:redis.0:6379", `{"host":"192.168.1.102","port":10000}`},
		{"skydns, one label", SkyDNS("skydns/", "local"), container,
			"skydns/local/redis/hostname:redis.0:6379", `{"host":"192.168.1.102","port":10000}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, value, err := c.kv.Encode(c.instance)
			if err != nil || key != c.key || value != c.value {
				t.Errorf("%s = %s, %v; want\n%s = %s", key, value, err, c.key, c.value)
			}
		})
	}
}

func TestEncodeRefuses(t *testing.T) {
	good := driver.Instance{Service: "orders", NodeID: "n1", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	for name, change := range map[string]func(*driver.Instance){
		"no service":       func(i *driver.Instance) { i.Service = "" },
		"no address":       func(i *driver.Instance) { i.Addr = "" },
		"nobody's address": func(i *driver.Instance) { i.Addr = "0.0.0.0:7946" },
		"port 0":           func(i *driver.Instance) { i.Addr = "10.0.0.5:0" },
		"no host name":     func(i *driver.Instance) { i.Addr = "[10.0.0.5:80]:7946" },
	} {
		t.Run(name, func(t *testing.T) {
			for system, kv := range map[string]KV{"hazelcast": hazelcastKV, "registrator": registratorKV, "skydns": skyDNSKV} {
				i := good
				change(&i)
				if key, value, err := kv.Encode(i); !errors.Is(err, driver.ErrInvalid) {
					t.Errorf("%s: %s = %s, %v; want driver.ErrInvalid", system, key, value, err)
				}
			}
		})
	}
	for _, c := range []struct {
		name     string
		kv       KV
		instance driver.Instance
	}{
		{"hazelcast: the service is part of the id", hazelcastKV, driver.Instance{Service: "team/orders", Addr: "10.0.0.5:7946"}},
		{"registrator: no id", registratorKV, driver.Instance{Service: "orders", Addr: "10.0.0.5:7946"}},
		{"registrator: a colon in the node id", registratorKV, driver.Instance{Service: "orders", NodeID: "a:b", Addr: "10.0.0.5:7946"}},
		{"registrator: a slash in the node id", registratorKV, driver.Instance{Service: "orders", NodeID: "a/b", Addr: "10.0.0.5:7946"}},
		{"registrator: a slash in the host name", Registrator("", "a/b"), driver.Instance{Service: "orders", NodeID: "n1", Addr: "10.0.0.5:7946"}},
		{"skydns: no id", skyDNSKV, driver.Instance{Service: "orders", Addr: "10.0.0.5:7946"}},
		{"skydns: a slash in the id", skyDNSKV, driver.Instance{Service: "orders", InstanceID: "a/b", Addr: "10.0.0.5:7946"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if key, value, err := c.kv.Encode(c.instance); !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%s = %s, %v; want driver.ErrInvalid", key, value, err)
			}
		})
	}
}

func TestDecode(t *testing.T) {
	at := time.Date(2015, 11, 25, 14, 25, 59, 26e6, time.UTC)
	for _, c := range []struct {
		kv         KV
		key, value string
		want       driver.Instance // its service is svc; without an address: skipped
	}{
		// Written by others, and by hand.
		{hazelcastKV, "/svc/node1", `{"ip":"127.0.0.1","port":5701,"hostname":"127.0.0.1"}`, driver.Instance{Addr: "127.0.0.1:5701"}},
		{hazelcastKV, "/svc/svc-192.168.0.208-192.168.0.208-5701",
			`{"ip":"192.168.0.208","port":5702,"hostname":"192.168.0.208","registeredAt":"2015.11.25 14:25:59.026 +0000"}`,
			driver.Instance{Addr: "192.168.0.208:5702", RegisteredAt: at}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":5701,"registeredAt":"2015.11.25 09:25:59.026 -0500"}`, driver.Instance{Addr: "10.0.0.5:5701", RegisteredAt: at}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":5701}`, driver.Instance{Addr: "10.0.0.5:5701"}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":"5701"}`, driver.Instance{Addr: "10.0.0.5:5701"}},
		{hazelcastKV, "/svc/x", ` {"port":5701,"ip":"2001:db8::1","hostname":null,"weight":[1,{}]} `, driver.Instance{Addr: "[2001:db8::1]:5701"}},
		{hazelcastKV, "/svc/x", `{"ip":"db1.example","port":5701,"hostname":7,"registeredAt":"yesterday"}`, driver.Instance{Addr: "db1.example:5701"}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":5701,"registeredAt":1448461559026}`, driver.Instance{Addr: "10.0.0.5:5701"}},

		{registratorKV, "/services/svc/" + redisID, "192.168.1.102:10000", driver.Instance{InstanceID: redisID, NodeID: "redis.0", Addr: "192.168.1.102:10000"}},
		{registratorKV, "/services/svc/hostname:dns:53:udp", "192.168.1.102:53", driver.Instance{InstanceID: "hostname:dns:53:udp", NodeID: "dns", Addr: "192.168.1.102:53"}},
		{registratorKV, "/services/svc/https.12345", "[2001:db8::1]:443\n", driver.Instance{InstanceID: "https.12345", Addr: "[2001:db8::1]:443"}},
		{registratorKV, "/services/svc/x", "db1.example:5432", driver.Instance{InstanceID: "x", Addr: "db1.example:5432"}},

		{skyDNSKV, "/skydns/local/cluster/svc/redis-1", `{"host":"10.0.0.5","port":6379}`, driver.Instance{InstanceID: "redis-1", Addr: "10.0.0.5:6379"}},
		{skyDNSKV, "/skydns/local/cluster/svc/x1", `{"host":"2001:db8::1","port":"53","weight":10,"ttl":60}`, driver.Instance{InstanceID: "x1", Addr: "[2001:db8::1]:53"}},
		{skyDNSKV, "/skydns/local/cluster/svc/x1", `{"host":"db1.example","port":5432}`, driver.Instance{InstanceID: "x1", Addr: "db1.example:5432"}},

		// The keys of others.
		{hazelcastKV, "/svc", `{"ip":"10.0.0.5","port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/", `{"ip":"10.0.0.5","port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc2/x", `{"ip":"10.0.0.5","port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/eu/x", `{"ip":"10.0.0.5","port":5701}`, driver.Instance{}},
		{registratorKV, "/services/svc/eu/x", "10.0.0.5:1", driver.Instance{}},
		{registratorKV, "/services/svc/x/", "10.0.0.5:1", driver.Instance{}},
		{skyDNSKV, "/skydns/local/cluster/svc/rack1/x", `{"host":"10.0.0.5","port":6379}`, driver.Instance{}},
		{skyDNSKV, "/skydns/local/svc/x", `{"host":"10.0.0.5","port":6379}`, driver.Instance{}},

		// Malformed values.
		{hazelcastKV, "/svc/x", ``, driver.Instance{}},
		{hazelcastKV, "/svc/x", `garbage`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":5701}}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `[]`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `null`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5"}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":null,"port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":10,"port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"","port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"0.0.0.0","port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5:5701","port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"[::1]","port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"http://10.0.0.5","port":5701}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":0}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":65536}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":-1}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":5701.5}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":"http"}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"10.0.0.5","port":true}`, driver.Instance{}},
		{registratorKV, "/services/svc/x", ``, driver.Instance{}},
		{registratorKV, "/services/svc/x", `10.0.0.5`, driver.Instance{}},
		{registratorKV, "/services/svc/x", `:6379`, driver.Instance{}},
		{registratorKV, "/services/svc/x", `10.0.0.5:0`, driver.Instance{}},
		{registratorKV, "/services/svc/x", `10.0.0.5:http`, driver.Instance{}},
		{registratorKV, "/services/svc/x", `2001:db8::1:6379`, driver.Instance{}},
		{registratorKV, "/services/svc/x", `0.0.0.0:6379`, driver.Instance{}},
		{registratorKV, "/services/svc/x", `[fe80::1%eth0]:6379`, driver.Instance{}},
		{skyDNSKV, "/skydns/local/cluster/svc/x", `{"host":"fe80::1%eth0","port":6379}`, driver.Instance{}},
		{hazelcastKV, "/svc/x", `{"ip":"fe80::1%2","port":5701}`, driver.Instance{}},
		{registratorKV, "/services/svc/x", `tcp://10.0.0.5:6379`, driver.Instance{}},
		{registratorKV, "/services/svc/x", "10.0.0.5:1\n10.0.0.6:1", driver.Instance{}},
		{skyDNSKV, "/skydns/local/cluster/svc/x", `{"host":"10.0.0.5"}`, driver.Instance{}},
		{skyDNSKV, "/skydns/local/cluster/svc/x", `{"port":6379}`, driver.Instance{}},
		{skyDNSKV, "/skydns/local/cluster/svc/x", `{"text":"v=spf1"}`, driver.Instance{}},
		{skyDNSKV, "/skydns/local/cluster/svc/x", `10.0.0.5:6379`, driver.Instance{}},
	} {
		got, err := c.kv.Decode("svc", c.key, []byte(c.value))
		if c.want.Addr == "" {
			if !errors.Is(err, driver.ErrInvalid) || !cmp.Equal(got, driver.Instance{}) {
				t.Errorf("%s = %s is read as %+v, %v; want driver.ErrInvalid", c.key, c.value, got, err)
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("%s = %s: the reason has several lines: %v", c.key, c.value, err)
			}
			continue
		}
		c.want.Service = "svc"
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s = %s: %v\n%s", c.key, c.value, err, diff)
		}
	}
}

func TestRegistratorID(t *testing.T) {
	for id, node := range map[string]string{
		"hostname:web:80":       "web",
		"hostname:web:53:udp":   "web",
		"hostname:web:99:sctp":  "web",
		"hostname:web_1.x-2:80": "web_1.x-2",
		"h.example:w:80":        "w",
		"hostname:web:80:tcp":   "",
		"host:a:b:80":           "",
		"web-1":                 "",
		"hostname:web:http":     "",
		":web:80":               "",
		"a/b:web:80":            "",
		"":                      "",
	} {
		if got := RegistratorNode(id); got != node {
			t.Errorf("the node in %q is %q, want %q", id, got, node)
		}
	}
}

// What was written is read back as what the system can hold of it.
func TestRoundTrip(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC)
	for _, addr := range []string{"10.0.0.5:7946", "[2001:db8::1]:7946", "[fe80::1]:7946", "db-1.example:65535"} {
		full := driver.Instance{
			Service: "orders", NodeID: "n1", InstanceID: "0123456789abcdef0123456789abcdef", Addr: addr, Zone: "eu-1", Tags: []string{"web"},
			Meta: map[string]string{"k": "v"}, AppAddrs: map[string]string{"http": "10.0.0.5:80"}, Version: "1.4", RegisteredAt: at,
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			kv   KV
			want driver.Instance
		}{
			{hazelcastKV, driver.Instance{Service: "orders", Addr: addr, RegisteredAt: at.Truncate(time.Millisecond)}},
			{registratorKV, driver.Instance{Service: "orders", NodeID: "n1", InstanceID: "hostname:n1:" + port, Addr: addr}},
			{skyDNSKV, driver.Instance{Service: "orders", InstanceID: full.InstanceID, Addr: addr}},
		} {
			key, value, err := c.kv.Encode(full)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.kv.Decode("orders", key, []byte(value))
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%s = %s: %v\n%s", key, value, err, diff)
			}
		}
	}
}
