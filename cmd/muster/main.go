// Command muster runs and asks the nodes of a cluster. See muster --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/musterhq/muster/internal/supervise"
	// For the schedules of jobs, on hosts that have no zone data.
	_ "time/tzdata"

	// The providers that can be configured.
	_ "github.com/musterhq/muster/providers/consul"
	_ "github.com/musterhq/muster/providers/etcd"
	_ "github.com/musterhq/muster/providers/static"
)

func main() { os.Exit(mainStatus()) }

func mainStatus() int {
	if status, is := supervise.Main(); is {
		return status // of a process that muster while-master has started
	}
	// The first signal asks the command to stop. The second one is the system's
	// again, and ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}
