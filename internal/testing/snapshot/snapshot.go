// Package snapshot reads snapshots in tests.
package snapshot

import "github.com/musterhq/muster/discovery"

// Instances returns the instances of a snapshot, nil if they are not known, for tests that look
// at Known apart from them.
func Instances(s interface {
	Instances() ([]discovery.Instance, bool)
}) []discovery.Instance {
	instances, _ := s.Instances()
	return instances
}
