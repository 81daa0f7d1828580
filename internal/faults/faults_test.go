package faults

import (
	"os"
	"testing"

	"github.com/musterhq/muster/internal/netlab"
	"github.com/musterhq/muster/internal/testserver"
)

func TestMain(m *testing.M) { os.Exit(netlab.Main(testserver.Main(m))) }
