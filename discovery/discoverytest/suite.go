package discoverytest

import (
	"fmt"
	"testing"
)

// clause is one sentence of the contract of package driver, and the test of it.
type clause struct {
	// name is that of the subtest.
	name string
	// says is the sentence of the contract that is printed when it is broken.
	says string
	run  func(t *check)
}

// Run holds the provider behind newHarness to the contract of package driver. Each
// clause is a subtest with a harness of its own; those that need an ability which
// the driver or the harness lacks are skipped and say which. A failure names the
// clause and quotes what it says.
func Run(t *testing.T, newHarness func(t testing.TB) Harness) {
	t.Helper()
	for _, c := range clauses() {
		t.Run(c.name, func(t *testing.T) { runClause(t, c, newHarness) })
	}
}

// RunAuthority is Run for the clauses of the Authority and its Store alone.
func RunAuthority(t *testing.T, newHarness func(t testing.TB) Harness) {
	t.Helper()
	for _, c := range authorityClauses() {
		t.Run(c.name, func(t *testing.T) { runClause(t, c, newHarness) })
	}
}

func clauses() []clause { return append([]clause{}, authorityClauses()...) }

func authorityClauses() []clause { return nil }

func runClause(t testing.TB, c clause, newHarness func(t testing.TB) Harness) {
	k := &check{TB: t, clause: c, Harness: newHarness(t)}
	k.setDefaults()
	c.run(k)
}

// check is one run of one clause.
type check struct {
	testing.TB
	Harness
	clause clause
}

// broken ends the clause with what was seen.
func (k *check) broken(format string, args ...any) {
	k.Helper()
	k.Fatalf("clause %q is broken.\n\tThe contract: %s\n\tSeen: %s", k.clause.name, k.clause.says, fmt.Sprintf(format, args...))
}
