package consul

import "github.com/musterhq/muster/discovery/driver"

var _ driver.Located = (*Driver)(nil)

// Addrs implements driver.Located: it returns the address of the agent.
func (d *Driver) Addrs() []string { return []string{d.config.Address} }
