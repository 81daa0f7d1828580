package settings

import (
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// AuthorityNone as the one name in mastership.authority says that no master is wanted.
const AuthorityNone = "none"

// CheckAuthority reports whether authority, as of mastership.authority, says which
// of the providers grants mastership, or that none does. Its errors are
// *driver.ConfigError values.
func CheckAuthority(authority, providers []string) error {
	invalid := func(key string, value []string, problem, hint string) error {
		return &driver.ConfigError{Key: key, Value: strings.Join(value, ","), Problem: problem, Hint: hint}
	}
	known := slices.Sorted(slices.Values(providers))
	if len(slices.Compact(known)) < len(providers) {
		return invalid("provider", providers, "two of them have one name", "give each its own")
	}
	if slices.Contains(authority, AuthorityNone) {
		if len(authority) > 1 {
			return invalid("mastership.authority", authority, "none stands alone", "write it where no master is wanted, or the name of the provider that grants mastership")
		}
		return nil
	}
	choice := strings.Join(known, " or ")
	twice := len(authority) == 2 && authority[0] == authority[1]
	switch {
	case len(authority) == 0 && len(providers) > 1:
		return invalid("mastership.authority", authority,
			"missing: with several providers it names the one that grants mastership", "write "+choice+", or "+AuthorityNone+" where no master is wanted")
	case len(authority) > 2:
		return invalid("mastership.authority", authority,
			"more than two", "write the one that grants mastership, or two while authority moves from one to the other")
	case twice:
		return invalid("mastership.authority", authority, "named twice", "write it once")
	}
	for _, name := range authority {
		if !slices.Contains(providers, name) {
			hint := "write " + choice
			if len(providers) == 1 {
				hint += " or leave it out"
			}
			return invalid("mastership.authority", authority, "no such provider is configured", hint)
		}
	}
	return nil
}
