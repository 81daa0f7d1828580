package docker

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/internal/testing/testdocker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testdocker.Main(m)) }
