// Command http is a program whose nodes speak HTTP with each other over the one port of Muster.
// The host of a URL is the id of a node, or master. Start it in three terminals:
//
//	go run ./examples/http 127.0.0.1:7961
//	go run ./examples/http 127.0.0.1:7962
//	go run ./examples/http 127.0.0.1:7963
//
// Each asks the master, once a second, which node it is. With the argument alone there is no
// cluster, and the same code runs:
//
//	go run ./examples/http alone
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/providers/static"
)

// http2 is HTTP/2 without TLS of its own: the port has that, if it is configured. With the default
// windows one request body that nobody reads would stop all requests of its connection.
func http2() (*http.Protocols, *http.HTTP2Config) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &protocols, &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 20, MaxReceiveBufferPerStream: 256 << 10}
}

// serve answers the requests of the members, until the node ends.
func serve(n *node.Node, handler http.Handler) error {
	listener, err := n.Listen("http")
	if err != nil {
		return err
	}
	protocols, config := http2()
	return (&http.Server{Handler: handler, Protocols: protocols, HTTP2: config}).Serve(listener)
}

// client returns a client for http://NODE-ID/ and http://master/. A request to the master goes to
// the node that is known as the master when its connection is made.
func client(n *node.Node) *http.Client {
	protocols, config := http2()
	return &http.Client{Transport: &http.Transport{
		Protocols: protocols, HTTP2: config,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(addr)
			master, _ := n.Master()
			for _, m := range n.Members() {
				if m.NodeID == host || host == "master" && m.InstanceID == master.InstanceID {
					return n.Dial(ctx, "http", m)
				}
			}
			return nil, fmt.Errorf("no member is %s", host)
		},
	}}
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: http HOST:PORT, one of 127.0.0.1:7961, :7962 and :7963; or http alone")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addr string) error {
	config := node.Config{Alone: true}
	if addr != "alone" {
		peers := []string{"127.0.0.1:7961", "127.0.0.1:7962", "127.0.0.1:7963"}
		registry, err := discovery.Open("static", &static.Config{Peers: peers}, discovery.Options{})
		if err != nil {
			return err
		}
		defer registry.Close()
		config = node.Config{Cluster: "http", NodeID: addr, Bind: addr, Registries: []*discovery.Registry{registry}}
	}
	n, err := node.Start(ctx, config)
	if err != nil {
		return err
	}
	defer n.Leave(context.Background())
	go serve(n, who(n))
	c := client(n)
	defer c.CloseIdleConnections()
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-tick.C:
			answer, err := get(ctx, c, "http://master/")
			fmt.Println(answer, err)
		case <-ctx.Done():
			return nil
		}
	}
}

// who says which node answers.
func who(n *node.Node) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "node %s, master: %v", n.ID(), n.IsMaster())
	})
}

func get(ctx context.Context, c *http.Client, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := c.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}
