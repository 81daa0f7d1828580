package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
)

// operateTimeout bounds what an agent is asked to do, above what the agent allows for it. The time
// in which the master's work may end comes on top, twice.
const operateTimeout = 25 * time.Second

func newResignCommand() *cobra.Command {
	return newOperateCommand(&cobra.Command{
		Use:   "resign",
		Short: "Have an agent give mastership up, so that another node is elected",
		Long: `Have the agent that is asked give mastership up in good order. Its node stays a member, and
may be master again later. If it is not master, the error names the master. This waits until
the work of the master has ended, at most for mastership.drain_timeout and some seconds.`,
		Example: `  muster resign
  muster resign --agent https://10.0.0.5:7980 --ca-file ca.pem --token-file token`,
	}, httpapi.PathResign, func(w io.Writer, r httpapi.Resigned) {
		fmt.Fprintf(w, "node %s has given mastership up, of term %d\n", cell(r.NodeID), r.Term)
	})
}

func newLeaveCommand() *cobra.Command {
	return newOperateCommand(&cobra.Command{
		Use:   "leave",
		Short: "Have an agent leave the cluster in good order and end",
		Long: `Have the agent that is asked leave: it gives mastership up, removes its registration,
tells the members that it leaves, and ends with status 0, as on SIGTERM. Its supervisor may
start it again. systemd does so with the unit muster.service: use systemctl stop muster there.`,
		Example: `  muster leave
  muster leave -c /etc/muster/muster.yaml`,
	}, httpapi.PathLeave, func(w io.Writer, l httpapi.Left) { fmt.Fprintf(w, "node %s has left\n", cell(l.NodeID)) })
}

func newReloadCommand() *cobra.Command {
	return newOperateCommand(&cobra.Command{
		Use:   "reload",
		Short: "Have an agent read its configuration again",
		Long: `Have the agent that is asked read its configuration again, as on SIGHUP. It applies log.level
and the token of the API at once. If another key has changed, the agent leaves in good order
and ends with status 3, so that its supervisor starts it again. If the configuration is
wrong, nothing changes.`,
		Example: `  muster reload
  muster config check -c /etc/muster/muster.yaml && muster reload -c /etc/muster/muster.yaml`,
	}, httpapi.PathReload, func(w io.Writer, r httpapi.Reloaded) {
		switch {
		case len(r.Restart) > 0:
			fmt.Fprintf(w, "the agent leaves and ends with status 3, to be started again, for %s\n", cell(strings.Join(r.Restart, ", ")))
		case len(r.Applied) > 0:
			fmt.Fprintf(w, "in force: %s\n", cell(strings.Join(r.Applied, ", ")))
		default:
			fmt.Fprintln(w, "nothing has changed")
		}
	})
}

// newOperateCommand completes a command that has an agent do something, whose answer is a T.
func newOperateCommand[T any](cmd *cobra.Command, path string, print func(io.Writer, T)) *cobra.Command {
	flags := askFlags{service: agentService}
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		agent, err := flags.agent()
		if err != nil {
			return err
		}
		var status httpapi.Status
		if _, err := agent.ask(cmd.Context(), httpapi.PathStatus, &status); err != nil {
			return err
		}
		drain := time.Duration(status.Mastership.DrainTimeoutNS)
		ctx, cancel := context.WithTimeout(cmd.Context(), operateTimeout+2*drain)
		defer cancel()
		var answer T
		if _, err := agent.send(ctx, http.MethodPost, path, &answer); err != nil {
			return err
		}
		print(cmd.OutOrStdout(), answer)
		return nil
	}
	flags.addTo(cmd)
	return cmd
}
