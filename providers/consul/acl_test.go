package consul

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/secret"
)

// What the token may not see is not missing: nobody is told that there is no master,
// nor that there are no records.
func TestAuthorityWithoutRights(t *testing.T) {
	t.Parallel()
	server := testserver.StartConsul(t, testserver.WithACL())
	ctx := wait.Context(t)
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	authorityOf := func(c Config) *authority {
		t.Helper()
		c.Address = server.Addr()
		a, err := open(t, c).OpenAuthority(ctx, driver.AuthorityOptions{Cluster: "c", TTL: longestGrantTTL})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Close(context.Background()) })
		return a.(*authority)
	}
	write(testserver.ConsulToken)
	a, observer := authorityOf(Config{TokenFile: file}), authorityOf(Config{TokenFile: file})
	claim := driver.Claim{Holder: driver.Holder{NodeID: "n1", InstanceID: "i1"}, ClusterID: "id"}
	vacant(t, server, a)
	grant, err := a.Acquire(ctx, claim)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Set(ctx, "record", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	now := func(a *authority) error {
		for _, err := range a.Observe(ctx) {
			return err
		}
		return nil
	}

	stranger := server.AddToken(`key_prefix "other/" { policy = "write" }`)
	for name, c := range map[string]Config{"no token": {}, "a stranger's token": {Token: secret.String(stranger)}} {
		other := authorityOf(c)
		_, recordsErr := other.Records(ctx, "")
		_, renewErr := other.Renew(ctx, grant)
		for what, err := range map[string]error{"Observe": now(other), "Records": recordsErr, "Renew": renewErr} {
			if !errors.Is(err, driver.ErrDenied) {
				t.Errorf("%s with %s: %v, want driver.ErrDenied", what, name, err)
			}
		}
	}

	// As a shell leaves it for a moment that writes a new token: cat new > token_file.
	write("\n")
	_, recordsErr := a.Records(ctx, "")
	_, renewErr := a.Renew(ctx, grant)
	for what, err := range map[string]error{"Observe": now(observer), "Records": recordsErr, "Renew": renewErr} {
		if !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(err.Error(), "token_file is empty") {
			t.Errorf("%s while token_file is empty: %v, want driver.ErrUnavailable and why", what, err)
		}
	}
	var bad *driver.ConfigError
	if _, err := New(Config{Address: server.Addr(), TokenFile: file}); !errors.As(err, &bad) || bad.Key != "token_file" {
		t.Errorf("New while token_file is empty: %v, want an error that names token_file", err)
	}
	write(testserver.ConsulToken)
	if _, err := a.Renew(ctx, grant); err != nil {
		t.Errorf("Renew when token_file is written again: %v", err)
	}
}

// vacant has a record without a holder stand if there is none, so that the first claim
// need not wait.
func vacant(t testing.TB, server *testserver.Consul, a *authority) {
	t.Helper()
	if _, err := server.Client().KV().Put(&api.KVPair{Key: a.Key(), Value: []byte(`{"version":1,"term":0,"nonce":"test"}`)}, nil); err != nil {
		t.Fatal(err)
	}
}
