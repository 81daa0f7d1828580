package discoverytest

import (
	"slices"
	"testing"
)

// clause is one sentence of the contract of package driver, and the test of it.
type clause struct {
	name, says string
	run        func(k *check)
}

// Clause is one sentence of the contract of package driver, and the test of it.
type Clause struct {
	// Name is that of the subtest.
	Name string
	// Says is the sentence of the contract that is printed when it is broken.
	Says string

	clause clause
}

// Clauses returns all of them, in the order in which Run runs them.
func Clauses() []Clause {
	var all []Clause
	for _, c := range slices.Concat(discoverySuite(), authoritySuite()) {
		all = append(all, Clause{c.name, c.says, c})
	}
	return all
}

// Run runs one clause by itself, for a provider's author who looks at one failure, or who
// wants to see that the suite notices a defect.
func (c Clause) Run(t testing.TB, newHarness func(t testing.TB) Harness) {
	t.Helper()
	runClause(t, c.clause, newHarness)
}

// alone are the clauses that do something to all that a shared server keeps, and so run by
// themselves.
var alone = []string{"watch/compacted"}

// Run holds the provider behind newHarness to the contract of package driver. Each
// clause is a subtest with a harness of its own, and runs beside others (go test -parallel),
// since most of them wait for TTLs. Those that need an ability which
// the driver or the harness lacks are skipped and say which. A failure names the
// clause and quotes what it says.
func Run(t *testing.T, newHarness func(t testing.TB) Harness) {
	t.Helper()
	runAll(t, slices.Concat(discoverySuite(), authoritySuite()), newHarness)
}

// RunDiscovery is Run without the clauses of the Authority and its Store.
func RunDiscovery(t *testing.T, newHarness func(t testing.TB) Harness) {
	t.Helper()
	runAll(t, discoverySuite(), newHarness)
}

// RunAuthority is Run for the clauses of the Authority and its Store alone.
func RunAuthority(t *testing.T, newHarness func(t testing.TB) Harness) {
	t.Helper()
	runAll(t, authoritySuite(), newHarness)
}

func discoverySuite() []clause {
	return slices.Concat(listClauses(), watchClauses(), registerClauses(), permissionClauses())
}

func authoritySuite() []clause {
	return slices.Concat(authorityClauses(), storeClauses(), claimPermissionClauses())
}

func runAll(t *testing.T, clauses []clause, newHarness func(t testing.TB) Harness) {
	t.Helper()
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			if !slices.Contains(alone, c.name) {
				t.Parallel()
			}
			runClause(t, c, newHarness)
		})
	}
}

func runClause(t testing.TB, c clause, newHarness func(t testing.TB) Harness) {
	k := &check{TB: t, clause: c, Harness: newHarness(t)}
	k.setDefaults()
	if k.Open == nil {
		t.Fatal("the harness has no Open")
	}
	if (k.Stop == nil) != (k.Start == nil) {
		t.Fatal("the harness has one of Stop and Start, and needs both or none")
	}
	for name := range k.Except {
		if !slices.ContainsFunc(slices.Concat(discoverySuite(), authoritySuite()), func(c clause) bool { return c.name == name }) {
			t.Fatalf("the harness excepts the clause %q, which there is not", name)
		}
	}
	if why, skip := k.Except[c.name]; skip {
		t.Skip(why)
	}
	c.run(k)
}
