package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/httpapi"
)

func newJobsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "List the jobs of the cluster, and add, remove, trigger and pause them",
		Long: `Jobs run at set times, on the master or on each node. They are in the section jobs of the agents'
configuration. A job that is added at run time runs the command of one of these at other times.
All these commands can be given to any agent.`,
	}
	cmd.AddCommand(
		newAskCommand(&cobra.Command{
			Use:   "list",
			Short: "List the jobs that the agent knows, and those that are recorded",
			Long: `List the jobs that the agent knows, and those that are recorded. NEXT is by the clock of the agent's
host. LAST is how the last run has ended. For a job of each node it is that of the agent that is asked.`,
			Example: `  muster jobs list
  muster jobs list -o json | jq -r '.[] | select(.last.state == "failed") | .name'`,
		}, agentService, answerTo(httpapi.PathJobs, printJobs)),
		newJobsAddCommand(),
		newJobCommand("remove", "Remove a job that was added", `Remove a job that was added, with the records of its runs; or what is recorded of one that is no longer
in the configuration of the agent. A run that goes on does so to its end.`, httpapi.PathJobRemove, "is removed"),
		newJobCommand("trigger", "Run a job once, now", `Run a job once, now, also if it is paused: on the master, or, if it runs on each node, on all that are
there. This does not wait for the run. If it is triggered again while it runs, it runs once more.`, httpapi.PathJobTrigger, "is triggered"),
		newJobCommand("pause", "Keep a job from being due", `Keep a job from being due, on all nodes, until muster jobs resume. A run that goes on does so to its
end.`, httpapi.PathJobPause, "is paused"),
		newJobCommand("resume", "End a pause of a job", `End a pause of a job. It counts from now: what would have been due meanwhile is not missed.

This is also for a job whose last run is recorded for a term that no master will have, as after a
store was restored: that keeps it from running no longer.`, httpapi.PathJobResume, "is resumed"),
		newJobsRunsCommand(),
		newJobsOutputCommand(),
	)
	return cmd
}

func printJobs(w io.Writer, all []httpapi.Job) error {
	t := newTable(w, "NAME", "SCHEDULE", "WHERE", "RUNS", "STATE", "NEXT", "LAST", "ENDED", "PROBLEM")
	for _, j := range all {
		state, last, ended := "scheduled", "", ""
		switch {
		case j.Problem != "":
			state = "not here"
		case j.Last != nil && j.Last.State == cron.Running:
			state = "running"
		case j.Paused:
			state = "paused"
		case j.Next.IsZero():
			state = "on demand"
		}
		if j.Last != nil {
			last, ended = string(j.Last.State), shortTime(j.Last.Ended)
		}
		t.row(j.Name, j.Schedule, j.Where, cmp.Or(j.Runs, j.Name), state, shortTime(j.Next), last, ended, j.Problem)
	}
	return t.flush()
}

func shortTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// newJobCommand is a command by which an operator changes one job.
func newJobCommand(use, short, long, path, said string) *cobra.Command {
	flags := askFlags{service: agentService}
	cmd := &cobra.Command{
		Use: use + " NAME", Short: short, Long: long, Example: "  muster jobs " + use + " report",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changeJob(cmd, flags, path, url.Values{"name": {args[0]}}, args[0], said)
		},
	}
	flags.addTo(cmd)
	return cmd
}

func changeJob(cmd *cobra.Command, flags askFlags, path string, query url.Values, name, said string) error {
	agent, err := flags.agent()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), operateTimeout)
	defer cancel()
	var j httpapi.Job
	if _, err := agent.send(ctx, http.MethodPost, path+"?"+query.Encode(), &j); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", cell(name), said)
	return nil
}

func newJobsAddCommand() *cobra.Command {
	flags := askFlags{service: agentService}
	var schedule, zone, runs, missed string
	var window time.Duration
	cmd := &cobra.Command{
		Use:   "add NAME --runs JOB --schedule EXPRESSION [flags]",
		Short: "Run the command of a job of the configuration at other times, too",
		Long: `Run the command of JOB, a job of the agents' configuration, at other times, too. What runs is always
what the configuration of a node says: the command, its timeout, and whether it runs on the master
or on each node. A node whose configuration has no JOB does not run it.`,
		Example: `  muster jobs add noon --runs report --schedule "0 12 * * *" --time-zone Europe/Berlin`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if runs == "" || schedule == "" {
				return usageError(errors.New("--runs and --schedule are wanted: which command runs, and when"))
			}
			query := url.Values{"name": {args[0]}, "runs": {runs}, "schedule": {schedule}, "time_zone": {zone}, "missed": {missed}}
			if window != 0 {
				query.Set("window", window.String())
			}
			return changeJob(cmd, flags, httpapi.PathJobAdd, query, args[0], "is added")
		},
	}
	flags.addTo(cmd)
	cmd.Flags().StringVar(&runs, "runs", "", "job of the configuration whose command runs")
	cmd.Flags().StringVar(&schedule, "schedule", "", "cron expression, as \"30 2 * * *\", or @every 10m")
	cmd.Flags().StringVar(&zone, "time-zone", "", "time zone of the schedule (default UTC)")
	cmd.Flags().StringVar(&missed, "missed", "", "what becomes of a run that was missed: skip or once (default skip)")
	cmd.Flags().DurationVar(&window, "window", 0, "how old a missed run may be that is caught up with (default the interval of the schedule, an hour at most)")
	return cmd
}

func newJobsRunsCommand() *cobra.Command {
	var name string
	cmd := newAskCommand(&cobra.Command{
		Use:   "runs NAME",
		Short: "List the last runs of a job",
		Long: `List the last 20 runs of a job, the latest first. For a job of each node they are those of the agent
that is asked, since it was started.`,
		Example: `  muster jobs runs report`,
		Args:    cobra.ExactArgs(1),
		PreRun:  func(_ *cobra.Command, args []string) { name = args[0] },
	}, agentService, func(ctx context.Context, a apiClient) (json.RawMessage, func(io.Writer) error, error) {
		return answerTo(httpapi.PathJobRuns+"?name="+url.QueryEscape(name), printRuns)(ctx, a)
	})
	return cmd
}

func printRuns(w io.Writer, all []cron.RunStatus) error {
	t := newTable(w, "RUN", "SCHEDULED", "STATE", "NODE", "TERM", "BEGAN", "ENDED", "ERROR")
	for _, r := range all {
		scheduled := shortTime(r.Scheduled)
		if r.Triggered {
			scheduled = "triggered"
		}
		t.row(strconv.FormatUint(r.Seq, 10), scheduled, string(r.State), r.NodeID, termText(r.Term),
			shortTime(r.Began), shortTime(r.Ended), r.Error)
	}
	return t.flush()
}

func newJobsOutputCommand() *cobra.Command {
	flags := askFlags{service: agentService}
	cmd := &cobra.Command{
		Use:   "output NAME [RUN]",
		Short: "Print what a run of a job has written",
		Long: `Print the last 64 KiB that a run of a job has written to its standard output and error: the last run
that has ended, or RUN, a number that muster jobs runs shows. The output of the last eight runs is
kept. On a terminal control characters are replaced.`,
		Example: `  muster jobs output report
  muster jobs output report 12 >report.txt`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := flags.agent()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), operateTimeout)
			defer cancel()
			run := ""
			if len(args) == 2 {
				run = args[1]
			} else {
				var runs []cron.RunStatus
				if _, err := agent.ask(ctx, httpapi.PathJobRuns+"?name="+url.QueryEscape(args[0]), &runs); err != nil {
					return err
				}
				last := slices.IndexFunc(runs, func(r cron.RunStatus) bool { return r.State != cron.Running })
				switch {
				case len(runs) == 0:
					return fmt.Errorf("%s has not run", args[0])
				case last < 0:
					return fmt.Errorf("%s runs for the first time: what it writes is kept when that has ended", args[0])
				}
				run = strconv.FormatUint(runs[last].Seq, 10)
			}
			path := httpapi.PathJobOutput + "?" + url.Values{"name": {args[0]}, "run": {run}}.Encode()
			text, err := agent.fetch(ctx, http.MethodGet, path, "application/octet-stream")
			if err != nil {
				return err
			}
			if onTerminal(cmd.OutOrStdout()) {
				text = bytes.Map(harmless, text)
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	flags.addTo(cmd)
	return cmd
}

func onTerminal(w io.Writer) bool {
	f, is := w.(*os.File)
	if !is {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// harmless replaces what could steer a terminal.
func harmless(r rune) rune {
	if r == '\n' || r == '\t' || unicode.IsPrint(r) {
		return r
	}
	return '?'
}
