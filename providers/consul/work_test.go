package consul

import (
	"testing"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/providertest"
	"github.com/musterhq/muster/internal/testing/testserver"
)

// Steps and jobs of a cluster of real nodes are done once with the records of Consul.
func TestWorkIsDoneOnce(t *testing.T) {
	t.Parallel()
	c := Config{Prefix: newPrefix(), Address: testserver.SharedConsul(t).Addr(), HealthyOnly: true}
	providertest.Work(t, "consul", func() (driver.Driver, error) { return New(c) })
}
