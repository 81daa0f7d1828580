// Command worker is the program that the tests of faults run on every host: a node, as
// an agent runs it, and an application that does what a master does, which is to write
// to the fenced register with its term, and to run steps and jobs, and that calls the
// others and the master all the time. It records all that it did
// and was told, for package checker.
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
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "command" {
		command(os.Args[2])
	}
	if len(os.Args) == 3 && os.Args[1] == "parent" {
		parent(os.Args[2])
	}
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
	api := flag.String("api", "", "`HOST:PORT` of the HTTP API, which the test asks from another host")
	linger := flag.Duration("linger", 100*time.Millisecond, "how long the application goes on after it was told to stop")
	once := onceWork{}
	flag.IntVar(&once.steps, "steps", 2000, "how many steps there are")
	flag.DurationVar(&once.stepTime, "step", 500*time.Millisecond, "how long a step takes")
	flag.DurationVar(&once.jobTime, "job", 300*time.Millisecond, "how long a job takes")
	flag.DurationVar(&once.jobEvery, "job-every", time.Second, "how often a job is due")
	flag.BoolVar(&once.restartable, "restartable", true, "every other step may run again")
	flag.BoolVar(&once.decides, "decides", true, "decide about steps that failed, as an operator")
	flag.BoolVar(&once.deaf, "deaf", false, "steps and jobs go on when they are told to stop")
	flag.StringVar(&once.wall, "wall", "", "`file` of what is added to the wall clock of the jobs")
	flag.StringVar(&once.zone, "zone", "UTC", "time `zone` of -schedule")
	flag.StringVar(&once.schedule, "schedule", "", "`expression` of one more job")
	calls := callWork{}
	flag.DurationVar(&calls.every, "call-every", 250*time.Millisecond, "how often a member is called, and how often the master")
	flag.DurationVar(&calls.timeout, "call-timeout", 2*time.Second, "the deadline of most calls")
	flag.DurationVar(&calls.takes, "call-takes", 200*time.Millisecond, "how long some handlers take at most")
	hold := flag.String("hold", "", "`file` that says where to wait")
	flag.Parse()

	cfg, err := config.Load(config.Options{Path: *file, Env: []string{}})
	if err != nil {
		return err
	}
	log := cfg.Logger(os.Stderr)
	nodeConfig, closeRegistries, err := agent.NodeConfig(cfg, log)
	if err != nil {
		return err
	}
	if err := closeRegistries(); err != nil { // they are opened again, with what is different
		return err
	}
	log = cfg.NodeLogger(log)
	nodeConfig.Registries = nil
	for _, name := range cfg.Providers() {
		registry, err := open(name, cfg.Provider[name], faultDriver{sessionTTL: *session, authority: os.Getenv(authorityVariable)}, log)
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

	listener, err := net.Listen("tcp", *api)
	if err != nil {
		return err
	}
	n, err := node.Start(ctx, nodeConfig)
	if err != nil {
		return err
	}
	server := httpapi.NewServer(httpapi.NewWith(n, httpapi.Options{LocalNames: true, Operator: &httpapi.Operator{}}), log)
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	app := &application{node: n, notes: notes, register: *register, linger: *linger, log: log}
	running, stopApp := context.WithCancel(context.WithoutCancel(ctx))
	app.start(running)
	once.app, once.store, once.log = app, &heldStore{n.Store(), *hold}, log
	if err := once.start(running); err != nil {
		stopApp()
		app.wait()
		return err
	}
	calls.app = app
	if err := calls.start(running, log); err != nil {
		stopApp()
		app.wait()
		return err
	}
	go lie(running, n)
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

// open opens a provider as the configuration does, and changes the driver as f says.
func open(name string, section any, f faultDriver, log *slog.Logger) (*discovery.Registry, error) {
	p, err := driver.Lookup(name)
	if err != nil {
		return nil, err
	}
	d, err := p.Open(section)
	if err != nil {
		return nil, err
	}
	return discovery.New(name, f.driver(d), discovery.Options{Logger: log}), nil
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
