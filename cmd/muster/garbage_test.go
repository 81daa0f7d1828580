//go:build unix

package main

import (
	"testing"

	"github.com/musterhq/muster/internal/testing/testserver"
	"github.com/musterhq/muster/node/httpapi"
)

// What others have written beside the registrations is skipped and counted, and
// keeps nobody from forming a cluster.
func TestGarbageInEtcd(t *testing.T) {
	t.Parallel()
	etcd := testserver.StartEtcd(t)
	put := func(key, value string) {
		t.Helper()
		if _, err := etcd.Client().Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	garbage := map[string]string{
		"":              "the service itself",
		"empty":         "",
		"text":          "10.0.0.5:7946",
		"binary":        "\x00\xff\xfe",
		"half":          `{"instance_id": "half", "addr": "10.0.`,
		"list":          `[]`,
		"other-types":   `{"instance_id": 1, "addr": ["10.0.0.5:7946"]}`,
		"a/b":           `{}`,
		"no-%zz-escape": `{}`,
	}
	for key, value := range garbage {
		put(etcdInstances+key, value)
	}
	// Of another service, and of none: not ours to count.
	put(etcdKeys+"services/demolition/x", "garbage")
	put(etcdKeys+"services/demo", "garbage")
	put(etcdKeys+"clusters/demo/garbage", "garbage")

	c, _ := formCluster(t, 3, etcdProvider(etcd))
	c.waitStatus("has skipped the garbage", func(s httpapi.Status) bool {
		return s.Provider.Skipped == len(garbage) && s.Provider.Instances == 3 && s.Ready && s.Provider.Error == ""
	}, c.agents...)

	// More of it, once all are registered.
	const skipped = `muster_provider_skipped_total{provider="etcd"}`
	before, err := c.agents[0].metric(t.Context(), skipped)
	if err != nil {
		t.Fatal(err)
	}
	put(etcdInstances+"later", "garbage")
	c.waitMetric(c.agents[0], skipped, before+1)
	c.waitMaster(0, 3, c.agents...)
	c.stopAndCheck(t, 1)
}
