package testserver

import (
	"fmt"
	"slices"
	"testing"

	consul "github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/internal/testing/wait"
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
	leader := func() (leader *Consul) {
		wait.For(t, "a server leads", func() bool {
			i := slices.IndexFunc(servers, (*Consul).IsLeader)
			if i >= 0 {
				leader = servers[i]
			}
			return i >= 0
		})
		return leader
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

// A server is lent again when its test has ended, and is as a new one then.
func TestConsulIsLentEmpty(t *testing.T) {
	everything := func(c *Consul) (all []string) {
		for _, path := range []string{"agent/services", "agent/checks", "session/list", "catalog/nodes", "catalog/services", "catalog/node/" + c.Name(), "health/node/" + c.Name(), "kv/?keys"} {
			var answer any
			if _, err := c.Client().Raw().Query("/v1/"+path, &answer, nil); err != nil {
				continue // no keys are not found
			}
			switch answer := answer.(type) {
			case map[string]any:
				if on, ok := answer["Services"].(map[string]any); ok {
					answer = on
				}
				for key := range answer {
					all = append(all, path+" "+key)
				}
			case []any:
				for _, item := range answer {
					name := fmt.Sprint(item)
					if m, ok := item.(map[string]any); ok {
						name = fmt.Sprint(m["Node"], m["CheckID"])
					}
					all = append(all, path+" "+name)
				}
			}
		}
		slices.Sort(all)
		return all
	}
	var first *Consul
	var before []string
	t.Run("first", func(t *testing.T) {
		first = LendConsul(t)
		if other := LendConsul(t); other == first {
			t.Error("a server is lent to two at a time")
		}
		before = everything(first)
		put(t, first, "a/b")
		for _, err := range []error{
			first.Client().Agent().ServiceRegister(&consul.AgentServiceRegistration{Name: "web", Check: &consul.AgentServiceCheck{TTL: "1h"}}),
			first.Client().Agent().CheckRegister(&consul.AgentCheckRegistration{Name: "mine", AgentServiceCheck: consul.AgentServiceCheck{TTL: "1h"}}),
			first.Client().Agent().EnableNodeMaintenance("why"),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, node := range []string{"db", first.Name()} {
			if _, err := first.Client().Catalog().Register(&consul.CatalogRegistration{Node: node, Address: "127.0.0.1", Service: &consul.AgentService{Service: "db"},
				Checks: consul.HealthChecks{{Node: node, CheckID: "alone", Name: "alone", Status: "passing"}}}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := first.Client().Session().CreateNoChecks(&consul.SessionEntry{Node: "db"}, nil); err != nil {
			t.Fatal(err)
		}
		// Each kind is there, or nothing would be seen to be removed.
		wait.For(t, "all is there", func() bool { return len(everything(first)) >= len(before)+13 })
	})
	t.Run("again", func(t *testing.T) {
		a, b := LendConsul(t), LendConsul(t)
		if a != first && b != first {
			t.Error("the first server is lent to nobody")
		}
		if after := everything(first); !slices.Equal(after, before) || len(after) < 4 {
			t.Errorf("before it was lent there was\n%q, and after\n%q", before, after)
		}
	})
}
