package link_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/musterhq/muster/node/internal/link"
)

func Example() {
	server, err := link.Listen(link.Config{Bind: "127.0.0.1:0", Cluster: "orders", NodeID: "a", InstanceID: "a1"})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	ln, err := server.Listen("greet")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "welcome to the cluster")
	}()

	client, err := link.Listen(link.Config{Bind: "127.0.0.1:0", Cluster: "orders", NodeID: "b", InstanceID: "b1"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	conn, err := client.Dial(context.Background(), "greet", server.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, says node %s\n", text, link.PeerOf(conn).NodeID)
	// Output: welcome to the cluster, says node a
}
