package node_test

import (
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testing/testdocker"
)

// A program with a node inside finds its address in a container by the line that docs/docker.md
// has, and is given that line without it.
func TestEmbeddedInAContainer(t *testing.T) {
	e := testdocker.Require(t)
	image := e.Build("github.com/musterhq/muster/internal/testing/images/embedded")
	t.Run("with the line", func(t *testing.T) {
		t.Parallel()
		c := testdocker.Require(t).Run(testdocker.Options{Image: image, Socket: true, Flags: []string{"-p", "0:7946"}}, "docker")
		c.WaitLog("address: ")
		port := c.Port("7946/tcp")
		if want := c.Gateway("bridge") + port[strings.LastIndex(port, ":"):]; !strings.Contains(c.Log(), "address: "+want+"\n") {
			t.Errorf("%s\nwant %s", c.Log(), want)
		}
	})
	t.Run("with the line, and nothing is published", func(t *testing.T) {
		t.Parallel()
		c := testdocker.Require(t).Run(testdocker.Options{Image: image, Socket: true}, "docker")
		if status, log := c.Wait(), c.Log(); status != 1 || !strings.HasPrefix(log, `error: node.advertise: "": docker: port 7946 of this container is not published; run it with -p 7946:7946`) {
			t.Errorf("status %d: %s", status, log)
		}
	})
	t.Run("without it", func(t *testing.T) {
		t.Parallel()
		c := testdocker.Require(t).Run(testdocker.Options{Image: image, Socket: true, Flags: []string{"-p", "0:7946"}}, "plain")
		status, log := c.Wait(), c.Log()
		if status != 1 || !strings.Contains(log, "an address within a container") ||
			!strings.Contains(log, "node.Config{Detectors: []advertise.Detector{docker.NewDetector(docker.DetectorOptions{})}} of package registrar/docker") ||
			strings.Contains(log, "detect.require_external") {
			t.Errorf("status %d: %s", status, log)
		}
	})
}
