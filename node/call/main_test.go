package call_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

// memberlist does not wait for its probes when it is shut down. The tests wait for elections and
// leases most of the time, so that more of them run than there are cores.
func TestMain(m *testing.M) {
	flag.Parse()
	if set := flag.Lookup("test.parallel"); set.Value.String() == set.DefValue {
		_ = set.Value.Set("4")
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}
