package voter

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/testnet"
	"github.com/musterhq/muster/internal/testing/wait"
)

// TestFirstElection: three voters that remember nothing found a cluster and elect the first of the
// list without waiting for the quiet time or for a leader to be missed, both of which last for an
// hour here.
func TestFirstElection(t *testing.T) {
	t.Parallel()
	network := testnet.New()
	var list []string
	var nodes []*testnet.Node
	for range 3 {
		port := network.Port(t)
		list, nodes = append(list, port.Addr()), append(nodes, port.Node())
	}
	var voters []*Voter
	for i, node := range nodes {
		v, err := New(Config{
			Cluster: "c", Self: list[i], DataDir: t.TempDir(), Network: node,
			Voters: func() ([]string, error) { return list, nil },
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		v.cfg.heartbeat = time.Hour
		v.disk.quietUntil = clock.Now().Add(time.Hour)
		v.Start(Hooks{
			Handle:   func(*http.ServeMux) {},
			Tick:     func(*Member) {},
			NextTick: func() time.Duration { return time.Hour },
		})
		t.Cleanup(func() {
			node.Close()
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		})
		voters = append(voters, v)
	}
	first := voters[0].List()[0]
	wait.For(t, "one leader, the first of the list", func() bool {
		for _, v := range voters {
			if v.KnownLeader() != first {
				return false
			}
		}
		return true
	})
}
