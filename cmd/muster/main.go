// Command muster runs and asks the nodes of a cluster. See muster --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	// The providers that can be configured.
	_ "github.com/musterhq/muster/providers/consul"
	_ "github.com/musterhq/muster/providers/etcd"
	_ "github.com/musterhq/muster/providers/static"
)

func main() { os.Exit(mainStatus()) }

func mainStatus() int {
	// The first signal asks the command to stop. The second one is the system's
	// again, and ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}
