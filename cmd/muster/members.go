package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
)

func newMembersCommand() *cobra.Command {
	return newAskCommand(&cobra.Command{
		Use:   "members",
		Short: "List the members of the cluster, as an agent sees them",
		Long: `List the members of the cluster, as the agent that is asked sees them: the star
under MASTER is the one that it knows as master, the star under SELF is itself. A node
that has left or died is not listed any more; muster view shows it for some minutes.`,
		Example: `  muster members
  muster members --agent https://10.0.0.5:7980 --ca-file ca.pem --token-file token
  muster members -o json | jq -r '.[] | select(.master) | .addr'`,
	}, agentService, answerTo(httpapi.PathMembers, printMembers))
}

func newMasterCommand() *cobra.Command {
	return newAskCommand(&cobra.Command{
		Use:   "master",
		Short: "Show the master of the cluster and its term",
		Long: `Show the master of the cluster, as the agent that is asked knows it, with its term
and the addresses of its application. If there is no master, the status is 1 and
the reason is printed.`,
		Example: `  muster master
  muster master -o json | jq -r .app_addrs.http`,
	}, agentService, answerTo(httpapi.PathMaster, printMaster))
}

func newViewCommand() *cobra.Command {
	return newAskCommand(&cobra.Command{
		Use:   "view",
		Short: "Show what an agent knows: members, departed ones, term, majority",
		Long: `Show what the agent that is asked knows of the cluster: its id, the last term,
whether the agent sees a majority, the members, and those that left or died a short
while ago.`,
		Example: `  muster view
  muster view --agent 127.0.0.1:7981 -o json`,
	}, agentService, answerTo(httpapi.PathView, printView))
}

// question is one of a path, and what prints its answer.
type question func(ctx context.Context, a apiClient) (answer json.RawMessage, print func(io.Writer) error, err error)

// answerTo is the question of path, whose answer is a T.
func answerTo[T any](path string, print func(io.Writer, T) error) question {
	return func(ctx context.Context, a apiClient) (json.RawMessage, func(io.Writer) error, error) {
		var value T
		answer, err := a.ask(ctx, path, &value)
		return answer, func(w io.Writer) error { return print(w, value) }, err
	}
}

// newAskCommand completes a command that asks an agent or a registrar, and prints the
// answer to the first of the questions that is one for the program that answers.
func newAskCommand(cmd *cobra.Command, of service, questions ...question) *cobra.Command {
	flags := askFlags{service: of}
	var output string
	if cmd.Args == nil {
		cmd.Args = cobra.NoArgs
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkOutput(output, "table", "json"); err != nil {
			return err
		}
		agent, err := flags.agent()
		if err != nil {
			return err
		}
		var answer json.RawMessage
		var print func(io.Writer) error
		for _, ask := range questions {
			if answer, print, err = ask(cmd.Context(), agent); !errors.Is(err, errNoSuchPath) {
				break
			}
		}
		switch {
		case errors.Is(err, errNoSuchPath):
			return fmt.Errorf("what answers at %s is no %s: %w; name the %s with --agent", agent.origin(), of.name, err, of.name)
		case err != nil:
			return err
		case output == "json":
			return printJSON(cmd.OutOrStdout(), answer)
		}
		return print(cmd.OutOrStdout())
	}
	flags.addTo(cmd)
	addOutputFlag(cmd, &output, "table", "json")
	return cmd
}

func printMembers(w io.Writer, members []httpapi.Member) error {
	t := newTable(w, "NODE", "INSTANCE", "ADDRESS", "STATE", "MASTER", "SELF", "ZONE", "TAGS")
	for _, m := range members {
		t.row(m.NodeID, short(m.InstanceID), m.Addr, m.State, mark(m.Master), mark(m.Self), m.Zone, strings.Join(m.Tags, ","))
	}
	return t.flush()
}

func printMaster(w io.Writer, m httpapi.Master) error {
	t := newTable(w, "NODE", "INSTANCE", "ADDRESS", "TERM", "CLUSTER ID", "APP ADDRESSES")
	t.row(m.NodeID, short(m.InstanceID), m.Addr, strconv.FormatUint(m.Term, 10), m.ClusterID, pairs(m.AppAddrs))
	return t.flush()
}

func printView(w io.Writer, v httpapi.View) error {
	majority := "a majority is seen"
	if !v.Majority {
		majority = "no majority is seen"
	}
	fmt.Fprintf(w, "cluster %s, term %d, view %d, %s\n\n", cell(v.ClusterID), v.Term, v.Seq, majority)
	if v.Warning != "" {
		fmt.Fprintf(w, "warning: %s\n\n", cell(v.Warning))
	}
	return printMembers(w, append(v.Members, v.Departed...))
}
