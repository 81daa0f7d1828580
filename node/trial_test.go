package node_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testserver"
	"github.com/musterhq/muster/node"
)

// try opens a trial on a free port of loopback.
func try(t *testing.T, c node.Config) *node.Trial {
	t.Helper()
	trial, err := c.Try("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trial.Close)
	return trial
}

func TestTrialFindsItself(t *testing.T) {
	trial := try(t, node.Config{Cluster: "orders", NodeID: "n1", Advertise: "auto"})
	found := trial.Explain(t.Context())
	if found.Err != nil || found.Addr != trial.Addr().String() {
		t.Fatalf("found %v, listens on %v", found, trial.Addr())
	}
	if err := trial.Reach(t.Context(), found.Addr); err != nil {
		t.Error(err)
	}
}

func TestTrialFindsAnother(t *testing.T) {
	trial := try(t, node.Config{Cluster: "orders", NodeID: "n1"})
	other := try(t, node.Config{Cluster: "orders", NodeID: "n2"}).Addr().String()
	if id, _, err := trial.Ask(t.Context(), other); err != nil || id != "n2" {
		t.Errorf("node %q answers, %v", id, err)
	}
	if err := trial.Reach(t.Context(), other); err == nil || !strings.Contains(err.Error(), "node n2 answers there") {
		t.Errorf("reached another: %v", err)
	}
	stranger := try(t, node.Config{Cluster: "billing"}).Addr().String()
	if _, _, err := trial.Ask(t.Context(), stranger); !errors.Is(err, node.ErrRefused) || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("asked a node of another cluster: %v", err)
	}
	gone := try(t, node.Config{Cluster: "orders"})
	gone.Close()
	if _, _, err := trial.Ask(t.Context(), gone.Addr().String()); err == nil || err.Error() != "connection refused" {
		t.Errorf("asked nobody: %v", err)
	}
	if _, err := (node.Config{Cluster: "orders", Bind: other}).Try(""); err == nil || !strings.Contains(err.Error(), "the port is in use") {
		t.Errorf("a port that is taken: %v", err)
	}
}

func TestTrialWithTLS(t *testing.T) {
	ca := testserver.NewCA(t)
	with := func(issuer *testserver.CA) node.Config {
		cert, key := issuer.Issue(t, "node", testserver.PKCS8)
		return node.Config{Cluster: "orders", TLS: driver.TLS{CAFile: ca.CAFile, CertFile: cert, KeyFile: key}}
	}
	trial := try(t, with(ca))
	if err := trial.Reach(t.Context(), trial.Addr().String()); err != nil {
		t.Error(err)
	}
	foreign := try(t, with(testserver.NewCA(t))).Addr().String()
	if _, _, err := trial.Ask(t.Context(), foreign); !errors.Is(err, node.ErrRefused) {
		t.Errorf("a certificate of another authority: %v", err)
	}
}

// What runs as a node can be asked, too.
func TestTrialAsksANode(t *testing.T) {
	n := newCluster(t).start("n1")
	trial := try(t, node.Config{Cluster: n.Cluster(), NodeID: "other"})
	eventually(t, "the node says who it is", func() bool {
		id, instance, err := trial.Ask(t.Context(), n.Addr())
		if err != nil && !errors.Is(err, node.ErrNoAnswer) { // it has just been started
			t.Fatal(err)
		}
		return err == nil && id == n.ID() && instance == n.InstanceID()
	})
}
