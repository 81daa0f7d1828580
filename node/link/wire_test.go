package link

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// What is here travels between versions of Muster. It may be added to with a new
// version number, and never changes.
func TestWireLayoutIsGolden(t *testing.T) {
	h := hello{wireVersion, "raft", "orders"}
	for _, c := range []struct{ name, got, want string }{
		{"ALPN", h.alpn(), "muster/1/raft/orders"},
		{"preface", hex.EncodeToString(h.preface()),
			hex.EncodeToString([]byte("MSTR")) + "01" + "04" + hex.EncodeToString([]byte("raft")) + "06" + hex.EncodeToString([]byte("orders"))},
		{"answer to TLS where there is none", hex.EncodeToString(plainHere), hex.EncodeToString([]byte("MSTR")) + "01"},
		{"frame", hex.EncodeToString(appendFrame(nil, []byte("abc"))), "00000003616263"},
		{"request for a sign of life", hex.EncodeToString(ping), "00000000"},
		{"sign of life", hex.EncodeToString(pong[:]), "01"},
		{"opening", string(openingFrame(mustAddrPort("10.0.0.5:7946"))), "\x00\x00\x00\x0d10.0.0.5:7946"},
		{"opening, IPv6", string(openingFrame(mustAddrPort("[fd00::1]:7946"))), "\x00\x00\x00\x0e[fd00::1]:7946"},
		{"protocol of packets", protocolPackets, "gossip"},
		{"protocol of streams", protocolStreams, "state"},
		{"answers", hex.EncodeToString([]byte{byte(statusAccepted), byte(statusVersion), byte(statusCluster),
			byte(statusProtocol), byte(statusBusy), byte(statusTLS)}), "010203040506"},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	if maxFrame != 65536 {
		t.Errorf("a frame has at most %d bytes, want 65536", maxFrame)
	}
	longest := hello{255, strings.Repeat("p", MaxProtocol), strings.Repeat("c", MaxCluster)}
	if n := len(longest.alpn()); n > 255 {
		t.Errorf("the longest ALPN protocol has %d bytes; TLS allows 255", n)
	}
}

func TestReadPreface(t *testing.T) {
	whole := hello{wireVersion, "call", "orders"}.preface()
	for _, c := range []struct {
		name, in string
		want     hello
		err      error
		rest     int
	}{
		{"whole", string(whole) + "rest", hello{1, "call", "orders"}, nil, 4},
		{"another version, of which nothing more is known", "MSTR\x02\xff\xff", hello{version: 2}, nil, 2},
		{"nothing", "", hello{}, io.EOF, 0},
		{"an end within the magic", "MST", hello{}, io.ErrUnexpectedEOF, 0},
		{"an end within the protocol", string(whole[:8]), hello{}, io.ErrUnexpectedEOF, 0},
		{"an end within the cluster", string(whole[:len(whole)-1]), hello{}, io.ErrUnexpectedEOF, 0},
		{"HTTP", "GET / HTTP/1.1\r\n", hello{}, errMagic, 11},
		{"short garbage", "hi", hello{}, errMagic, 0},
		{"TLS", "\x16\x03\x01\x02\x00\x01", hello{}, errTLSSent, 1},
		{"no protocol", "MSTR\x01\x00\x06orders", hello{}, errMagic, 7},
		{"protocol with a slash", "MSTR\x01\x03a/b\x06orders", hello{}, errMagic, 7},
		{"no cluster", "MSTR\x01\x04call\x00", hello{}, errMagic, 0},
		{"cluster that is too long", "MSTR\x01\x04call\xff" + strings.Repeat("x", 255), hello{}, errMagic, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := strings.NewReader(c.in)
			got, err := readPreface(iotest.OneByteReader(r))
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("readPreface = %+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
			if r.Len() != c.rest {
				t.Errorf("left %d bytes unread, want %d", r.Len(), c.rest)
			}
		})
	}
}

func TestParseALPN(t *testing.T) {
	for in, want := range map[string]hello{
		"muster/1/call/orders": {1, "call", "orders"},
		"muster/1/call/a/b c":  {1, "call", "a/b c"},
		"muster/2/whatever":    {version: 2},
		"muster/7":             {version: 7},
	} {
		if got, ok := parseALPN(in); !ok || got != want {
			t.Errorf("parseALPN(%q) = %+v, %v; want %+v", in, got, ok, want)
		}
	}
	for _, in := range []string{"", "h2", "muster/", "muster/x/call/orders", "muster/01/call/orders", "muster/300/a/b",
		"muster/1/call", "muster/1//orders", "muster/1/call/", "muster/1/CALL/orders"} {
		if got, ok := parseALPN(in); ok {
			t.Errorf("parseALPN(%q) = %+v, want no", in, got)
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

func TestReadOpening(t *testing.T) {
	for _, bad := range []string{"", "localhost:7946", "0.0.0.0:7946", "[::]:7946", "10.0.0.5:0", "10.0.0.5", "224.0.0.1:7946",
		strings.Repeat("1", maxOpening+1)} {
		if a, err := readOpening(bytes.NewReader(appendFrame(nil, []byte(bad)))); !errors.Is(err, errFrame) {
			t.Errorf("readOpening(%q) = %v, %v; want errFrame", bad, a, err)
		}
	}
}

func FuzzPreface(f *testing.F) {
	f.Add(hello{wireVersion, "raft", "orders"}.preface())
	f.Add([]byte("MSTR\x02"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		h, err := readPreface(r)
		if err != nil {
			return
		}
		if h.version != wireVersion {
			return
		}
		if read := in[:len(in)-r.Len()]; !bytes.Equal(read, h.preface()) {
			t.Fatalf("read %q as %+v, which is written %q", read, h, h.preface())
		}
		if again, ok := parseALPN(h.alpn()); !ok || again != h {
			t.Fatalf("%+v comes back from ALPN %q as %+v, %v", h, h.alpn(), again, ok)
		}
	})
}

func FuzzALPN(f *testing.F) {
	f.Add("muster/1/raft/orders")
	f.Add("muster/2/x")
	f.Add("h2")
	f.Fuzz(func(t *testing.T, in string) {
		h, ok := parseALPN(in)
		if ok && h.version == wireVersion && h.alpn() != in {
			t.Fatalf("parseALPN(%q) = %+v, which is written %q", in, h, h.alpn())
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(openingFrame(mustAddrPort("127.0.0.1:1")), nil), []byte("packet")))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		if a, err := readOpening(r); err == nil {
			if err := validateAdvertise(a); err != nil {
				t.Fatal(err)
			}
		}
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
