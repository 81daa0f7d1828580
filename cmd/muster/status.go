package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
)

func newStatusCommand() *cobra.Command {
	return newAskCommand(&cobra.Command{
		Use:   "status",
		Short: "Show what an agent says of itself: ready or not, its address and how it was found",
		Long: `Show what the agent that is asked says of itself: whether it is ready and what it
waits for, the address that others dial and what each step of finding it has
answered, who could reach it there, and how it stands with its providers.`,
		Example: `  muster status
  muster status -o json | jq .advertise`,
	}, httpapi.PathStatus, printStatus)
}

func printStatus(w io.Writer, s httpapi.Status) error {
	fmt.Fprintf(w, "node %s of cluster %s, instance %s\n", cell(s.NodeID), cell(s.Cluster), cell(s.InstanceID))
	state := "ready"
	if !s.Ready {
		state = "not ready"
	}
	switch {
	case s.WaitingFor == "":
	case s.Ready:
		state += ", and no master: " + s.WaitingFor
	default:
		state += ": " + s.WaitingFor
	}
	fmt.Fprintln(w, cell(state))
	fmt.Fprintln(w, cell(addressLine(s.Advertise)))
	if s.Advertise.Error != "" {
		fmt.Fprintln(w, "warning:", cell(s.Advertise.Error))
	}
	if s.View.Warning != "" {
		fmt.Fprintln(w, "warning:", cell(s.View.Warning))
	}
	for _, c := range s.Certificates {
		if c.Error != "" {
			fmt.Fprintln(w, "warning:", cell(fmt.Sprintf("certificate for %s, the last good one stays in use: %s", c.Use, c.Error)))
		}
	}
	fmt.Fprintln(w)
	t := newTable(w, "STEP", "OUTCOME", "ADDRESS", "REASON")
	for _, step := range s.Advertise.Steps {
		t.row(step.Name, strings.ReplaceAll(step.Outcome, "_", " "), step.Addr, step.Reason)
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "PROVIDER", "AUTHORITY", "REGISTERED", "INSTANCES", "ERROR")
	for _, p := range s.Providers {
		t.row(p.Name, mark(p.Authority), mark(p.Registered), strconv.Itoa(p.Instances), p.Error)
	}
	return t.flush()
}

// addressLine says where the agent is reached.
func addressLine(a httpapi.Advertise) string {
	line := "advertised " + a.Addr + " (" + a.Source + "), "
	switch a.Reach.State {
	case "alone":
		return line + "no other member to ask whether it is reachable"
	case "reachable":
		if a.Reach.Node == "" {
			return line + "where a member that is gone has reached it"
		}
		return line + "where node " + a.Reach.Node + " has reached it"
	case "unreachable":
		return line + "where it was not reached"
	}
	return line + "not known to be reachable: " + a.Reach.Reason
}
