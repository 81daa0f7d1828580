package etcd

import (
	"testing"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/providertest"
	"github.com/musterhq/muster/internal/testing/testserver"
)

// Steps and jobs of a cluster of real nodes are done once with the records of etcd.
func TestWorkIsDoneOnce(t *testing.T) {
	t.Parallel()
	c := Config{Prefix: newPrefix(), Endpoints: []string{testserver.SharedEtcd(t).Endpoint()}}
	providertest.Work(t, "etcd", func() (driver.Driver, error) { return New(c) })
}
