package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
)

// foundTimeout bounds a founding, which an agent gives up earlier.
const foundTimeout = 20 * time.Second

func newVotersCommand() *cobra.Command {
	cmd := newAskCommand(&cobra.Command{
		Use:   "voters",
		Short: "Show who votes on the master, who leads the voters, and how far behind each is",
		Long: `Show the voters of a static list, as the agent that is asked knows them: which of them
votes, which leads, how many entries of the leader's log each lacks, and what each
remembers of the cluster.`,
		Example: `  muster voters
  muster voters -o json | jq -r '.voters[] | select(.reached | not) | .addr'`,
	}, agentService, answerTo(httpapi.PathVoters, printVoters))
	cmd.AddCommand(newFoundCommand())
	return cmd
}

func newFoundCommand() *cobra.Command {
	flags := askFlags{service: agentService}
	var yes bool
	cmd := &cobra.Command{
		Use:   "found",
		Short: "Found the cluster although voters are gone for good",
		Long: `Found the cluster although some of the listed voters do not answer.

New voters found a cluster once all of the list have answered that they remember none. If
one is gone for good, this has the agent that is asked found the cluster with those that
answer, which must be a majority. It is done once: an agent that is started again before
that waits for all, as before.

What it may cost: if a voter that does not answer remembers a cluster, the records and the
terms of that cluster are given up. When the voter comes back, it takes no part and reports
that, until its node.data_dir is removed.

Without --yes nothing is changed, and what would be given up is printed.`,
		Example: `  muster voters found -c muster.yaml        # say what it would do
  muster voters found -c muster.yaml --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent, err := flags.agent()
			if err != nil {
				return err
			}
			return found(cmd.Context(), agent, yes, cmd.OutOrStdout())
		},
	}
	flags.addTo(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func found(ctx context.Context, a apiClient, yes bool, w io.Writer) error {
	var v httpapi.Voters
	if _, err := a.ask(ctx, httpapi.PathVoters, &v); err != nil {
		return err
	}
	var gone []string
	remembers := ""
	for _, voter := range v.Voters {
		switch {
		case voter.Listed && !voter.Reached:
			gone = append(gone, voter.Addr)
		case voter.State == "established" && (voter.Listed || voter.Self):
			remembers = voter.Addr
		}
	}
	if !yes {
		if err := printVoters(w, v); err != nil {
			return err
		}
		if remembers != "" {
			return fmt.Errorf("voter %s remembers a cluster, so that none would be founded", cell(remembers))
		}
		fmt.Fprintln(w)
		if len(gone) > 0 {
			fmt.Fprintf(w, "What %s may remember of a cluster, its records and its terms, is given up: once back, it takes no part before its node.data_dir is removed.\n", cell(strings.Join(gone, ", ")))
		}
		return errors.New("nothing was done; write --yes to found the cluster")
	}
	ctx, cancel := context.WithTimeout(ctx, foundTimeout)
	defer cancel()
	if _, err := a.send(ctx, http.MethodPost, httpapi.PathFoundVoters, &v); err != nil {
		return err
	}
	fmt.Fprintln(w, "the cluster is founded")
	return printVoters(w, v)
}

func printVoters(w io.Writer, v httpapi.Voters) error {
	t := newTable(w, "VOTER", "STATE", "VOTES", "LEADER", "SELF", "BEHIND", "TERM", "CLUSTER ID", "PROBLEM")
	for _, voter := range v.Voters {
		behind, term, problem := "", "", voter.Problem
		if voter.Behind != nil {
			behind = strconv.FormatUint(*voter.Behind, 10)
		}
		if voter.Term > 0 {
			term = strconv.FormatUint(voter.Term, 10)
		}
		if !voter.Listed {
			problem = strings.TrimSuffix("not listed; "+problem, "; ")
		}
		t.row(voter.Addr, voter.State, mark(voter.Votes), mark(voter.Leader), mark(voter.Self), behind, term, voter.ClusterID, problem)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if v.Warning != "" {
		fmt.Fprintf(w, "\nwarning: %s\n", cell(v.Warning))
	}
	return nil
}
