package loopback

import (
	"net"
	"runtime"
	"testing"
)

func TestPortIsGivenOnce(t *testing.T) {
	given := make(map[int]bool)
	for range 500 {
		port, err := Port()
		if err != nil {
			t.Fatal(err)
		}
		if given[port] {
			t.Fatalf("port %d is given twice", port)
		}
		given[port] = true
	}
	for port := range given {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			t.Errorf("port %d was given, but: %v", port, err)
			continue
		}
		l.Close()
	}
}

// A socket of this test is as one of another process.
func TestPortOfAnotherProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not every system has all of 127.0.0.0/8")
	}
	other, err := net.ListenUDP("udp4", &net.UDPAddr{IP: signs})
	if err != nil {
		t.Fatal(err)
	}
	port := other.LocalAddr().(*net.UDPAddr).Port
	if err := reserve(port); err == nil {
		t.Errorf("port %d is given although another process has it", port)
	}
	other.Close()
	if err := reserve(port); err != nil {
		t.Errorf("port %d is free, but: %v", port, err)
	}
}
