package testserver

import (
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
)

func put(t testing.TB, c *Consul, key string) {
	t.Helper()
	if _, err := c.Client().KV().Put(&consul.KVPair{Key: key, Value: []byte("x")}, nil); err != nil {
		t.Fatal(err)
	}
}

func has(t testing.TB, c *Consul, key string) bool {
	t.Helper()
	pair, _, err := c.Client().KV().Get(key, &consul.QueryOptions{RequireConsistent: true})
	if err != nil {
		t.Fatal(err)
	}
	return pair != nil
}

func TestConsulRestarts(t *testing.T) {
	t.Parallel()
	for _, keeps := range []bool{false, true} {
		var options []ConsulOption
		if keeps {
			options = append(options, WithState())
		}
		c := StartConsul(t, options...)
		put(t, c, "a")
		backup := c.Backup()
		put(t, c, "b")
		c.Kill()
		c.Restart()
		if got := has(t, c, "a"); got != keeps {
			t.Errorf("with state %v: the key is there after a restart: %v", keeps, got)
		}
		c.RestoreBackup(backup)
		if !has(t, c, "a") || has(t, c, "b") {
			t.Errorf("with state %v: not what it was at the backup", keeps)
		}
		c.Pause()
		c.Resume()
		c.Wipe()
		c.Restart()
		if has(t, c, "a") {
			t.Errorf("with state %v: not empty after it was wiped", keeps)
		}
	}
}

func TestConsulAccess(t *testing.T) {
	t.Parallel()
	StartConsul(t, WithConsulTLS(NewCA(t)))

	c := StartConsul(t, WithACL())
	put(t, c, "allowed/a")
	config := consul.DefaultNonPooledConfig()
	config.Address, config.Token = c.Endpoint(), c.AddToken(`key_prefix "allowed/" { policy = "read" }`)
	client, err := consul.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	if pair, _, err := client.KV().Get("allowed/a", nil); err != nil || pair == nil {
		t.Errorf("what the token may read: %v, %v", pair, err)
	}
	if _, err := client.KV().Put(&consul.KVPair{Key: "allowed/a"}, nil); err == nil {
		t.Error("the token may write")
	}
}

func TestConsulCluster(t *testing.T) {
	t.Parallel()
	servers := StartConsulCluster(t, 3)
	agent := StartConsulAgent(t, servers[0])
	put(t, agent, "a")
	leader := func() *Consul {
		for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			for _, c := range servers {
				if c.IsLeader() {
					return c
				}
			}
		}
		t.Fatal("no leader")
		return nil
	}
	old := leader()
	old.Kill()
	next := leader()
	if next == old {
		t.Fatal("the dead server leads")
	}
	if !has(t, next, "a") {
		t.Error("the key is lost")
	}
}
