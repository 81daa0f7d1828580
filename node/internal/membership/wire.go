package membership

import (
	"encoding/binary"
	"errors"
)

// What travels as memberlist's user data: messages, one to a gossip packet's slot,
// and the state that is exchanged with each full synchronisation. Texts are a
// length (uvarint) and so many bytes.
//
//	message: version 1 | kind | cluster id | origin | key | seq (uvarint) | payload to the end
//	state:   version 1 | cluster id | count (uvarint) | that many origins that left | payload to the end
//
// The cluster id is the sender's, empty if it knows none. The origin is a
// memberlist name.
const wireVersion = 1

// The kinds of messages. A reader ignores the kinds that it does not know.
const (
	kindUser  = 1 // a message of Broadcast
	kindLeave = 2 // the origin leaves in good order; no key, seq or payload
)

// message is one broadcast. For each origin and key only the highest seq counts.
type message struct {
	kind      byte
	clusterID string
	origin    string
	key       string
	seq       uint64
	payload   []byte
}

func (m message) encode() []byte {
	b := []byte{wireVersion, m.kind}
	b = appendText(b, m.clusterID)
	b = appendText(b, m.origin)
	b = appendText(b, m.key)
	b = binary.AppendUvarint(b, m.seq)
	return append(b, m.payload...)
}

// name identifies what a later broadcast replaces.
func (m message) name() string {
	return string(rune('0'+m.kind)) + m.origin + "\x00" + m.key
}

var errWire = errors.New("not a message of this protocol")

func decodeMessage(b []byte) (m message, err error) {
	if len(b) < 2 || b[0] != wireVersion {
		return message{}, errWire
	}
	m.kind = b[1]
	r := reader{b: b[2:]}
	m.clusterID, m.origin, m.key = r.text(), r.text(), r.text()
	m.seq, m.payload = r.uvarint(), r.b
	if r.bad {
		return message{}, errWire
	}
	return m, nil
}

// exchange is the state that two nodes hand each other.
type exchange struct {
	clusterID string
	left      []string
	payload   []byte
}

func (e exchange) encode() []byte {
	b := []byte{wireVersion}
	b = appendText(b, e.clusterID)
	b = binary.AppendUvarint(b, uint64(len(e.left)))
	for _, name := range e.left {
		b = appendText(b, name)
	}
	return append(b, e.payload...)
}

func decodeExchange(b []byte) (e exchange, err error) {
	if len(b) < 1 || b[0] != wireVersion {
		return exchange{}, errWire
	}
	r := reader{b: b[1:]}
	e.clusterID = r.text()
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		e.left = append(e.left, r.text())
	}
	if r.bad {
		return exchange{}, errWire
	}
	e.payload = r.b
	return e, nil
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// reader takes values off the front of b. After the first that is not there, bad
// is set and all that follow are empty.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) text() string {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
