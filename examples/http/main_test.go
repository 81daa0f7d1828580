package main

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/nodetest"
)

// Each node reaches each other, itself and the master, and requests whose bodies nobody reads do
// not keep others from being answered.
func TestHTTPBetweenNodes(t *testing.T) {
	cluster := nodetest.Start(t, 3)
	master := cluster.Master()
	release := make(chan struct{})
	for _, n := range cluster.Nodes() {
		mux := http.NewServeMux()
		mux.Handle("/", who(n))
		mux.HandleFunc("POST /unread", func(http.ResponseWriter, *http.Request) { <-release })
		go serve(n, mux)
	}
	n := cluster.Nodes()[0]
	c := client(n)
	defer c.CloseIdleConnections()
	ask := func(host, want string) {
		t.Helper()
		wait.For(t, host+" answers", func() bool {
			answer, err := get(t.Context(), c, "http://"+host+"/")
			return err == nil && answer == want
		})
	}
	for _, other := range cluster.Nodes() {
		want := "node " + other.ID() + ", master: false"
		if other == master {
			want = "node " + other.ID() + ", master: true"
			ask("master", want)
		}
		ask(other.ID(), want)
	}
	if _, err := get(t.Context(), c, "http://nobody/"); err == nil {
		t.Error("nobody answers")
	}

	to := cluster.Nodes()[1]
	const unread = 16
	done := make(chan struct{}, unread)
	for range unread {
		go func() {
			response, err := c.Post("http://"+to.ID()+"/unread", "application/octet-stream", io.LimitReader(zeros{}, 4<<20))
			if err == nil {
				response.Body.Close()
			}
			done <- struct{}{}
		}()
	}
	for range 20 {
		began := time.Now()
		if answer, err := get(t.Context(), c, "http://"+to.ID()+"/"); err != nil {
			t.Fatalf("beside requests that are not read: %q after %v: %v", answer, time.Since(began), err)
		}
	}
	close(release)
	for range unread {
		<-done
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// The same code serves a program that is in no cluster.
func TestHTTPAlone(t *testing.T) {
	n, err := node.Start(t.Context(), node.Config{Alone: true})
	if err != nil {
		t.Fatal(err)
	}
	defer wait.Leave(t, n.Leave)
	go serve(n, who(n))
	c := client(n)
	defer c.CloseIdleConnections()
	wait.For(t, "it answers itself", func() bool {
		answer, err := get(t.Context(), c, "http://master/")
		return err == nil && answer == "node alone, master: true"
	})
}
