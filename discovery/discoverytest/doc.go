// Package discoverytest has two things for tests: the conformance suite that every
// discovery provider must pass, and a provider in memory for the tests of programs
// that use package discovery.
//
// # For authors of providers
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
//
// # For users of package discovery
//
// [NewMemory] is a whole provider without a server. Its switches make it fail,
// answer late, lose responses, sessions or everything:
//
//	provider := discoverytest.NewMemory()
//	r := discovery.New("memory", provider.Driver(), discovery.Options{})
//	...
//	provider.Fail(driver.ErrUnavailable)
//
// It does not promise to be as odd as a real provider: it has one server, whose
// clock never goes wrong.
package discoverytest
