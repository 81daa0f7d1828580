// Package discoverytest is the conformance suite that every discovery provider must pass.
// A provider in memory, for the tests of programs, is in package discovery/memory.
//
// [Run] holds a driver to the contract of package discovery/driver, clause by
// clause. It is handed a [Harness], which opens clients of the provider and can do
// to it, behind their back, what happens to providers in production:
//
//	func TestConformance(t *testing.T) {
//		discoverytest.Run(t, func(t testing.TB) discoverytest.Harness {
//			server := startServer(t)
//			return discoverytest.Harness{
//				Open: func(t testing.TB) driver.Driver { return newDriver(t, server.Addr()) },
//				Stop:  func(testing.TB) { server.Cut() },
//				Start: func(testing.TB) { server.Restore() },
//			}
//		})
//	}
//
// A clause whose ability is missing, in the driver or in the harness, is skipped
// with the reason: read the skips as the list of what was not shown. A failure
// names the clause, quotes the sentence of the contract, and says what was seen.
// The clauses about time wait for real TTLs, and allow for a loaded machine; what
// they cannot judge, because the machine itself stalled, they skip.
//
// [BenchmarkRegisterToWatch] and [BenchmarkList] measure any driver alike.
package discoverytest
