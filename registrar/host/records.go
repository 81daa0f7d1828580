package host

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// anyIP stands for the address of this host if that is not known yet. What is in one
// record at one address is so at another.
const anyIP = "192.0.2.1"

// CheckRecords reports the services that a provider would keep in one record, so that each
// would replace the other, as *driver.ConfigError values. It makes no call.
func CheckRecords(registries []*discovery.Registry, services []declared.Service, rules grammar.Rules) error {
	var errs []error
	ip := cmp.Or(rules.IP, rules.HostIP, anyIP)
	reported := make(map[int]bool)
	for _, registry := range registries {
		first := make(map[string]int)
		for n, s := range services {
			record := registry.RecordKey(s.Instance(rules.Hostname, ip))
			if record == "" || reported[n] {
				continue
			}
			other, taken := first[record]
			if !taken {
				first[record] = n
				continue
			}
			reported[n] = true
			errs = append(errs, &driver.ConfigError{Key: fmt.Sprintf("services[%d].id", n), Value: s.ID, Problem: fmt.Sprintf("provider %s keeps service %s in one place, %q, with service %s of services[%d], so that each would replace the other", registry.Name(), s.Name, record, services[other].Name, other), Hint: "give one of them another id, or another address where the id follows from that"})
		}
	}
	return errors.Join(errs...)
}

// remarks are what is said of the instances of p that are not as they should be for all that
// they are registered: conflicts between two of them, and readers that do not find them. One
// line of each kind, whose example stands for all.
func (p ProviderStatus) remarks() []string {
	var problems []string
	count := func(text func(i int) string) (first, n int) {
		first = -1
		for i := range p.Instances {
			if !p.Instances[i].Leaving && text(i) != "" {
				if n == 0 {
					first = i
				}
				n++
			}
		}
		return first, n
	}
	if i, n := count(func(i int) string { return p.Instances[i].Conflict }); n > 0 {
		s := p.Instances[i]
		problems = append(problems, fmt.Sprintf("provider %s: %d services are in conflict, as %s with id %s: %s", p.Name, n, s.Instance.Service, s.Instance.InstanceID, s.Conflict))
	}
	if i, n := count(func(i int) string { return p.Instances[i].Warning }); n > 0 {
		problems = append(problems, fmt.Sprintf("provider %s: not all readers find %d of the services, as: %s", p.Name, n, p.Instances[i].Warning))
	}
	if p.Warning != "" {
		problems = append(problems, fmt.Sprintf("provider %s: %s", p.Name, p.Warning))
	}
	return slices.Clip(problems)
}
