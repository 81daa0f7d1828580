package node_test

import (
	"net/http/httptest"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// That the node is ready, on which depends whether it may be master, is found out by itself,
// and not by those who ask.
func TestReadsChangeNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	n := c.start("a")
	wait.For(t, "the node has found that it is ready, unasked", n.WasReady)
	api := httpapi.New(n)
	read := func() {
		_ = n.Status()
		_ = n.View()
		_ = n.Members()
		_, _ = n.Master()
		_, _ = n.Check()
		_ = n.IsMaster()
		for _, path := range []string{
			httpapi.PathStatus, httpapi.PathMembers, httpapi.PathMaster, httpapi.PathView,
			httpapi.PathHealth, httpapi.PathReady, httpapi.PathMetrics,
		} {
			api.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
		}
	}
	wait.For(t, "the node says that it is ready", func() bool { return n.Status().Ready })
	for range 20 {
		n.ForgetReady()
		read()
		if !n.WasReady() {
			wait.For(t, "the node has found it again", n.WasReady)
			return
		}
		// It may have been found again meanwhile; not each time.
	}
	t.Error("a reader has the node note that it is ready")
}
