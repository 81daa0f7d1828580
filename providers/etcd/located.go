package etcd

import "github.com/musterhq/muster/discovery/driver"

var _ driver.Located = (*Driver)(nil)

// Addrs implements driver.Located: it returns the endpoints.
func (d *Driver) Addrs() []string { return d.client.Endpoints() }
