package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
)

// The exit statuses, which are public.
const (
	statusDone   = 0
	statusFailed = 1
	statusUsage  = 2 // wrong usage or configuration
	// statusRestart is that of an agent, or a registrar, that has left since its changed
	// configuration wants another start: for a supervisor that starts what fails.
	statusRestart = 3
	// statusUnknown is that of a call of which it is not known whether it was done.
	statusUnknown = 4
)

// run executes one command line and returns the exit status. What went wrong is
// told on stderr, in lines that start with "muster: ".
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand(stdout, stderr)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return statusDone
	}
	if status := commandStatus(0); errors.As(err, &status) {
		return int(status)
	}
	complain(stderr, err)
	if errors.Is(err, agent.ErrRestart) {
		return statusRestart
	}
	var unknown *unknownErr
	if errors.As(err, &unknown) {
		return statusUnknown
	}
	var failed *runError
	if errors.As(err, &failed) {
		return statusFailed
	}
	var usage *usageErr
	if !errors.As(err, &usage) && !errors.Is(err, agent.ErrConfig) {
		// cobra's own: an unknown command, flag or argument.
		fmt.Fprintf(stderr, "muster: see %s --help\n", cmd.CommandPath())
	}
	return statusUsage
}

// complain prints err, each line of it as one of ours.
func complain(w io.Writer, err error) {
	for line := range strings.SplitSeq(strings.TrimRight(err.Error(), "\n"), "\n") {
		// cobra indents its suggestions and sets them apart with empty lines.
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintln(w, "muster: "+line)
		}
	}
}

// extraCommands make the commands that a program built with a tag has in addition.
var extraCommands []func() *cobra.Command

func newRootCommand(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "muster",
		Short: "Nodes that find each other, form one cluster and elect one master",
		Long: `Muster lets the nodes of a service find each other, register at the address that
others can dial, form one cluster and elect one master.

The status is 0 if a command is done, 1 if it failed, and 2 if its usage or the
configuration is wrong. An agent or registrar ends with 3 if its configuration has changed,
so that its supervisor starts it again.`,
		Example: `  muster demo                     # see it work on this machine
  muster config check -c muster.yaml
  muster agent -c muster.yaml
  muster members                  # ask the agent of this machine`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       readVersion().Version, // for --version; the command says more
	}
	root.SetOut(stdout) // before the completion command is made, which remembers it
	root.SetErr(stderr)
	root.AddCommand(
		newAgentCommand(),
		newCallCommand(),
		newClusterCommand(),
		newConfigCommand(),
		newDemoCommand(),
		newDiscoverCommand(),
		newDoctorCommand(),
		newForwardCommand(),
		newHistoryCommand(),
		newMasterCommand(),
		newMembersCommand(),
		newLeaveCommand(),
		newRegistrarCommand(),
		newReloadCommand(),
		newResignCommand(),
		newStatusCommand(),
		newSupportCommand(),
		newTLSCommand(),
		newUpgradeCommand(), newJobsCommand(),
		newVersionCommand(),
		newViewCommand(),
		newVotersCommand(),
		newWhileMasterCommand(),
	)
	for _, command := range extraCommands {
		root.AddCommand(command())
	}
	root.InitDefaultCompletionCmd()
	finish(root)
	return root
}

// finish tells the errors of commands from those of command lines, and makes a
// group of commands that is called without one of them an error of the latter.
func finish(parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		if inner := cmd.RunE; inner != nil {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				err := inner(cmd, args)
				var usage *usageErr
				if err == nil || errors.As(err, &usage) || errors.Is(err, agent.ErrConfig) {
					return err
				}
				return &runError{err}
			}
		} else if !cmd.Runnable() {
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error {
				var names []string
				for _, c := range cmd.Commands() {
					names = append(names, c.Name())
				}
				return fmt.Errorf("%s wants one of its commands: %s", cmd.CommandPath(), strings.Join(names, ", "))
			}
		}
		finish(cmd)
	}
}

// runError is what a command that was called rightly failed with.
type runError struct{ err error }

func (e *runError) Error() string { return e.err.Error() }
func (e *runError) Unwrap() error { return e.err }

// usageErr is wrong usage or configuration.
type usageErr struct{ err error }

func (e *usageErr) Error() string { return e.err.Error() }
func (e *usageErr) Unwrap() error { return e.err }

// usageError makes err end the program with the status of wrong usage.
func usageError(err error) error { return &usageErr{err} }
