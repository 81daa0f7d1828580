package quorum

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static/internal/fabric"
)

// TestStrangers: a connection that is not meant for this voter is closed, and one
// that says nothing keeps no other waiting.
func TestStrangers(t *testing.T) {
	t.Parallel()
	f := fabric.New()
	n, m := f.Node(t, "127.0.0.1:0"), f.Node(t, "127.0.0.1:0")
	defer n.Close()
	defer m.Close()
	s, err := listen(n, raftProtocol, "x", n.Addr()+"#new")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	silent, err := m.Dial(ask(t), raftProtocol, n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, line := range []string{
		`{"version":1,"cluster":"x","to":"` + n.Addr() + `"}`, // for the voter that was lost
		`{"version":1,"cluster":"y","to":"` + n.Addr() + `#new"}`,
		`{"version":2,"cluster":"x","to":"` + n.Addr() + `#new"}`,
		`garbage`,
		strings.Repeat("x", 2*maxHelloBytes),
	} {
		c, err := m.Dial(ask(t), raftProtocol, n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, line+"\n")
		if k, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%.40s: read %d bytes, %v", line, k, err)
		}
		c.Close()
	}
	from, err := listen(m, raftProtocol, "x", m.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	c, err := from.Dial(raft.ServerAddress(n.Addr()+"#new"), patience)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "hi"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2)
	if _, err := io.ReadFull(got, b); err != nil || string(b) != "hi" {
		t.Errorf("read %q, %v", b, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if _, err := s.Dial("a:1", time.Second); err == nil {
		t.Error("Dial after Close")
	}
}

// TestAnotherCluster: voters of two clusters that list the same addresses have
// nothing to say to one another.
func TestAnotherCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.nodes[1].tweak = func(cfg *Config) { cfg.Cluster = "other" }
	c.start()
	c.eventually("a reason", func() bool {
		ms, _ := c.nodes[0].auth.mastership()
		return strings.Contains(ms.Warning, "waiting for a majority of the 2 voters") && strings.Contains(ms.Warning, `voter of cluster "other"`)
	})
	var st status
	err := c.nodes[0].auth.caller.call(ask(t), c.nodes[1].addr, pathStatus, struct{}{}, &st)
	if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), `voter of cluster "other" and not of "test"`) {
		t.Errorf("call returned %+v, %v", st, err)
	}
	c.steady(0)
}
