// Command worker is the program that the tests of faults run on every host: a node, as
// an agent runs it, and an application that does what a master does, which is to write
// to the fenced register with its term. It records all that it did and was told, for
// package checker.
//
// Built with the tag musterfault, its clock and the rules of its mastership can be
// broken by the environment; so can its authority, with or without the tag.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/config"
	"github.com/musterhq/muster/node/httpapi"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	file := flag.String("c", "", "YAML `file` of the configuration")
	historyFile := flag.String("history", "", "`file` to add the history of the node to")
	notesFile := flag.String("notes", "", "`file` to add what the application did to")
	register := flag.String("register", "", "`URL` of the fenced register")
	session := flag.Duration("session-ttl", 0, "how long registrations outlive the last renewal")
	linger := flag.Duration("linger", 100*time.Millisecond, "how long the application goes on after it was told to stop")
	flag.Parse()

	cfg, err := config.Load(config.Options{Path: *file, Env: []string{}})
	if err != nil {
		return err
	}
	log := cfg.Logger(os.Stderr)
	nodeConfig, closeRegistries, err := cfg.NodeConfig(log)
	if err != nil {
		return err
	}
	if err := closeRegistries(); err != nil { // they are opened anew, with a twist
		return err
	}
	nodeConfig.Registries = nil
	for _, name := range cfg.Providers() {
		registry, err := open(name, cfg.Provider[name], twist{sessionTTL: *session, authority: os.Getenv(authorityVariable)}, log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, registry.Close()) }()
		nodeConfig.Registries = append(nodeConfig.Registries, registry)
	}
	history, err := appendTo(*historyFile)
	if err != nil {
		return err
	}
	defer history.Close()
	notes, err := appendTo(*notesFile)
	if err != nil {
		return err
	}
	defer notes.Close()
	nodeConfig.History = history

	listener, err := net.Listen("tcp", cfg.HTTP.Addr)
	if err != nil {
		return err
	}
	n, err := node.Start(ctx, nodeConfig)
	if err != nil {
		return err
	}
	api := &http.Server{Handler: httpapi.New(n), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = api.Serve(listener) }()
	defer api.Close()

	app := &application{node: n, notes: notes, register: *register, linger: *linger, log: log}
	running, stopApp := context.WithCancel(context.WithoutCancel(ctx))
	app.start(running)
	var failed error
	select {
	case <-ctx.Done():
	case <-n.Done():
		failed = n.Err()
	}
	left := n.Leave(context.WithoutCancel(ctx))
	stopApp()
	app.wait()
	return errors.Join(failed, left)
}

func appendTo(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// open opens a provider as the configuration does, and twists it.
func open(name string, section any, t twist, log *slog.Logger) (*discovery.Registry, error) {
	p, err := driver.Lookup(name)
	if err != nil {
		return nil, err
	}
	d, err := p.Open(section)
	if err != nil {
		return nil, err
	}
	return discovery.New(name, t.driver(d), discovery.Options{Logger: log}), nil
}

// writeLine writes v as one line, with one write.
func writeLine(f *os.File, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return err
}
