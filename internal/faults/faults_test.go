package faults

import (
	"os"
	"testing"

	"github.com/musterhq/muster/internal/netlab"
	"github.com/musterhq/muster/internal/testserver"
)

// alone skips a test of many hosts where others run beside it: their bounds on time want
// the machine to themselves.
func alone(t *testing.T) {
	t.Helper()
	if os.Getenv("MUSTER_FAULTS") == "" {
		t.Skip("runs by itself: make faults-short, which make test does at its end")
	}
}

func TestMain(m *testing.M) { os.Exit(netlab.Main(testserver.Main(m))) }
