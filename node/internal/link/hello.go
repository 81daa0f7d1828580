package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Peer is the node at the other end of a connection, as its hello says. With TLS the hello comes
// from a holder of a certificate of the configured authorities, and with Config.VerifyNodeID from
// one whose certificate names the node id.
type Peer struct {
	// NodeID is stable over restarts; InstanceID names one start of the node.
	NodeID, InstanceID string
	// Protocol is the one that the connection is for.
	Protocol string
	// Addr is the address that the node advertises. It is zero while the node has none.
	Addr netip.AddrPort
	// Features are names of what the node can do beyond this version of the wire. This build
	// need not know them.
	Features []string
}

// PeerOf returns the node at the other end of c. It is zero for a connection that is not of a
// link.
func PeerOf(c net.Conn) Peer {
	if known, ok := c.(interface{ Peer() Peer }); ok {
		return known.Peer()
	}
	return Peer{}
}

// hello is what each end says of itself, and the end that dials also which instance it means.
type hello struct {
	version int
	cluster string
	peer    Peer
	// to is the instance that is dialed, or the head of its id. Empty: any that answers.
	to string
}

// The fields of a hello. Numbers are never used again for something else, and readers ignore the
// ones that they do not know.
const (
	fieldCluster byte = 1 + iota
	fieldProtocol
	fieldNodeID
	fieldInstanceID
	fieldTo
	fieldAddr
	fieldFeature // repeated
)

const (
	// helloHead is the magic, the version and the length of the rest.
	helloHead = len(wireMagic) + 3
	// maxHello bounds the rest. What is known takes less than 1200 bytes.
	maxHello = 2 << 10
)

// append appends the encoded h to b.
func (h hello) append(b []byte) []byte {
	b = append(b, wireMagic...)
	b = append(b, byte(h.version), 0, 0)
	start := len(b)
	field := func(number byte, value string) {
		b = append(b, number, byte(len(value)))
		b = append(b, value...)
	}
	field(fieldCluster, h.cluster)
	field(fieldProtocol, h.peer.Protocol)
	field(fieldNodeID, h.peer.NodeID)
	field(fieldInstanceID, h.peer.InstanceID)
	if h.to != "" {
		field(fieldTo, h.to)
	}
	if a := h.peer.Addr; a.IsValid() {
		field(fieldAddr, string(binary.BigEndian.AppendUint16(a.Addr().AsSlice(), a.Port())))
	}
	for _, feature := range h.peer.Features {
		field(fieldFeature, feature)
	}
	binary.BigEndian.PutUint16(b[start-2:], uint16(len(b)-start))
	return b
}

var (
	errMagic   = errors.New("not a muster hello")
	errHello   = errors.New("malformed hello")
	errTLSSent = errors.New("TLS on a port without TLS")
)

var helloBuffers = sync.Pool{New: func() any { return new([helloHead + maxHello]byte) }}

// readHello reads one hello and not a byte more. Of a version other than ours it reads little
// further than the version, and returns nothing else.
func readHello(r io.Reader) (hello, error) {
	buf := helloBuffers.Get().(*[helloHead + maxHello]byte)
	defer helloBuffers.Put(buf)
	n, err := io.ReadAtLeast(r, buf[:helloHead], len(wireMagic)+1)
	if err != nil {
		if n > 0 && !strings.HasPrefix(wireMagic, string(buf[:min(n, len(wireMagic))])) {
			return hello{}, errMagic
		}
		return hello{}, err
	}
	if string(buf[:len(wireMagic)]) != wireMagic {
		// A TLS handshake record of any version.
		if buf[0] == 0x16 && buf[1] == 0x03 {
			return hello{}, errTLSSent
		}
		return hello{}, errMagic
	}
	if version := int(buf[len(wireMagic)]); version != wireVersion {
		return hello{version: version}, nil
	}
	if _, err := io.ReadFull(r, buf[n:helloHead]); err != nil {
		return hello{}, noEOF(err)
	}
	length := int(binary.BigEndian.Uint16(buf[helloHead-2 : helloHead]))
	if length > maxHello {
		return hello{}, errHello
	}
	body := buf[helloHead : helloHead+length]
	if _, err := io.ReadFull(r, body); err != nil {
		return hello{}, noEOF(err)
	}
	return parseHello(body)
}

// parseHello reads the fields of a hello of our version. It allocates only for one that is good.
func parseHello(body []byte) (hello, error) {
	var fields [fieldFeature][]byte
	var features [MaxFeatures][]byte
	count := 0
	for len(body) > 0 {
		if len(body) < 2 || len(body)-2 < int(body[1]) {
			return hello{}, errHello
		}
		number, value := body[0], body[2:2+int(body[1])]
		body = body[2+len(value):]
		switch {
		case number == fieldFeature:
			// Features only tell what else is possible: one that cannot be read is not known.
			if count < MaxFeatures && isName(value) {
				features[count] = value
				count++
			}
		case number == 0 || number > fieldFeature:
		case fields[number] != nil:
			return hello{}, errHello
		default:
			fields[number] = value
		}
	}
	to, addr := fields[fieldTo], netip.AddrPort{}
	if !isText(fields[fieldCluster], MaxCluster) || !isName(fields[fieldProtocol]) || !isText(fields[fieldNodeID], MaxNodeID) ||
		!isID(fields[fieldInstanceID]) || to != nil && !isID(to) {
		return hello{}, errHello
	}
	if b := fields[fieldAddr]; b != nil {
		ip, ok := netip.AddrFromSlice(b[:max(0, len(b)-2)])
		if !ok || ip.Is4In6() {
			return hello{}, errHello
		}
		addr = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[len(b)-2:]))
		if !dialable(addr) {
			return hello{}, errHello
		}
	}
	h := hello{version: wireVersion, cluster: string(fields[fieldCluster]), to: string(to), peer: Peer{
		NodeID:     string(fields[fieldNodeID]),
		InstanceID: string(fields[fieldInstanceID]),
		Protocol:   string(fields[fieldProtocol]),
		Addr:       addr,
	}}
	for _, feature := range features[:count] {
		h.peer.Features = append(h.peer.Features, string(feature))
	}
	return h, nil
}

// meant reports whether to is the instance, or the head of its id, or leaves it open.
func meant(to, instanceID string) bool { return strings.HasPrefix(instanceID, to) }

// readAnswer reads what answers a hello: the status, and the hello of the other end where that
// introduces itself.
func readAnswer(r io.Reader) (status, hello, error) {
	head := make([]byte, 1+helloHead)
	n, err := io.ReadAtLeast(r, head, 1)
	if err != nil {
		return 0, hello{}, err
	}
	s := status(head[0])
	if !s.introduces() {
		return s, hello{}, nil
	}
	there, err := readHello(io.MultiReader(bytes.NewReader(head[1:n]), r))
	return s, there, noEOF(err)
}

// alpn is the ALPN protocol of a version and a cluster.
func alpn(version int, cluster string) string {
	return alpnPrefix + strconv.Itoa(version) + "/" + cluster
}

// parseALPN is the reverse of alpn. Of a version other than ours it reads no more than the
// version.
func parseALPN(s string) (version int, cluster string, ok bool) {
	rest, ok := strings.CutPrefix(s, alpnPrefix)
	if !ok {
		return 0, "", false
	}
	number, cluster, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(number, 10, 8)
	if err != nil || strconv.FormatUint(n, 10) != number {
		return 0, "", false
	}
	if int(n) != wireVersion {
		return int(n), "", true
	}
	return int(n), cluster, isText([]byte(cluster), MaxCluster)
}

// isText reports whether b is text for people, of 1 to limit bytes.
func isText(b []byte, limit int) bool {
	if len(b) == 0 || len(b) > limit || !utf8.Valid(b) {
		return false
	}
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if unicode.IsControl(r) {
			return false
		}
		b = b[n:]
	}
	return true
}

// isName reports whether b may name a protocol or a feature. All that would have to be quoted in
// logs and metrics is kept out.
func isName(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return len(b) > 0 && len(b) <= MaxProtocol
}

// isID reports whether b may be an instance id, or the head of one.
func isID(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return len(b) > 0 && len(b) <= MaxInstanceID
}

// dialable reports whether a may be an address that others dial.
func dialable(a netip.AddrPort) bool {
	return a.IsValid() && !a.Addr().IsUnspecified() && !a.Addr().IsMulticast() && a.Port() != 0
}
