package raftstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/internal/testing/testnet"
)

// TestStrangers: a connection that is not meant for this voter is closed, and one
// that says nothing keeps no other waiting.
func TestStrangers(t *testing.T) {
	t.Parallel()
	f := testnet.New()
	n, m := f.Node(t), f.Node(t)
	defer n.Close()
	defer m.Close()
	s, err := Listen(n, Protocol, "f", n.Addr()+"#new")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	silent, err := m.Dial(t.Context(), Protocol, n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, line := range []string{
		`{"version":1,"founding":"f","to":"` + n.Addr() + `"}`, // for the voter that was lost
		`{"version":1,"founding":"g","to":"` + n.Addr() + `#new"}`,
		`{"version":1,"to":"` + n.Addr() + `#new"}`,
		`{"version":2,"founding":"f","to":"` + n.Addr() + `#new"}`,
		`garbage`,
		strings.Repeat("x", 2*maxHelloBytes),
	} {
		c, err := m.Dial(t.Context(), Protocol, n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(40 * time.Second))
		_, _ = io.WriteString(c, line+"\n")
		if k, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%.40s: read %d bytes, %v", line, k, err)
		}
		c.Close()
	}
	from, err := Listen(m, Protocol, "f", m.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	c, err := from.Dial(raft.ServerAddress(n.Addr()+"#new"), 40*time.Second)
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

// FuzzHello holds that the first line of a connection is read or refused, and never
// more of it than is allowed.
func FuzzHello(f *testing.F) {
	f.Add([]byte(`{"version":1,"founding":"f","to":"b"}` + "\n"))
	f.Add([]byte("\n"))
	f.Add([]byte("null\n{"))
	f.Add(bytes.Repeat([]byte("x"), maxHelloBytes+2))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(in), 16)
		if _, err := readHello(r); err != nil {
			return
		}
		line, _, ended := bytes.Cut(in, []byte("\n"))
		if !ended || len(line) > maxHelloBytes {
			t.Fatalf("%d bytes are taken for a hello", len(line))
		}
		if rest, _ := io.ReadAll(r); string(rest) != string(in[len(line)+1:]) {
			t.Fatalf("%q is left of %q", rest, in)
		}
	})
}
