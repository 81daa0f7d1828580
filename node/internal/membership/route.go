package membership

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"

	"github.com/hashicorp/memberlist"
)

// memberlist picks members at random for each packet of news. In a large cluster that would be
// a dial for each, with a handshake, since there are connections to a few members only. News may
// go to any member, as each passes on what it had not heard before: so it goes to one that is
// connected. Which those are changes all the time, because only the member that is probed will
// do for a probe, and memberlist probes them all in turn.

// toNobodyElse begins the name of an address that is meant, whatever the packet. No node id does.
const toNobodyElse = "\x00"

// fewMembers is how many members there may be, this one included, so that it keeps a connection
// to each of the others.
const fewMembers = 64

// connecter is a transport that knows where it has a connection.
type connecter interface {
	// Connected reports whether a packet for addr would take no dial.
	Connected(addr memberlist.Address) bool
}

// route returns where a packet for addr goes.
func (f *filterTransport) route(packet []byte, addr memberlist.Address) memberlist.Address {
	if name, direct := strings.CutPrefix(addr.Name, toNobodyElse); direct {
		addr.Name = name
		return addr
	}
	c, ok := f.NodeAwareTransport.(connecter)
	if !ok || addr.Name == "" || c.Connected(instanceAt(addr)) || !isNews(packet) {
		return addr
	}
	others := f.others()
	if len(others) <= fewMembers {
		return addr
	}
	// With c of n members connected a share of exp(-c/4) is dialled: many as long as there
	// are few connections, and next to none with the 64 that are kept.
	for range len(others) / 4 {
		m := others[rand.N(len(others))]
		a := memberlist.Address{Addr: m.Addr, Name: memberName(m.NodeID, m.InstanceID)}
		if !m.Self && m.State == StateAlive && c.Connected(instanceAt(a)) {
			return a
		}
	}
	return addr
}

// others returns the members that news may go to, and this node.
func (m *Membership) others() []Member {
	view, _ := m.view.Load()
	return view.Members
}

// The types of memberlist's messages, as far as it matters here which they are. A test compares
// them with what it sends.
const (
	typeSuspect  = 3
	typeAlive    = 4
	typeDead     = 5
	typeCompound = 7
	typeUser     = 8
	typeChecksum = 12
	typeLabel    = 244
)

// isNews reports whether a packet of memberlist holds nothing but what it spreads. One that is
// not understood does not.
func isNews(packet []byte) bool {
	if len(packet) > 1 && packet[0] == typeLabel {
		packet = packet[min(len(packet), 2+int(packet[1])):]
	}
	if len(packet) > 5 && packet[0] == typeChecksum {
		packet = packet[5:]
	}
	if len(packet) < 2 || packet[0] != typeCompound {
		return len(packet) > 0 && isNewsType(packet[0])
	}
	n := int(packet[1])
	if len(packet) < 2+2*n {
		return false
	}
	lengths, rest := packet[2:2+2*n], packet[2+2*n:]
	for ; len(lengths) > 0; lengths = lengths[2:] {
		size := int(binary.BigEndian.Uint16(lengths))
		if size == 0 || size > len(rest) || !isNewsType(rest[0]) {
			return false
		}
		rest = rest[size:]
	}
	return n > 0
}

func isNewsType(t byte) bool {
	switch t {
	case typeSuspect, typeAlive, typeDead, typeUser:
		return true
	}
	return false
}
