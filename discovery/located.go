package discovery

import "github.com/musterhq/muster/discovery/driver"

// Addrs returns where the provider is looked for, as configured and without passwords, or
// nil if the driver does not say. It does not block.
func (r *Registry) Addrs() []string {
	if located, ok := r.driver.(driver.Located); ok {
		return located.Addrs()
	}
	return nil
}
