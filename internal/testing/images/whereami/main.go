// Command whereami is for the tests of package docker, which run it in containers.
//
//	whereami wait        waits until it is ended
//	whereami detect      prints what the detector finds, and answers at port 7946
//	whereami dial ADDR   prints what answers there
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker"
	"github.com/musterhq/muster/registrar/docker/engine"
)

// Found is printed as one line of JSON.
type Found struct {
	Addr, Source  string
	Error         string
	NotApplicable bool
	Self          string // id of the container
	How           string // it is known
	Milliseconds  float64
}

func main() {
	began := time.Now()
	if err := run(began, os.Args[1:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func run(began time.Time, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch {
	case len(args) == 1 && args[0] == "wait":
		<-ctx.Done()
		return nil
	case len(args) == 1 && args[0] == "detect":
		return detect(ctx, began)
	case len(args) == 2 && args[0] == "dial":
		return dial(args[1])
	}
	return errors.New("usage: whereami wait | detect | dial ADDR")
}

func detect(ctx context.Context, began time.Time) error {
	l, err := net.Listen("tcp", ":7946")
	if err != nil {
		return err
	}
	engine, err := engine.New(engine.Config{})
	if err != nil {
		return err
	}
	defer engine.Close()
	var o docker.DetectorOptions
	o.Engine = engine
	if ip := os.Getenv("HOST_IP"); ip != "" {
		o.HostIP = netip.MustParseAddr(ip)
	}
	var f Found
	a, err := docker.NewDetector(o).Detect(ctx, l.Addr().(*net.TCPAddr).AddrPort())
	f.Milliseconds = float64(time.Since(began).Microseconds()) / 1000
	f.Addr, f.Source = a.Addr, a.Source
	if err != nil {
		f.Error, f.NotApplicable = err.Error(), errors.Is(err, advertise.ErrNotApplicable)
	}
	c, how, err := docker.Self(ctx, engine)
	f.Self, f.How = c.ID, how
	if err != nil {
		f.How = err.Error()
	}
	line, err := json.Marshal(f)
	if err != nil {
		return err
	}
	fmt.Println(string(line))

	go func() { <-ctx.Done(); l.Close() }()
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil // told to end
		}
		fmt.Fprint(conn, c.ID)
		conn.Close()
	}
}

func dial(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	b, err := io.ReadAll(conn)
	if err == nil {
		fmt.Println(string(b))
	}
	return err
}
