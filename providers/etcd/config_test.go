package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/tlsfiles"
)

func TestConfigNamesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ca := testserver.NewCA(t)
	cert, key := ca.Issue(t, "client", testserver.PKCS8)
	_, otherKey := ca.Issue(t, "other", testserver.PKCS8)

	plain := []string{"http://127.0.0.1:2379"}
	secure := []string{"https://127.0.0.1:2379"}
	for _, c := range []struct {
		name   string
		config Config
		keys   []string
	}{
		{"nothing", Config{}, []string{"endpoints"}},
		{"no scheme", Config{Endpoints: []string{"127.0.0.1:2379"}}, []string{"endpoints[0]"}},
		{"other scheme", Config{Endpoints: []string{"grpc://127.0.0.1:2379"}}, []string{"endpoints[0]"}},
		{"no port", Config{Endpoints: []string{"http://etcd"}}, []string{"endpoints[0]"}},
		{"port 0", Config{Endpoints: []string{"http://etcd:0"}}, []string{"endpoints[0]"}},
		{"no host", Config{Endpoints: []string{"http://:2379"}}, []string{"endpoints[0]"}},
		{"unspecified", Config{Endpoints: []string{"http://0.0.0.0:2379"}}, []string{"endpoints[0]"}},
		{"path", Config{Endpoints: []string{"http://etcd:2379/v3"}}, []string{"endpoints[0]"}},
		{"the second", Config{Endpoints: []string{"http://etcd:2379", "etcd2"}}, []string{"endpoints[1]"}},
		{"mixed", Config{Endpoints: []string{"http://a:2379", "https://b:2379"}}, []string{"endpoints[1]"}},
		{"tls over http", Config{Endpoints: plain, TLS: tlsfiles.Config{CAFile: ca.CAFile}}, []string{"endpoints[0]"}},
		{"user in the URL", Config{Endpoints: []string{"http://root:hunter2@etcd:2379"}}, []string{"endpoints[0]"}},
		{"relative prefix", Config{Endpoints: plain, Prefix: "muster"}, []string{"prefix"}},
		{"empty segment", Config{Endpoints: plain, Prefix: "/a//b"}, []string{"prefix"}},
		{"unknown format", Config{Endpoints: plain, Format: "eureka"}, []string{"format"}},
		{"domain without skydns", Config{Endpoints: plain, Format: "registrator", Domain: "cluster.local"}, []string{"domain"}},
		{"no domain", Config{Endpoints: plain, Format: "skydns", Domain: "cluster..local"}, []string{"domain"}},
		{"path for a domain", Config{Endpoints: plain, Format: "skydns", Domain: "local/cluster"}, []string{"domain"}},
		{"relative authority prefix", Config{Endpoints: plain, AuthorityPrefix: "muster"}, []string{"authority_prefix"}},
		{"negative timeout", Config{Endpoints: plain, DialTimeout: -1}, []string{"dial_timeout"}},
		{"user alone", Config{Endpoints: plain, Username: "muster"}, []string{"password"}},
		{"password alone", Config{Endpoints: plain, Password: "hunter2"}, []string{"username"}},
		{"two passwords", Config{Endpoints: plain, Username: "muster", Password: "hunter2", PasswordFile: empty}, []string{"password_file"}},
		{"empty password file", Config{Endpoints: plain, Username: "muster", PasswordFile: empty}, []string{"password_file"}},
		{"no password file", Config{Endpoints: plain, Username: "muster", PasswordFile: filepath.Join(dir, "none")}, []string{"password_file"}},
		{"no CA file", Config{Endpoints: secure, TLS: tlsfiles.Config{CAFile: filepath.Join(dir, "none")}}, []string{"tls.ca_file"}},
		{"CA file without certificate", Config{Endpoints: secure, TLS: tlsfiles.Config{CAFile: empty}}, []string{"tls.ca_file"}},
		{"certificate alone", Config{Endpoints: secure, TLS: tlsfiles.Config{CertFile: cert}}, []string{"tls.key_file"}},
		{"key alone", Config{Endpoints: secure, TLS: tlsfiles.Config{KeyFile: key}}, []string{"tls.cert_file"}},
		{"key of another", Config{Endpoints: secure, TLS: tlsfiles.Config{CertFile: cert, KeyFile: otherKey}}, []string{"tls.key_file"}},
		{"everything", Config{Endpoints: []string{"etcd"}, Prefix: "muster", Username: "muster", DialTimeout: -1},
			[]string{"dial_timeout", "endpoints[0]", "password", "prefix"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := New(c.config)
			if err == nil {
				d.Close()
				t.Fatal("New accepts it")
			}
			if !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%v is no driver.ErrInvalid", err)
			}
			if got := keysOf(err); !slices.Equal(got, c.keys) {
				t.Errorf("it blames %v, want %v: %v", got, c.keys, err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it shows a secret: %v", err)
			}
		})
	}
}

// keysOf returns the keys that an error of joined ConfigErrors names, sorted.
func keysOf(err error) []string {
	var keys []string
	var visit func(error)
	visit = func(err error) {
		switch e := err.(type) {
		case *driver.ConfigError:
			keys = append(keys, e.Key)
		case interface{ Unwrap() []error }:
			for _, inner := range e.Unwrap() {
				visit(inner)
			}
		}
	}
	visit(err)
	slices.Sort(keys)
	return keys
}

func TestWhereTheKeysStand(t *testing.T) {
	for _, c := range []struct {
		config           Config
		services, grants string // of service and cluster orders
	}{
		{Config{}, "/muster/v1/services/orders/", "/muster/v1/clusters/orders/"},
		{Config{Prefix: "/prod/muster/"}, "/prod/muster/v1/services/orders/", "/prod/muster/v1/clusters/orders/"},
		{Config{Prefix: "/"}, "/v1/services/orders/", "/v1/clusters/orders/"},
		{Config{Prefix: "/a", AuthorityPrefix: "/b"}, "/a/v1/services/orders/", "/b/v1/clusters/orders/"},
		{Config{Format: "hazelcast"}, "/orders/", "/muster/v1/clusters/orders/"},
		{Config{Format: "hazelcast", Prefix: "/"}, "/orders/", "/muster/v1/clusters/orders/"},
		{Config{Format: "hazelcast", Prefix: "/hz"}, "/hz/orders/", "/muster/v1/clusters/orders/"},
		{Config{Format: "registrator"}, "/orders/", "/muster/v1/clusters/orders/"},
		{Config{Format: "registrator", Prefix: "/services"}, "/services/orders/", "/muster/v1/clusters/orders/"},
		{Config{Format: "registrator", Prefix: "/services/", AuthorityPrefix: "/prod/"}, "/services/orders/", "/prod/v1/clusters/orders/"},
		{Config{Format: "skydns"}, "/skydns/local/cluster/orders/", "/muster/v1/clusters/orders/"},
		{Config{Format: "skydns", Domain: "prod.example.com."}, "/skydns/com/example/prod/orders/", "/muster/v1/clusters/orders/"},
		{Config{Format: "skydns", Prefix: "/coredns", Domain: "local"}, "/coredns/local/orders/", "/muster/v1/clusters/orders/"},
	} {
		c.config.Endpoints = []string{"http://127.0.0.1:1"}
		d := open(t, c.config)
		if services, grants := d.layout.Prefix("orders"), d.keys.cluster("orders"); services != c.services || grants != c.grants {
			t.Errorf("format %q, prefix %q, domain %q: services at %s, grants at %s; want %s and %s",
				c.config.Format, c.config.Prefix, c.config.Domain, services, grants, c.services, c.grants)
		}
	}
}

func TestConfigNeverShowsThePassword(t *testing.T) {
	c := Config{Endpoints: []string{"http://etcd:2379"}, Username: "muster", Password: "hunter2"}
	if s := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(s, "hunter2") {
		t.Error(s)
	}
}

func TestProviderOpensWhatItMakes(t *testing.T) {
	p, err := driver.Lookup("etcd")
	if err != nil {
		t.Fatal(err)
	}
	c := p.NewConfig().(*Config)
	if c.Format != "muster" || c.Prefix != "" || c.DialTimeout != DefaultDialTimeout {
		t.Errorf("defaults are %+v", c)
	}
	if _, err := p.Open(c); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("Open without endpoints = %v", err)
	}
	c.Endpoints = []string{"http://127.0.0.1:1/"}
	d, err := p.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if _, err := p.Open(Config{}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("Open of another type = %v", err)
	}
}

// Nothing listens where this points: New returns, calls fail at once, and say why.
func TestNewDoesNotWaitForEtcd(t *testing.T) {
	start := time.Now()
	for _, c := range []Config{
		{Endpoints: []string{"http://127.0.0.1:1"}},
		{Endpoints: []string{"http://127.0.0.1:1"}, Username: "muster", Password: "secret"},
	} {
		d := open(t, c)
		_, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
		if !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
			t.Errorf("List = %v, want ErrUnavailable and the reason", err)
		}
	}
	if took := time.Since(start); took > wait.Patience/3 {
		t.Errorf("it took %v", took)
	}
}
