package etcd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/tlsfiles"
)

func TestTLS(t *testing.T) {
	ca := testserver.NewCA(t)
	server := testserver.StartEtcd(t, testserver.WithTLS(ca))
	list := func(t *testing.T, c tlsfiles.Config, endpoint string) error {
		d := open(t, Config{Endpoints: []string{endpoint}, TLS: c})
		_, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
		return err
	}
	for _, form := range []testserver.KeyForm{testserver.PKCS1, testserver.PKCS8, testserver.SEC1} {
		t.Run(string(form), func(t *testing.T) {
			cert, key := ca.Issue(t, "client", form)
			if err := list(t, tlsfiles.Config{CAFile: ca.CAFile, CertFile: cert, KeyFile: key}, server.Endpoint()); err != nil {
				t.Error(err)
			}
		})
	}
	cert, key := ca.Issue(t, "client", testserver.PKCS8)
	t.Run("server name", func(t *testing.T) {
		if err := list(t, tlsfiles.Config{CAFile: ca.CAFile, CertFile: cert, KeyFile: key, ServerName: "server"}, server.Endpoint()); err != nil {
			t.Error(err)
		}
		err := list(t, tlsfiles.Config{CAFile: ca.CAFile, CertFile: cert, KeyFile: key, ServerName: "elsewhere"}, server.Endpoint())
		if !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "elsewhere") {
			t.Errorf("another name: %v, want ErrUnavailable that says so", err)
		}
	})
	t.Run("no certificate", func(t *testing.T) {
		if err := list(t, tlsfiles.Config{CAFile: ca.CAFile}, server.Endpoint()); !errors.Is(err, driver.ErrDenied) {
			t.Errorf("%v, want ErrDenied", err)
		}
	})
	t.Run("certificate of a stranger", func(t *testing.T) {
		cert, key := testserver.NewCA(t).Issue(t, "client", testserver.PKCS8)
		if err := list(t, tlsfiles.Config{CAFile: ca.CAFile, CertFile: cert, KeyFile: key}, server.Endpoint()); !errors.Is(err, driver.ErrDenied) {
			t.Errorf("%v, want ErrDenied", err)
		}
	})
	t.Run("server of a stranger", func(t *testing.T) {
		err := list(t, tlsfiles.Config{CAFile: testserver.NewCA(t).CAFile, CertFile: cert, KeyFile: key}, server.Endpoint())
		if !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%v, want ErrUnavailable that says why", err)
		}
	})
	t.Run("files that become right", func(t *testing.T) {
		own := tlsfiles.Config{CAFile: filepath.Join(t.TempDir(), "ca.pem"), CertFile: cert, KeyFile: key}
		copyFile(t, testserver.NewCA(t).CAFile, own.CAFile)
		d := open(t, Config{Endpoints: []string{server.Endpoint()}, TLS: own})
		if _, err := d.List(wait.Context(t), driver.Query{Service: "orders"}); err == nil {
			t.Fatal("a server of a stranger was believed")
		}
		copyFile(t, ca.CAFile, own.CAFile)
		ctx := wait.Context(t)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			_, err := d.List(ctx, driver.Query{Service: "orders"})
			if err == nil {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatal("the authority that was written is not seen: ", err)
			}
		}
	})
	t.Run("plain to a server with TLS", func(t *testing.T) {
		err := list(t, tlsfiles.Config{}, "http://"+server.Addr())
		if !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
	})
}

// everything uses each call of the driver once, and returns the first error.
func everything(ctx context.Context, d *Driver, cluster, instance string) error {
	i := driver.Instance{Service: cluster, InstanceID: instance, Addr: "10.0.0.5:7946"}
	s, err := d.OpenSession(ctx, driver.SessionOptions{})
	if err != nil {
		return err
	}
	if err := errors.Join(s.Register(ctx, i), s.Register(ctx, i), s.Renew(ctx)); err != nil {
		return err
	}
	since, err := d.List(ctx, driver.Query{Service: cluster})
	if err != nil {
		return err
	}
	if err := s.Deregister(ctx, i); err != nil {
		return err
	}
	for seen, err := range d.Watch(ctx, driver.Query{Service: cluster}, since) {
		if err != nil {
			return err
		}
		if len(seen.Instances) == len(since.Instances)-1 {
			break
		}
	}
	if err := s.Close(ctx); err != nil {
		return err
	}
	opened, err := d.OpenAuthority(ctx, driver.AuthorityOptions{Cluster: cluster})
	if err != nil {
		return err
	}
	defer opened.Close(ctx)
	a := opened.(*authority)
	g, err := a.Acquire(ctx, driver.Claim{Holder: driver.Holder{InstanceID: instance}, ClusterID: "id"})
	if err != nil {
		return err
	}
	if g, err = a.Renew(ctx, g); err != nil {
		return err
	}
	for m, err := range a.Observe(ctx) {
		if err != nil {
			return err
		}
		if m.Holder != nil && m.Term == g.Term {
			break
		}
	}
	if err := a.Release(ctx, g); err != nil {
		return err
	}
	revision, err := a.Set(ctx, "record", nil, 0)
	if err != nil {
		return err
	}
	if _, err := a.Get(ctx, "record"); err != nil {
		return err
	}
	if _, err := a.Records(ctx, ""); err != nil {
		return err
	}
	return a.Delete(ctx, "record", revision)
}

// The role is the one that the README names: reading and writing below the prefix,
// with its slash, and nothing else.
func TestUserWithTheRoleOfTheReadme(t *testing.T) {
	server := testserver.StartEtcd(t, testserver.WithAuth())
	server.AddUser("muster", "secret", "/muster/")
	server.AddUser("stranger", "secret", "/elsewhere/")

	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Username: "muster", Password: "secret"})
	if err := everything(wait.Context(t), d, "orders", "i1"); err != nil {
		t.Fatalf("with the role of the README: %v", err)
	}

	for _, c := range []struct {
		name   string
		config Config
	}{
		{"another prefix", Config{Username: "stranger", Password: "secret"}},
		{"a prefix that starts alike", Config{Username: "muster", Password: "secret", Prefix: "/muster2"}},
		{"no user", Config{}},
		{"wrong password", Config{Username: "muster", Password: "wrong"}},
		{"unknown user", Config{Username: "nobody", Password: "secret"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.Endpoints = []string{server.Endpoint()}
			d := open(t, c.config)
			q := driver.Query{Service: "orders"}
			snapshot, err := d.List(wait.Context(t), q)
			if !errors.Is(err, driver.ErrDenied) || snapshot.Instances != nil {
				t.Errorf("List = %v, %v, want ErrDenied", snapshot, err)
			}
			for snapshot, err := range d.Watch(wait.Context(t), q, driver.Snapshot{}) {
				if !errors.Is(err, driver.ErrDenied) {
					t.Errorf("Watch yields %v, %v, want ErrDenied", snapshot, err)
				}
			}
			if err := everything(wait.Context(t), d, "orders", "i1"); !errors.Is(err, driver.ErrDenied) {
				t.Errorf("what else there is: %v, want ErrDenied", err)
			}
			a := openAuthority(t, d, "orders")
			for m, err := range a.Observe(wait.Context(t)) {
				if !errors.Is(err, driver.ErrDenied) {
					t.Errorf("Observe yields %v, %v, want ErrDenied", m, err)
				}
			}
			if _, err := a.Acquire(wait.Context(t), claim("i1")); !errors.Is(err, driver.ErrDenied) {
				t.Errorf("Acquire: %v, want ErrDenied", err)
			}
			if _, err := a.Records(wait.Context(t), ""); !errors.Is(err, driver.ErrDenied) {
				t.Errorf("Records: %v, want ErrDenied", err)
			}
		})
	}

	t.Run("records of another system", func(t *testing.T) {
		if _, err := server.Client().RoleGrantPermission(wait.Context(t), "muster", "/services/orders/", clientv3.GetPrefixRangeEnd("/services/orders/"),
			clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
			t.Fatal(err)
		}
		d := open(t, Config{Endpoints: []string{server.Endpoint()}, Username: "muster", Password: "secret", Format: "registrator", Prefix: "/services"})
		if err := everything(wait.Context(t), d, "orders", "i1"); err != nil {
			t.Errorf("with the role of the README: %v", err)
		}
	})
}

func TestUserWhoOnlyReads(t *testing.T) {
	server := testserver.StartEtcd(t, testserver.WithAuth())
	server.AddUser("reader", "secret", "/elsewhere/")
	if _, err := server.Client().RoleGrantPermission(wait.Context(t), "reader", "/muster/", clientv3.GetPrefixRangeEnd("/muster/"),
		clientv3.PermissionType(clientv3.PermRead)); err != nil {
		t.Fatal(err)
	}
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Username: "reader", Password: "secret"})
	since, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	if _, err := server.Client().Put(wait.Context(t), "/muster/v1/services/orders/i1", `{"addr":"10.0.0.5:7946"}`); err != nil {
		t.Fatal(err)
	}
	for seen, err := range d.Watch(wait.Context(t), driver.Query{Service: "orders"}, since) {
		if err != nil || len(seen.Instances) != 1 {
			t.Errorf("Watch yields %v, %v", seen, err)
		}
		break
	}
	if err := everything(wait.Context(t), d, "orders", "i2"); !errors.Is(err, driver.ErrDenied) {
		t.Errorf("writing: %v, want ErrDenied", err)
	}
}

// etcd keeps the tokens of its users in memory, and drops them when roles change.
func TestTokenIsRenewed(t *testing.T) {
	server := testserver.StartEtcd(t, testserver.WithAuth())
	server.AddUser("muster", "first", "/muster/")
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Username: "muster", PasswordFile: file})
	s, err := d.OpenSession(wait.Context(t), driver.SessionOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	i := driver.Instance{Service: "orders", InstanceID: "i1", Addr: "10.0.0.5:7946"}
	if err := s.Register(wait.Context(t), i); err != nil {
		t.Fatal(err)
	}

	t.Run("roles change", func(t *testing.T) {
		server.AddUser("another", "secret", "/another/")
		if err := s.Renew(wait.Context(t)); err != nil {
			t.Errorf("Renew: %v", err)
		}
		server.AddUser("a-third", "secret", "/another/")
		if err := s.Register(wait.Context(t), i); err != nil {
			t.Errorf("Register: %v", err)
		}
		server.AddUser("a-fourth", "secret", "/another/")
		since, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
		if err != nil || len(since.Instances) != 1 {
			t.Errorf("List: %v, %v", since, err)
		}
	})
	t.Run("password changes", func(t *testing.T) {
		if _, err := server.Client().UserChangePassword(wait.Context(t), "muster", "second"); err != nil {
			t.Fatal(err)
		}
		write("second")
		server.Restart()
		reconnected(t, func() error { return s.Renew(wait.Context(t)) })
		reconnected(t, func() error { return s.Register(wait.Context(t), i) })
	})
	t.Run("watch with a token that is gone", func(t *testing.T) {
		since, err := d.List(wait.Context(t), driver.Query{Service: "orders"})
		if err != nil {
			t.Fatal(err)
		}
		server.Restart()
		// The first watch may be the one that finds the token gone.
		wait.For(t, "a watch that works", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			for _, err := range d.Watch(ctx, driver.Query{Service: "orders"}, since) {
				if errors.Is(err, driver.ErrDenied) {
					t.Fatalf("Watch: %v", err)
				}
				return false
			}
			return true // it stood until the context ended
		})
	})
	if err := s.Close(wait.Context(t)); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// A user is configured before etcd asks for one.
func TestAuthIsSwitchedOnLater(t *testing.T) {
	server := testserver.StartEtcd(t)
	d := open(t, Config{Endpoints: []string{server.Endpoint()}, Username: "root", Password: "secret"})
	if err := everything(wait.Context(t), d, "orders", "i1"); err != nil {
		t.Fatalf("with authentication off: %v", err)
	}
	c := server.Client()
	_, err1 := c.UserAdd(wait.Context(t), "root", "secret")
	_, err2 := c.UserGrantRole(wait.Context(t), "root", "root")
	_, err3 := c.AuthEnable(wait.Context(t))
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if err := everything(wait.Context(t), d, "orders", "i1"); err != nil {
		t.Fatalf("with authentication on: %v", err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
