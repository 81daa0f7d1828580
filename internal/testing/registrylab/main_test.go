package registrylab

import (
	"os"
	"testing"

	"github.com/musterhq/muster/internal/testing/testserver"
)

func TestMain(m *testing.M) { os.Exit(testserver.Main(m).Run()) }
