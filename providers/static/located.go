package static

import (
	"slices"

	"github.com/musterhq/muster/discovery/driver"
)

var _ driver.Located = (*Driver)(nil)

// Addrs implements driver.Located: it returns the entries of the list, the file and the
// names in DNS.
func (d *Driver) Addrs() []string {
	addrs := slices.Clone(d.config.Peers)
	if d.config.File != "" {
		addrs = append(addrs, d.config.File)
	}
	return append(addrs, d.config.DNS...)
}
