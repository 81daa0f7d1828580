//go:build unix

package main

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/testserver"
)

// A cluster whose registrations are records of another system is a cluster as any
// other, in spite of what the records lack. Strangers stand among them, who are
// seen by muster discover, which registers nothing, and stay when the agents go.
func TestClusterInRecordsOfOthers(t *testing.T) {
	t.Parallel()
	for format, stranger := range map[string]struct{ prefix, key, value string }{
		"hazelcast":   {"/", "/demo/by-hand", `{"ip":"127.0.0.1","port":9}`},
		"registrator": {"/services", "/services/demo/by-hand", "127.0.0.1:9"},
		"skydns":      {"/skydns", "/skydns/local/cluster/demo/by-hand", `{"host":"127.0.0.1","port":9}`},
	} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			etcd := testserver.StartEtcd(t)
			below := stranger.key[:strings.LastIndex(stranger.key, "/")+1]
			keys := func(ctx context.Context) (all []string) {
				r, err := etcd.Client().Get(ctx, below, clientv3.WithPrefix(), clientv3.WithKeysOnly())
				if err != nil {
					t.Fatal(err)
				}
				for _, kv := range r.Kvs {
					all = append(all, string(kv.Key))
				}
				return all
			}
			if _, err := etcd.Client().Put(t.Context(), stranger.key, stranger.value); err != nil {
				t.Fatal(err)
			}
			c, master := formCluster(t, 3, func(peers []string) map[string]any {
				config := etcdProvider(etcd)(peers)
				section := config["provider"].(map[string]any)["etcd"].(map[string]any)
				section["format"], section["prefix"] = format, stranger.prefix
				return config
			})
			c.eventually("all are ready and registered", func(ctx context.Context) bool {
				for _, agent := range c.agents {
					if s, err := c.status(ctx, agent); err != nil || !s.Ready || !s.Registration.Registered || s.Degraded {
						return false
					}
				}
				return true
			})

			before := keys(t.Context())
			status, stdout, stderr := executeProcess(t, "discover", "-c", c.agents[0].config, "-o", "json")
			var listed []driver.Instance
			if err := json.Unmarshal([]byte(stdout), &listed); err != nil || status != statusDone || stderr != "" {
				t.Fatalf("discover: %v, status %d, stderr %s", err, status, stderr)
			}
			want := []string{"127.0.0.1:9"}
			for _, agent := range c.agents {
				want = append(want, agent.nodeAddr)
			}
			var addrs []string
			for _, i := range listed {
				addrs = append(addrs, i.Addr)
			}
			slices.Sort(want)
			slices.Sort(addrs)
			if !slices.Equal(addrs, want) {
				t.Errorf("discover lists %v, want %v", addrs, want)
			}
			if after := keys(t.Context()); !slices.Equal(before, after) {
				t.Errorf("discover has changed %v to %v", before, after)
			}

			leaving, others := c.split(master)
			if err := leaving.stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := keys(t.Context()); len(left) != 3 {
				t.Errorf("after one of three has left there is %v", left)
			}
			c.waitMaster(master.Term, 2, others...)
			c.stopAll()
			if left := keys(t.Context()); !slices.Equal(left, []string{stranger.key}) {
				t.Errorf("left behind is %v", left)
			}
			c.stopAndCheck(t, 2)
			for _, agent := range c.agents {
				log, err := os.ReadFile(agent.logFile)
				if err != nil {
					t.Fatal(err)
				}
				// Once is no more than doubt, of a set that was read while the agent registered.
				if n := strings.Count(string(log), "registration missing or changed"); n > 1 {
					t.Errorf("%s has repaired %d times what was not broken", agent.name, n)
				}
			}
		})
	}
}
