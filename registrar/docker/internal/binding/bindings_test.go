package binding

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestBestOfBindings(t *testing.T) {
	host := netip.MustParseAddr("192.168.1.102")
	for _, test := range []struct {
		bindings   string
		configured netip.Addr
		host       netip.Addr
		want       string
	}{
		{"127.0.0.1:8000 0.0.0.0:8001", netip.Addr{}, host, "0.0.0.0:8001"},
		{"127.0.0.1:8000 192.168.1.5:8001", netip.Addr{}, host, "192.168.1.5:8001"},
		{"169.254.0.1:8000 0.0.0.0:8001", netip.Addr{}, host, "0.0.0.0:8001"},
		{"[fe80::1]:8000 [::]:8001", netip.Addr{}, host, "[::]:8001"},
		{"[::1]:8000 [2001:db8::1]:8001", netip.Addr{}, host, "[2001:db8::1]:8001"},
		{"127.0.0.1:8000 0.0.0.0:8001", netip.Addr{}, netip.Addr{}, "0.0.0.0:8001"},
		{"127.0.0.1:8000 192.168.1.5:8001", host, netip.Addr{}, "192.168.1.5:8001"},
		{"10.0.0.1:8000 0.0.0.0:8001", host, netip.Addr{}, "0.0.0.0:8001"},
		{"10.0.0.1:8000 0.0.0.0:8001", netip.Addr{}, host, "10.0.0.1:8000"},
		{"10.0.0.1:8000 192.168.1.102:8001 0.0.0.0:8002", netip.Addr{}, host, "192.168.1.102:8001"},
		{"10.0.0.1:8000 192.168.1.102:8001", netip.MustParseAddr("10.0.0.1"), host, "10.0.0.1:8000"},
		{"0.0.0.0:8002 0.0.0.0:8001", netip.Addr{}, host, "0.0.0.0:8001"},
	} {
		var bindings []netip.AddrPort
		for text := range strings.FieldsSeq(test.bindings) {
			bindings = append(bindings, netip.MustParseAddrPort(text))
		}
		for range 2 {
			if have := Best(bindings, test.configured, test.host).String(); have != test.want {
				t.Errorf("best(%v, %v, %v) = %s; want %s", bindings, test.configured, test.host, have, test.want)
			}
			slices.Reverse(bindings)
		}
	}
}
