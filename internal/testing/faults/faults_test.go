package faults

import (
	"os"
	"testing"

	"github.com/musterhq/muster/internal/testing/netlab"
	"github.com/musterhq/muster/internal/testing/testserver"
)

// alone skips a test of many hosts where other packages are tested beside it: their bounds on
// time want the machine to themselves, but for what gives way to them.
func alone(t *testing.T) {
	t.Helper()
	if os.Getenv("MUSTER_FAULTS") == "" {
		t.Skip("runs by itself: make faults-short, which make test does first")
	}
}

func TestMain(m *testing.M) { os.Exit(netlab.Main(testserver.Main(m))) }
