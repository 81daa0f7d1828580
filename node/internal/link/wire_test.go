package link

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// What is here travels between versions of Muster. It may be added to with a new
// version number, and never changes.
func TestWireLayoutIsGolden(t *testing.T) {
	minimal := hello{version: wireVersion, cluster: "orders", peer: Peer{NodeID: "node-1", InstanceID: "0a1b2c", Protocol: "raft"}}
	full := minimal
	full.to = "ffee99"
	full.peer.Addr = mustAddrPort("10.0.0.5:7946")
	full.peer.Features = []string{"mux", "zstd"}
	six := minimal
	six.peer.Addr = mustAddrPort("[fd00::1]:7946")
	const start = "\x01\x06orders" + "\x02\x04raft" + "\x03\x06node-1" + "\x04\x060a1b2c"
	for _, c := range []struct{ name, got, want string }{
		{"ALPN", alpn(wireVersion, "orders"), "muster/2/orders"},
		{"hello", string(minimal.append(nil)), "MSTR\x02\x00\x1e" + start},
		{"hello with all fields", string(full.append(nil)), "MSTR\x02\x00\x39" + start + "\x05\x06ffee99" +
			"\x06\x06\x0a\x00\x00\x05\x1f\x0a" + "\x07\x03mux" + "\x07\x04zstd"},
		{"hello, IPv6", string(six.append(nil)), "MSTR\x02\x00\x32" + start +
			"\x06\x12\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x1f\x0a"},
		{"answer to TLS where there is none", string(plainHere), "MSTR\x02"},
		{"frame", hex.EncodeToString(appendFrame(nil, []byte("abc"))), "00000003616263"},
		{"request for a sign of life", hex.EncodeToString(ping), "00000000"},
		{"sign of life", hex.EncodeToString(pong[:]), "01"},
		{"protocol of packets", protocolPackets, "gossip"},
		{"protocol of streams", protocolStreams, "state"},
		{"answers", hex.EncodeToString([]byte{byte(statusAccepted), byte(statusVersion), byte(statusCluster),
			byte(statusProtocol), byte(statusBusy), byte(statusTLS), byte(statusInstance), byte(statusNodeID)}), "0102030405060708"},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	if maxFrame != 65536 || maxHello != 2048 {
		t.Errorf("a frame has at most %d bytes, and a hello %d; want 65536 and 2048", maxFrame, maxHello)
	}
	if n := len(alpn(255, strings.Repeat("c", MaxCluster))); n > 255 {
		t.Errorf("the longest ALPN protocol has %d bytes; TLS allows 255", n)
	}
}

// A link answers as is written down, byte by byte.
func TestAnswersAreGolden(t *testing.T) {
	l := (&world{}).link(t, func(c *Config) { c.NodeID, c.InstanceID, c.Features = "node-1", "0a1b2c", []string{"mux"} })
	echo(t, l, "raft")
	const there = "MSTR\x02\x00\x23\x01\x06orders\x02\x04raft\x03\x06node-1\x04\x060a1b2c\x07\x03mux"
	for _, c := range []struct {
		name, want string
		change     func(*hello)
	}{
		{"any instance", "\x01" + there, func(*hello) {}},
		{"this instance", "\x01" + there, func(h *hello) { h.to = "0a1b2c" }},
		{"the head of its id", "\x01" + there, func(h *hello) { h.to = "0a1b" }},
		{"another instance", "\x07" + there, func(h *hello) { h.to = "0a1b2d" }},
		{"one whose id begins with its own", "\x07" + there, func(h *hello) { h.to = "0a1b2c3d" }},
		{"another protocol", "\x04", func(h *hello) { h.peer.Protocol = "x" }},
		{"another cluster", "\x03", func(h *hello) { h.cluster = "invoices" }},
		{"another version", "\x02", func(h *hello) { h.version = wireVersion + 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := ask("raft")
			c.change(&h)
			nc := rawDial(t, l)
			if _, err := nc.Write(h.append(nil)); err != nil {
				t.Fatal(err)
			}
			nc.(*net.TCPConn).CloseWrite()
			if got := answer(nc); got != c.want {
				t.Errorf("answered %q, want %q", got, c.want)
			}
		})
	}
}

// encode makes a hello of our version of fields as they are.
func encode(fields string) string {
	return wireMagic + string(append([]byte{byte(wireVersion)}, byte(len(fields)>>8), byte(len(fields)))) + fields
}

func TestReadHello(t *testing.T) {
	const whole = "\x01\x06orders\x02\x04call\x03\x01n\x04\x01i"
	good := hello{version: wireVersion, cluster: "orders", peer: Peer{NodeID: "n", InstanceID: "i", Protocol: "call"}}
	with := func(change func(*hello)) hello { h := good; change(&h); return h }
	many := strings.Repeat("\x07\x01f", MaxFeatures+1)
	for _, c := range []struct {
		name, in string
		want     hello
		err      error
		rest     int
	}{
		{"whole", encode(whole) + "rest", good, nil, 4},
		{"in another order", encode("\x04\x01i\x03\x01n\x02\x04call\x01\x06orders"), good, nil, 0},
		{"fields that a later build adds", encode("\x08\x00" + whole + "\xff\x03new\x00\x01x"), good, nil, 0},
		{"features that nobody knows", encode(whole + "\x07\x03new\x07\x05Not a\x07\x00\x07\x01b"),
			with(func(h *hello) { h.peer.Features = []string{"new", "b"} }), nil, 0},
		{"more features than are kept", encode(whole + many),
			with(func(h *hello) { h.peer.Features = slices.Repeat([]string{"f"}, MaxFeatures) }), nil, 0},
		{"another version, of which nothing more is known", "MSTR\x03\xff\xff and more", hello{version: 3}, nil, 9},
		{"nothing", "", hello{}, io.EOF, 0},
		{"an end within the magic", "MST", hello{}, io.ErrUnexpectedEOF, 0},
		{"an end within the length", encode(whole)[:6], hello{}, io.ErrUnexpectedEOF, 0},
		{"an end before the fields", encode(whole)[:7], hello{}, io.ErrUnexpectedEOF, 0},
		{"an end within a field", encode(whole)[:12], hello{}, io.ErrUnexpectedEOF, 0},
		{"HTTP", "GET / HTTP/1.1\r\n", hello{}, errMagic, 9},
		{"short garbage", "hi", hello{}, errMagic, 0},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01", hello{}, errTLSSent, 1},
		{"too long", "MSTR\x02\x08\x01" + whole, hello{}, errHello, len(whole)},
		{"no fields", encode(""), hello{}, errHello, 0},
		{"a field that ends after the hello", encode(whole + "\x08\x02x"), hello{}, errHello, 0},
		{"half a field", encode(whole + "\x08"), hello{}, errHello, 0},
		{"two clusters", encode(whole + "\x01\x06orders"), hello{}, errHello, 0},
		{"no protocol", encode(strings.Replace(whole, "\x02\x04call", "", 1)), hello{}, errHello, 0},
		{"protocol with a slash", encode(strings.Replace(whole, "call", "a/bc", 1)), hello{}, errHello, 0},
		{"an empty cluster", encode(strings.Replace(whole, "\x06orders", "\x00", 1)), hello{}, errHello, 0},
		{"a cluster that is too long", encode(strings.Replace(whole, "\x06orders", "\xc9"+strings.Repeat("c", 201), 1)), hello{}, errHello, 0},
		{"a control character in the node id", encode(strings.Replace(whole, "\x01n", "\x01\n", 1)), hello{}, errHello, 0},
		{"a node id that is no UTF-8", encode(strings.Replace(whole, "\x01n", "\x01\xff", 1)), hello{}, errHello, 0},
		{"an instance id with a space", encode(strings.Replace(whole, "\x01i", "\x02i ", 1)), hello{}, errHello, 0},
		{"an instance id that is too long", encode(strings.Replace(whole, "\x01i", "\x41"+strings.Repeat("i", 65), 1)), hello{}, errHello, 0},
		{"nobody is meant", encode(whole + "\x05\x00"), hello{}, errHello, 0},
		{"an address of no family", encode(whole + "\x06\x05\x0a\x00\x00\x1f\x0a"), hello{}, errHello, 0},
		{"an empty address", encode(whole + "\x06\x00"), hello{}, errHello, 0},
		{"an address without a port", encode(whole + "\x06\x06\x0a\x00\x00\x05\x00\x00"), hello{}, errHello, 0},
		{"an unspecified address", encode(whole + "\x06\x06\x00\x00\x00\x00\x1f\x0a"), hello{}, errHello, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := strings.NewReader(c.in)
			got, err := readHello(iotest.OneByteReader(r))
			if !reflect.DeepEqual(got, c.want) || !errors.Is(err, c.err) {
				t.Errorf("readHello = %+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
			if rest := r.Len(); rest != c.rest && rest != c.rest+2 { // the length need not be read
				t.Errorf("left %d bytes unread, want %d", rest, c.rest)
			}
		})
	}
}

// What is garbage costs nothing but the buffer, which is used again.
func TestGarbageIsRejectedWithoutAllocation(t *testing.T) {
	good := ask("x").append(nil)[helloHead:]
	for name, body := range map[string][]byte{
		"nothing":              {},
		"noise":                bytes.Repeat([]byte{0xff, 0x00, 0x17}, 600),
		"features alone":       bytes.Repeat([]byte("\x07\x02ab"), 500),
		"a long node id":       slices.Concat([]byte("\x03\xff"), bytes.Repeat([]byte("x"), 255), good[8:]),
		"an address too many":  slices.Concat(good, []byte("\x06\x01x")),
		"a field without end":  slices.Concat(good, []byte("\x09\xff")),
		"all fields and again": slices.Concat(good, good),
	} {
		if allocated := testing.AllocsPerRun(100, func() {
			if _, err := parseHello(body); !errors.Is(err, errHello) {
				t.Errorf("%s: %v", name, err)
			}
		}); allocated != 0 {
			t.Errorf("%s: %v allocations", name, allocated)
		}
	}
}

func TestParseALPN(t *testing.T) {
	type parsed struct {
		version int
		cluster string
	}
	for in, want := range map[string]parsed{
		"muster/2/orders":        {2, "orders"},
		"muster/2/a/b c":         {2, "a/b c"},
		"muster/1/call/orders":   {1, ""},
		"muster/3/whatever":      {3, ""},
		"muster/7":               {7, ""},
		alpn(wireVersion, "new"): {wireVersion, "new"},
	} {
		if version, cluster, ok := parseALPN(in); !ok || (parsed{version, cluster}) != want {
			t.Errorf("parseALPN(%q) = %d, %q, %v; want %+v", in, version, cluster, ok, want)
		}
	}
	for _, in := range []string{"", "h2", "muster/", "muster/x/orders", "muster/02/orders", "muster/300/a/b", "muster/2", "muster/2/", "muster/2/a\nb"} {
		if version, cluster, ok := parseALPN(in); ok {
			t.Errorf("parseALPN(%q) = %d, %q, want no", in, version, cluster)
		}
	}
}

func TestReadFrame(t *testing.T) {
	big := bytes.Repeat([]byte{7}, maxFrame)
	in := appendFrame(appendFrame(appendFrame(nil, []byte("abc")), nil), big)
	r := iotest.HalfReader(bytes.NewReader(in))
	for _, want := range [][]byte{[]byte("abc"), nil, big} {
		got, err := readFrame(r, maxFrame)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("readFrame = %d bytes, %v; want %d", len(got), err, len(want))
		}
	}
	if _, err := readFrame(r, maxFrame); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	if _, err := readFrame(strings.NewReader("\x00\x01\x00\x01x"), maxFrame); !errors.Is(err, errFrame) {
		t.Errorf("oversized frame: %v, want errFrame", err)
	}
	for _, cut := range []string{"\x00\x00", "\x00\x00\x00\x05", "\x00\x00\x00\x05abc"} {
		if _, err := readFrame(strings.NewReader(cut), maxFrame); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("frame cut to %q: %v, want io.ErrUnexpectedEOF", cut, err)
		}
	}
}

// FuzzHello holds that a hello is read to its end and no further, that what was read is written the
// same way, and that whatever else a later build adds to it changes nothing.
func FuzzHello(f *testing.F) {
	full := ask("raft")
	full.to, full.peer.Addr, full.peer.Features = "abc", mustAddrPort("10.0.0.5:7946"), []string{"mux", "zstd"}
	f.Add(ask("raft").append(nil))
	f.Add(full.append(nil))
	f.Add([]byte(encode("\x01\x06orders\x02\x04call\x03\x01n\x04\x01i\xff\x03new")))
	f.Add([]byte("MSTR\x03"))
	f.Add([]byte("MSTR\x02\xff\xff"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		h, err := readHello(r)
		read := in[:len(in)-r.Len()]
		if len(read) > helloHead+maxHello {
			t.Fatalf("read %d bytes", len(read))
		}
		if err != nil || h.version != wireVersion {
			if !reflect.DeepEqual(h, hello{version: h.version}) {
				t.Fatalf("%v, and yet %+v", err, h)
			}
			return
		}
		if length := int(binary.BigEndian.Uint16(read[helloHead-2:])); len(read) != helloHead+length {
			t.Fatalf("read %d bytes of a hello of %d", len(read), helloHead+length)
		}
		p := h.peer
		if len(h.cluster) > MaxCluster || len(p.Protocol) > MaxProtocol || len(p.NodeID) > MaxNodeID ||
			len(p.InstanceID) > MaxInstanceID || len(h.to) > MaxInstanceID || len(p.Features) > MaxFeatures {
			t.Fatalf("too long: %+v", h)
		}
		written := h.append(nil)
		again, err := readHello(bytes.NewReader(written))
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v is written %q, which is read as %+v, %v", h, written, again, err)
		}
		later, err := parseHello(append(written[helloHead:], "\x08\x01x\xfe\x00"...))
		if err != nil || !reflect.DeepEqual(later, h) {
			t.Fatalf("with more fields it is %+v, %v", later, err)
		}
		if version, cluster, ok := parseALPN(alpn(wireVersion, h.cluster)); !ok || version != wireVersion || cluster != h.cluster {
			t.Fatalf("cluster %q comes back from ALPN as %q, %v", h.cluster, cluster, ok)
		}
	})
}

// FuzzAnswer holds that an answer is read no further than it goes.
func FuzzAnswer(f *testing.F) {
	f.Add(append([]byte{byte(statusAccepted)}, ask("raft").append(nil)...))
	f.Add([]byte{byte(statusBusy)})
	f.Add([]byte("HTTP/1.1 400"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, there, err := readAnswer(iotest.OneByteReader(bytes.NewReader(in)))
		if err == nil && !s.introduces() && !reflect.DeepEqual(there, hello{}) {
			t.Fatalf("answer %d introduces %+v", s, there)
		}
		if err == nil && s.introduces() && there.version == wireVersion {
			if want, err := readHello(bytes.NewReader(in[1:])); err != nil || !reflect.DeepEqual(want, there) {
				t.Fatalf("%+v, want %+v, %v", there, want, err)
			}
		}
	})
}

func FuzzALPN(f *testing.F) {
	f.Add("muster/2/orders")
	f.Add("muster/3/x")
	f.Add("h2")
	f.Fuzz(func(t *testing.T, in string) {
		version, cluster, ok := parseALPN(in)
		if ok && version == wireVersion && alpn(version, cluster) != in {
			t.Fatalf("parseALPN(%q) = %d, %q, which is written %q", in, version, cluster, alpn(version, cluster))
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, nil), []byte("packet")))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		for {
			at := len(in) - r.Len()
			b, err := readFrame(r, 1024)
			if err != nil {
				return
			}
			if read := in[at : len(in)-r.Len()]; len(b) > 1024 || !bytes.Equal(appendFrame(nil, b), read) {
				t.Fatalf("read %x as a frame of %x", read, b)
			}
		}
	})
}
