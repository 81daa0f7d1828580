package discoverytest

import (
	"slices"
	"testing"
)

// clause is one sentence of the contract of package driver, and the test of it.
type clause struct {
	// name is that of the subtest.
	name string
	// says is the sentence of the contract that is printed when it is broken.
	says string
	run  func(k *check)
}

// Run holds the provider behind newHarness to the contract of package driver. Each
// clause is a subtest with a harness of its own; those that need an ability which
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
	return slices.Concat(listClauses(), watchClauses(), registerClauses(), rehearseClauses())
}

func authoritySuite() []clause {
	return slices.Concat(authorityClauses(), storeClauses(), rehearseClaimClauses())
}

func runAll(t *testing.T, clauses []clause, newHarness func(t testing.TB) Harness) {
	t.Helper()
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) { runClause(t, c, newHarness) })
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
	c.run(k)
}
