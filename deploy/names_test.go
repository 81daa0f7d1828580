//go:build unix

package deploy_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// The most ordinary compose file: one bridge, and a list of the names of the services. It
// needs no socket of the engine and no key but the list. A StatefulSet lists its pods by
// names of the same kind, and tells each its address.
func TestVotersByNames(t *testing.T) {
	for _, v := range []struct {
		name string
		of   func(n int) string
		env  []string
	}{
		{"compose", func(n int) string { return fmt.Sprintf("n%d", n) }, nil},
		{"statefulset", func(n int) string { return fmt.Sprintf("orders-%d.orders.default.svc.cluster.local", n-1) }, []string{"POD_IP"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			testVotersByNames(t, v.of, len(v.env) > 0)
		})
	}
}

func testVotersByNames(t *testing.T, nameOf func(int) string, podIP bool) {
	e := testdocker.Require(t)
	image := buildImage(t, e)
	subnet := ""
	var flags []string
	if podIP {
		subnet = "10.213.77."
		flags = []string{"--subnet", subnet + "0/24"}
	}
	network := e.Network(flags...)
	var peers []string
	for n := 1; n <= 3; n++ {
		peers = append(peers, nameOf(n)+":7946")
	}
	l := &lab{t: t, engine: e, image: image}
	nodes := map[*testdocker.Container]string{}
	var all []*testdocker.Container
	for n := 1; n <= 3; n++ {
		o := testdocker.Options{Image: image,
			Flags: []string{"--network", network, "--network-alias", nameOf(n), "--mount", "type=volume,dst=/var/lib/muster", "--read-only", "--cap-drop", "ALL"},
			Env: []string{
				"MUSTER_CLUSTER=" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), fmt.Sprintf("MUSTER_NODE_ID=n%d", n),
				"MUSTER_PROVIDER_STATIC_PEERS=" + strings.Join(peers, ","),
			}}
		if podIP {
			ip := fmt.Sprintf("%s%d", subnet, 10+n)
			o.Flags = append(o.Flags, "--ip", ip)
			o.Env = append(o.Env, "POD_IP="+ip)
		}
		c := e.Run(o)
		all = append(all, c)
		nodes[c] = net.JoinHostPort(c.Inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"), "7946")
	}
	first := l.agree(0, nodes)
	for n, c := range all {
		var s httpapi.Status
		var v httpapi.Voters
		// One that was too slow to found the cluster with the others is added by their leader:
		// until then no other one can be spared.
		wait.For(t, fmt.Sprintf("n%d is ready and sees three voters", n+1), func() bool {
			s, v = httpapi.Status{}, httpapi.Voters{}
			if muster(c, &s, "status") != nil || !s.Ready || s.View.Warning != "" || muster(c, &v, "voters") != nil || len(v.Voters) != 3 {
				return false
			}
			return !slices.ContainsFunc(v.Voters, func(v httpapi.Voter) bool { return !v.Votes || !v.Reached })
		})
		if want := "listed by provider static as " + peers[n]; s.AddrSource != want {
			t.Errorf("its address is known by %q, want %q", s.AddrSource, want)
		}
		for _, voter := range v.Voters {
			if voter.Self != (voter.Addr == peers[n]) {
				t.Errorf("of %s it says %+v", voter.Addr, voter)
			}
		}
	}
	// Its master goes, and comes back in another place of the network.
	for c := range nodes {
		var m httpapi.Status
		if err := muster(c, &m, "status"); err == nil && m.NodeID == first.NodeID {
			c.Stop(20 * time.Second)
			delete(nodes, c)
			l.agree(first.Term, nodes)
			c.Start()
			nodes[c] = net.JoinHostPort(c.Inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"), "7946")
			break
		}
	}
	l.agree(first.Term, nodes)
}
