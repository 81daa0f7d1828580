// Command twoports is a container for tests: it answers on TCP ports 80 and 443 and UDP
// port 53 until it is asked to end, with the status in $STATUS.
package main

import (
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	for _, port := range []string{":80", ":443"} {
		l, err := net.Listen("tcp", port)
		if err != nil {
			log.Fatal(err)
		}
		go serve(l)
	}
	udp, err := net.ListenPacket("udp", ":53")
	if err != nil {
		log.Fatal(err)
	}
	go answer(udp)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	status, _ := strconv.Atoi(os.Getenv("STATUS")) // 0 if there is none
	os.Exit(status)
}

func serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte("hello\n"))
		_ = conn.Close()
	}
}

func answer(udp net.PacketConn) {
	b := make([]byte, 512)
	for {
		n, from, err := udp.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = udp.WriteTo(b[:n], from)
	}
}
