package call_test

import (
	"testing"

	"go.uber.org/goleak"
)

// memberlist does not wait for its probes when it is shut down.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}
