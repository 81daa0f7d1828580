package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/nodetest"
)

// Nobody who has shown no certificate learns what the doctor finds, and the services of the agent
// itself are no tags of the node.
func TestDoctorWantsMutualTLS(t *testing.T) {
	n := nodetest.Start(t, 1).Master()
	asked := false
	c, err := openCalls(n, new(config.Config), func(context.Context) (any, error) { asked = true; return nil, nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	replies, err := c.call(t.Context(), httpapi.Call{Method: MethodDoctor, Request: []byte("{}"), To: httpapi.CallAll})
	if err != nil || len(replies) != 1 || replies[0].State != httpapi.CallFailed || replies[0].Code != codes.FailedPrecondition.String() || asked ||
		!strings.Contains(replies[0].Error, "without mutual TLS") {
		t.Errorf("%+v, %v", replies, err)
	}
	if tags := n.View().Self().Tags; len(tags) != 0 {
		t.Errorf("the tags of a node that serves no program: %q", tags)
	}
}

// What is said of a call tells apart what failed, what has not run, and what may have.
func TestReplyOf(t *testing.T) {
	for want, errs := range map[string][]error{
		httpapi.CallAnswered: {nil},
		httpapi.CallFailed:   {status.Error(codes.NotFound, "x"), status.Error(codes.Unknown, "x"), status.Error(codes.Internal, "x")},
		httpapi.CallNotRun:   {&call.Error{Err: call.ErrNotReady}, &call.Error{Err: call.ErrNoHandler}, &call.Error{Err: call.ErrLeft}},
		httpapi.CallUnknown: {
			&call.Error{Err: call.ErrLeft, MayHaveRun: true}, &call.Error{Err: context.DeadlineExceeded, MayHaveRun: true},
			status.Error(codes.Unavailable, "the program's connection broke"), status.Error(codes.DeadlineExceeded, "x"),
		},
	} {
		for _, err := range errs {
			if r := replyOf([]byte("1"), err); r.State != want || (r.Error != "") != (err != nil) {
				t.Errorf("%v: %+v, want %s", err, r, want)
			}
		}
	}
}

// The connections of operators end with the agent, and with the client.
func TestConnectionsEnd(t *testing.T) {
	n := nodetest.Start(t, 1).Master()
	c, err := openCalls(n, new(config.Config), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect := func() (client net.Conn, ended chan struct{}) {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		served, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ended = make(chan struct{})
		go func() {
			defer close(ended)
			c.connect(httpapi.CallMaster, served)
		}()
		_, _ = io.WriteString(client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") // it is served
		return client, ended
	}
	client, ended := connect()
	client.Close()
	<-ended
	client, ended = connect()
	c.close()
	<-ended
	_ = client.SetReadDeadline(time.Now().Add(wait.Patience))
	if _, err := io.Copy(io.Discard, client); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a connection is open after the agent's end")
	}
	_, ended = connect()
	<-ended
}
