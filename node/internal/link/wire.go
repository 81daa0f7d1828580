package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// The layout is described in the package comment and pinned by a golden test.
const (
	wireMagic = "MSTR"

	alpnPrefix = "muster/"

	// maxFrame bounds a gossip packet. memberlist makes them fit into 1400 bytes
	// by default, and never larger than a UDP datagram.
	maxFrame    = 64 << 10
	frameHeader = 4
)

// The protocols of the link itself.
const (
	protocolPackets = "gossip"
	protocolStreams = "state"
)

// status is the first byte of what answers the end that dialled.
type status byte

const (
	statusAccepted status = 1 + iota
	statusVersion
	statusCluster
	statusProtocol
	statusBusy
	statusTLS
	statusInstance
	statusNodeID
)

// introduces reports whether the hello of the end that answers follows.
func (s status) introduces() bool { return s == statusAccepted || s == statusInstance }

// reason returns what the status means to the one who is refused.
func (s status) reason() Reason {
	switch s {
	case statusVersion:
		return ReasonVersion
	case statusCluster:
		return ReasonCluster
	case statusProtocol:
		return ReasonProtocol
	case statusBusy:
		return ReasonBusy
	case statusTLS:
		return ReasonPlain
	case statusInstance:
		return ReasonInstance
	case statusNodeID:
		return ReasonNodeID
	}
	return ReasonGarbage
}

// plainHere answers a TLS handshake on a port without TLS. The other end finds
// that it is no TLS record, and that is all that it has to find.
var plainHere = []byte(wireMagic + "\x02")

// noEOF tells an end in the middle from one before the first byte.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendFrame appends a frame of payload to b. A payload of no bytes is a request
// for a sign of life.
func appendFrame(b, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// errFrame means that the other end does not keep to the frame format.
var errFrame = errors.New("bad frame")

// readFrame reads one frame into a slice of its own. It returns io.EOF only for an
// end between two frames.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(header[:])
	if n > uint32(limit) {
		return nil, fmt.Errorf("%w: %d bytes; at most %d are allowed", errFrame, n, limit)
	}
	if n == 0 {
		return nil, nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, noEOF(err)
	}
	return b, nil
}

func validateAdvertise(a netip.AddrPort) error {
	if !dialable(a) {
		return fmt.Errorf("link: address %q cannot be dialled; want the IP address and port by which others reach this node", a)
	}
	return nil
}
