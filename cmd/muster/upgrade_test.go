package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/nodetest"
	"github.com/musterhq/muster/node/upgrade"
)

// serveAPI serves the API of a node as an agent on loopback does, and returns its address.
func serveAPI(t *testing.T, n *node.Node) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := httpapi.NewServer(httpapi.NewWith(n, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{}}), slog.New(slog.DiscardHandler))
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return listener.Addr().String()
}

// What a program does with package upgrade can be seen, waited for and decided by commands, at
// any node.
func TestUpgradeCommands(t *testing.T) {
	t.Parallel()
	cluster := nodetest.Start(t, 2)
	addr := serveAPI(t, cluster.Nodes()[1])
	ask := func(want int, args ...string) string {
		t.Helper()
		status, stdout, stderr := execute(t, append([]string{"upgrade", args[0], "--agent", addr}, args[1:]...)...)
		if status != want {
			t.Fatalf("%q: status %d, want %d: %s%s", args, status, want, stdout, stderr)
		}
		return stdout + stderr
	}
	contains := func(text string, wanted ...string) {
		t.Helper()
		for _, w := range wanted {
			if !strings.Contains(text, w) {
				t.Errorf("it lacks %q: %s", w, text)
			}
		}
	}
	contains(ask(statusDone, "status", "-o", "json"), "[]")
	contains(ask(statusFailed, "wait", "--timeout", "100ms", "schema", "1.2"), "schema 1.2 is not done", "no step of it has begun", "waited for ")
	contains(ask(statusFailed, "wait", "schema", "one"), `version "one"`, "1.2.0")
	contains(ask(statusFailed, "retry", "schema", "1.2"), "nothing is recorded of schema", "muster upgrade status")
	contains(ask(statusFailed, "resolve", "schema", "1.2"), "nothing is recorded of schema", "muster upgrade status", "--lost")
	contains(ask(statusDone, "status", "-o", "json"), "[]")

	var runs atomic.Int32
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	for _, n := range cluster.Nodes() {
		go func() {
			ended <- upgrade.Run(ctx, n, n.Store(), upgrade.Step{Name: "schema", Version: "1.2", Run: func(context.Context, node.Term) error {
				if runs.Add(1) == 1 {
					return errors.New("no space left")
				}
				return nil
			}})
		}()
	}
	defer func() { stop(); <-ended; <-ended }()
	contains(ask(statusFailed, "wait", "schema", "1.2"), "schema 1.2 failed on node", "no space left", "muster upgrade retry schema 1.2")
	contains(ask(statusDone, "status"), "schema", "failed", "no space left")
	contains(ask(statusFailed, "retry", "schema", "1.1"), "schema 1.1", "1.2 is failed")
	contains(ask(statusDone, "retry", "schema", "1.2"), "schema 1.2 may run again")
	wait.For(t, "the second run", func() bool { return runs.Load() == 2 })
	contains(ask(statusDone, "wait", "schema", "1.2"), "schema 1.2 is done")
	contains(ask(statusFailed, "resolve", "schema", "2"), "1.2 is done", "muster upgrade status", "--lost")
	if refused := ask(statusFailed, "resolve", "schema", "1.1"); strings.Contains(refused, "--lost") {
		t.Errorf("it offers what is refused as well: %s", refused)
	}
	contains(ask(statusFailed, "resolve", "--lost", "schema", "1.1"), "1.2 is done")
	contains(ask(statusFailed, "wait", "--timeout", "10ms", "schema", "1.9"), "not done")
	contains(ask(statusDone, "resolve", "--lost", "schema", "2"), "schema 2 is recorded as done")
	contains(ask(statusDone, "wait", "schema", "1.9"), "schema 1.9 is done")
	contains(ask(statusDone, "status"), "2", "done")
}
