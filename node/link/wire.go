package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// The layout is described in the package comment and pinned by a golden test.
const (
	wireMagic = "MSTR"

	alpnPrefix = "muster/"

	// maxFrame bounds a gossip packet. memberlist makes them fit into 1400 bytes
	// by default, and never larger than a UDP datagram.
	maxFrame    = 64 << 10
	frameHeader = 4

	// maxOpening bounds the address in the first frame of a gossip connection.
	maxOpening = 64
)

// The protocols of the link itself.
const (
	protocolPackets = "gossip"
	protocolStreams = "state"
)

// status is the one byte that answers whoever dialled.
type status byte

const (
	statusAccepted status = 1 + iota
	statusVersion
	statusCluster
	statusProtocol
	statusBusy
	statusTLS
)

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
	}
	return ReasonGarbage
}

// hello is what whoever dials asks for.
type hello struct {
	version  int
	protocol string
	cluster  string
}

func (h hello) alpn() string {
	return alpnPrefix + strconv.Itoa(h.version) + "/" + h.protocol + "/" + h.cluster
}

// parseALPN is the reverse of alpn. Of a version other than ours it reads no more
// than the version.
func parseALPN(s string) (h hello, ok bool) {
	rest, ok := strings.CutPrefix(s, alpnPrefix)
	if !ok {
		return hello{}, false
	}
	version, rest, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(version, 10, 8)
	if err != nil || strconv.FormatUint(n, 10) != version {
		return hello{}, false
	}
	if int(n) != wireVersion {
		return hello{version: int(n)}, true
	}
	protocol, cluster, ok := strings.Cut(rest, "/")
	if !ok || validateProtocol(protocol) != nil || validateCluster(cluster) != nil {
		return hello{}, false
	}
	return hello{int(n), protocol, cluster}, true
}

func (h hello) preface() []byte {
	b := make([]byte, 0, len(wireMagic)+3+len(h.protocol)+len(h.cluster))
	b = append(b, wireMagic...)
	b = append(b, byte(h.version), byte(len(h.protocol)))
	b = append(b, h.protocol...)
	b = append(b, byte(len(h.cluster)))
	return append(b, h.cluster...)
}

// plainHere answers a TLS handshake on a port without TLS. The other end finds
// that it is no TLS record, and that is all that it has to find.
var plainHere = []byte(wireMagic + "\x01")

var (
	errMagic   = errors.New("not a muster preface")
	errTLSSent = errors.New("TLS on a port without TLS")
)

// readPreface reads one preface and not a byte more. Of a version other than ours
// it reads no further than the version.
func readPreface(r io.Reader) (hello, error) {
	var buf [256]byte
	head := buf[:len(wireMagic)+1]
	if n, err := io.ReadFull(r, head); err != nil {
		if n > 0 && !strings.HasPrefix(wireMagic, string(head[:min(n, len(wireMagic))])) {
			return hello{}, errMagic
		}
		return hello{}, err
	}
	if string(head[:len(wireMagic)]) != wireMagic {
		// A TLS handshake record of any version.
		if head[0] == 0x16 && head[1] == 0x03 {
			return hello{}, errTLSSent
		}
		return hello{}, errMagic
	}
	h := hello{version: int(head[len(wireMagic)])}
	if h.version != wireVersion {
		return h, nil
	}
	text := func() (string, error) {
		if _, err := io.ReadFull(r, buf[:1]); err != nil {
			return "", noEOF(err)
		}
		s := buf[:buf[0]]
		_, err := io.ReadFull(r, s)
		return string(s), noEOF(err)
	}
	var err error
	if h.protocol, err = text(); err != nil {
		return hello{}, err
	}
	if validateProtocol(h.protocol) != nil {
		return hello{}, errMagic
	}
	if h.cluster, err = text(); err != nil {
		return hello{}, err
	}
	if validateCluster(h.cluster) != nil {
		return hello{}, errMagic
	}
	return h, nil
}

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

// openingFrame tells the reader of a gossip connection whose packets follow.
func openingFrame(advertised netip.AddrPort) []byte {
	return appendFrame(nil, []byte(advertised.String()))
}

func readOpening(r io.Reader) (netip.AddrPort, error) {
	b, err := readFrame(r, maxOpening)
	if err != nil {
		return netip.AddrPort{}, err
	}
	a, err := netip.ParseAddrPort(string(b))
	if err == nil {
		err = validateAdvertise(a)
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: opening %q: %w", errFrame, b, err)
	}
	return a, nil
}

func validateAdvertise(a netip.AddrPort) error {
	if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Port() == 0 {
		return fmt.Errorf("link: address %q cannot be dialled; want the IP address and port by which others reach this node", a)
	}
	return nil
}
