package link

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/internal/testing/wait"
)

// raftLayer is how Raft stands on a driver.Network.
type raftLayer struct {
	net.Listener
	link *Link
	t    *testing.T
}

func (r raftLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return r.link.Dial(wait.Context(r.t), "raft", string(addr))
}

func TestRaftTransportOverTheLink(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		var ends []*raft.NetworkTransport
		for range 2 {
			l := w.link(t)
			ln, err := l.Listen("raft")
			if err != nil {
				t.Fatal(err)
			}
			tr := raft.NewNetworkTransport(raftLayer{ln, l, t}, 2, wait.Patience, nil)
			defer tr.Close()
			ends = append(ends, tr)
		}
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			for range 10 {
				rpc := <-ends[1].Consumer()
				rpc.Respond(&raft.AppendEntriesResponse{Term: rpc.Command.(*raft.AppendEntriesRequest).Term, Success: true}, nil)
			}
		}()
		for term := range uint64(10) {
			var resp raft.AppendEntriesResponse
			err := ends[0].AppendEntries("b", ends[1].LocalAddr(), &raft.AppendEntriesRequest{
				RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte("a")}, Term: term,
				Entries: []*raft.Log{{Index: term, Term: term, Data: make([]byte, 10_000)}},
			}, &resp)
			if err != nil || resp.Term != term {
				t.Fatalf("AppendEntries = %+v, %v", resp, err)
			}
		}
		<-answered
	})
}
