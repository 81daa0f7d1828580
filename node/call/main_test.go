package call_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

// memberlist does not wait for its probes when it is shut down.
//
// Each test is a cluster that works without a pause: more than two at a time starve each other's
// grants under the race detector.
func TestMain(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel").Value; parallel.(flag.Getter).Get().(int) > 2 {
		_ = parallel.Set("2")
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}
