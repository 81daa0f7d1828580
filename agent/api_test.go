package agent

import (
	"net"
	"testing"
)

func TestListenedAddr(t *testing.T) {
	for configured, host := range map[string]string{"0.0.0.0:0": "0.0.0.0", ":0": "", "localhost:0": "localhost"} {
		l, err := net.Listen("tcp", configured)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		if got := listenedAddr(configured, l); got != net.JoinHostPort(host, port) {
			t.Errorf("%s: %s, and it listens on %s", configured, got, l.Addr())
		}
		l.Close()
	}
}
