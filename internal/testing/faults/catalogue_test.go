package faults

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/checker"
)

// full is set by make faults. Without it the short catalogue runs.
var full = flag.Bool("full", false, "all cases, and not the short catalogue")

// TestCatalogue runs the cases, or those whose names contain CASE, over all providers
// or those that PROVIDER names, with the choices of SEED.
func TestCatalogue(t *testing.T) {
	alone(t)
	if !slices.ContainsFunc(providers(), func(p string) bool {
		return slices.ContainsFunc(Catalogue, func(c Case) bool { return c.selected(p) })
	}) {
		var names []string
		for _, c := range Catalogue {
			names = append(names, c.Name)
		}
		t.Fatalf("no case over %s has CASE=%q in its name; write a part of one of %s", strings.Join(providers(), ","), os.Getenv("CASE"), strings.Join(names, ", "))
	}
	for _, provider := range providers() {
		if !slices.Contains(everywhere, provider) {
			t.Fatalf("PROVIDER: %q: no such provider; write one of %s, or several with commas", provider, strings.Join(everywhere, ", "))
		}
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			for _, c := range Catalogue {
				if c.selected(provider) {
					t.Run(c.Name, func(t *testing.T) {
						t.Parallel()
						c.attack(t, provider, seed(t))
					})
				}
			}
		})
	}
}

// slots bounds how many cases run at once, beside -parallel: they wait more than they
// work.
var slots = make(chan struct{}, 4)

func (c Case) selected(provider string) bool {
	switch {
	case c.Providers != nil && !slices.Contains(c.Providers, provider):
		return false
	case os.Getenv("CASE") != "":
		return strings.Contains(c.Name, os.Getenv("CASE"))
	case *full:
		return true
	}
	return slices.Contains(c.Short, provider)
}

// attack runs one case, and checks what was recorded.
func (c Case) attack(t *testing.T, provider string, seed uint64) checker.Report {
	slots <- struct{}{}
	defer func() { <-slots }()
	o := c.Options
	o.Name, o.Provider, o.Seed = c.Name, provider, seed
	l := New(t, o)
	l.bounds.ClocksBroken, l.bounds.Revoked, l.bounds.Hearsay = c.ClocksBroken, c.Revoked, c.Hearsay
	if provider == "consul" {
		l.bounds.Master += c.LateMaster
		l.bounds.Registry += c.LateRegistry
	}
	c.Run(l)
	report := l.Finish()
	if c.Masterships > 0 && report.Masterships != c.Masterships {
		t.Errorf("there were %d masterships, want %d", report.Masterships, c.Masterships)
	}
	return report
}

// TestCatalogueNames holds that a case can be named.
func TestCatalogueNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range Catalogue {
		if seen[c.Name] {
			t.Errorf("two cases are called %s", c.Name)
		}
		seen[c.Name] = true
		if len(c.Faults) == 0 {
			t.Errorf("%s is of no fault", c.Name)
		}
	}
}
