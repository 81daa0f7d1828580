package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar/host"
)

func newStatusCommand() *cobra.Command {
	cmd := newAskCommand(&cobra.Command{
		Use:   "status",
		Short: "Show what an agent says of itself: ready or not, its address and how it was found",
		Long: `Show the state of the agent that is asked: whether it is ready, and what it waits for;
the address that others dial, each step of finding it, and who could reach it there; and
the providers, with their errors.

If a registrar answers, show what muster registrar status does.`,
		Example: `  muster status
  muster status -o json | jq .advertise
  muster status --agent 127.0.0.1:7981   # of a registrar`,
	}, agentService, answerTo(httpapi.PathStatus, printStatus), answerTo(host.PathRegistrar, printReport))
	ask := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := ask(cmd, args)
		var nobody unansweredError
		if !errors.As(err, &nobody) || nobody.source != "" {
			return err
		}
		registrar := apiClient{service: registrarService, addr: registrarService.usual}
		if registrar.answers(cmd.Context()) {
			err = fmt.Errorf("%w; a registrar answers at %s: ask it with muster registrar status", err, registrar.addr)
		}
		return err
	}
	return cmd
}

// answers reports whether a registrar serves at its address. It is asked for what it tells
// everyone: a program there was not named by the user, and is shown no token.
func (a apiClient) answers(ctx context.Context) bool {
	a.token = ""
	_, err := a.ask(ctx, host.PathRegistrar, new(host.Report))
	return err == nil
}

func newRegistrarStatusCommand() *cobra.Command {
	return newAskCommand(&cobra.Command{
		Use:   "status",
		Short: "Show what a registrar says of itself: ready or not, what is registered, and what is wrong",
		Long: `Show the state of the registrar that is asked: whether it is ready, and what it waits for;
the address of its host; the container engine and the providers, with their errors; each
service, and where it is registered; and what runs and is not registered, with the reason.

The status is 0 if a registrar answers, ready or not.`,
		Example: `  muster registrar status
  muster registrar status -o json | jq -r '.services[] | select(.registered == []) | .id'`,
	}, registrarService, answerTo(host.PathRegistrar, printReport))
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
	fmt.Fprintln(w, cell(state+codeOf(s.WaitingReason)))
	fmt.Fprintln(w, cell(addressLine(s.Advertise)))
	if s.Advertise.Error != "" {
		fmt.Fprintln(w, "warning:", cell(s.Advertise.Error))
	}
	if s.View.Warning != "" {
		fmt.Fprintln(w, "warning:", cell(s.View.Warning))
	}
	for _, p := range s.Providers {
		if p.Warning != "" {
			fmt.Fprintln(w, "warning:", cell(fmt.Sprintf("provider %s: %s", p.Name, p.Warning)))
		}
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
	t = newTable(w, "PROVIDER", "ADDRESS", "AUTHORITY", "REGISTERED", "INSTANCES", "ERROR")
	for _, p := range s.Providers {
		t.row(p.Name, p.Addr, mark(p.Authority), mark(p.Registered), strconv.Itoa(p.Instances), p.Error)
	}
	return t.flush()
}

// codeOf is the code of what is waited for, as it is shown behind the sentence.
func codeOf(code string) string {
	if code == "" {
		return ""
	}
	return " (reason " + code + ")"
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

// printReport prints what a registrar says of itself.
func printReport(w io.Writer, r host.Report) error {
	fmt.Fprintf(w, "registrar of host %s\n", cell(r.Hostname))
	state := "ready"
	if !r.Ready {
		state = "not ready: " + r.WaitingFor + codeOf(r.WaitingReason)
	}
	fmt.Fprintln(w, cell(state))
	if r.Address != "" {
		fmt.Fprintln(w, cell("address of the host "+r.Address+" ("+r.AddressSource+")"))
	}
	if e := r.Engine; e != nil {
		state := "followed, " + strconv.Itoa(e.Containers) + " containers"
		if !e.Connected {
			state = "not followed: " + e.Error
		}
		fmt.Fprintln(w, cell("container engine "+state))
	}
	for _, problem := range r.Problems {
		fmt.Fprintln(w, "warning:", cell(problem))
	}
	fmt.Fprintln(w)
	t := newTable(w, "PROVIDER", "SESSION", "REGISTERED", "WANTED", "ERROR")
	for _, p := range r.Providers {
		t.row(p.Name, mark(p.Session), strconv.Itoa(p.Registered), strconv.Itoa(p.Wanted), cmp.Or(p.Error, p.Off))
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "SERVICE", "ID", "ADDRESS", "REGISTERED", "SOURCE", "REASON")
	for _, s := range r.Services {
		t.row(s.Service, s.ID, s.Addr, strings.Join(s.Registered, ","), s.Source, cmp.Or(s.Error, s.Reason))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(r.LeftOut) > 0 {
		fmt.Fprintln(w)
	}
	for _, left := range r.LeftOut {
		fmt.Fprintln(w, cell(left))
	}
	return nil
}
