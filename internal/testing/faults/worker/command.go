package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
)

// beatEvery is how often a command shows that it runs.
const beatEvery = 3 * time.Millisecond

// command is what muster while-master runs: it notes that it runs, until it is asked to end.
func command(file string) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	notes, err := appendTo(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "command:", err)
		os.Exit(1)
	}
	term, err := strconv.ParseUint(os.Getenv("MUSTER_RUN_TERM"), 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, "command: MUSTER_RUN_TERM:", err)
		os.Exit(1)
	}
	n := checker.Note{Kind: checker.Beat, InstanceID: rand.Text(), Term: term}
	tick := time.NewTicker(beatEvery)
	for {
		n.BootNS = now()
		if err := writeLine(notes, n); err != nil {
			os.Exit(1)
		}
		select {
		case <-asked:
			os.Exit(0)
		case <-tick.C:
		}
	}
}

// parent has a child be the command.
func parent(file string) {
	child := exec.Command(os.Args[0], "command", file)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "parent:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
