package faultproxy

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Count is how often something was called.
type Count struct {
	// Calls are requests in the sense of HTTP. The streams of gRPC are one each.
	Calls int
	// Requests and Answers are messages: of a stream of gRPC all that were sent each
	// way, otherwise one for each call and one for each call that was answered.
	Requests, Answers int
}

// Counts are kept by method and path, as "GET /v1/kv/a" and, of gRPC,
// "POST /etcdserverpb.KV/Txn".
type Counts map[string]Count

// Sum adds up the calls whose method and path begin with one of prefixes, or all
// if there is none.
func (c Counts) Sum(prefixes ...string) Count {
	var sum Count
	for name, count := range c {
		if len(prefixes) > 0 && !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		sum.Calls += count.Calls
		sum.Requests += count.Requests
		sum.Answers += count.Answers
	}
	return sum
}

// Since returns what was counted after earlier was.
func (c Counts) Since(earlier Counts) Counts {
	since := maps.Clone(c)
	for name, before := range earlier {
		now := since[name]
		now.Calls -= before.Calls
		now.Requests -= before.Requests
		now.Answers -= before.Answers
		if since[name] = now; now == (Count{}) {
			delete(since, name)
		}
	}
	return since
}

// String has one line for each method and path, in order.
func (c Counts) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c)) {
		n := c[name]
		fmt.Fprintf(&b, "%s: %d calls, %d requests, %d answers\n", name, n.Calls, n.Requests, n.Answers)
	}
	return b.String()
}

// messages reads the body of a call of gRPC and counts its messages: each has a head
// of five bytes, of which the last four are the length of what follows. Where garble is
// set, what follows is made garbage.
type messages struct {
	io.ReadCloser
	count  func()
	garble bool

	head [5]byte
	have int    // bytes of the head
	left uint32 // bytes of the message
}

func (m *messages) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		if m.left > 0 {
			part := rest[:min(uint64(len(rest)), uint64(m.left))]
			if m.garble {
				garble(part)
			}
			m.left -= uint32(len(part))
			rest = rest[len(part):]
			continue
		}
		taken := copy(m.head[m.have:], rest)
		m.have += taken
		rest = rest[taken:]
		if m.have == len(m.head) {
			m.have, m.left = 0, binary.BigEndian.Uint32(m.head[1:])
			m.count()
		}
	}
	return n, err
}

// garbled reads garbage of the same length.
type garbled struct{ io.ReadCloser }

func (g garbled) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	garble(p[:n])
	return n, err
}

// garble leaves nothing that is JSON, or a message of gRPC.
func garble(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
