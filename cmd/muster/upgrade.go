package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/node/upgrade"
)

func newUpgradeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Run a step of an upgrade once in the cluster, and wait for it",
		Long: `Steps of upgrades, such as migrations of a database, run once in a cluster, on its master, and
are recorded. A step has a name and a version, which is numbers with dots between them. These
commands read and write the same records as programs that use package node/upgrade.`,
	}
	cmd.AddCommand(
		newUpgradeRunCommand(),
		newAskCommand(&cobra.Command{
			Use:   "status",
			Short: "List the steps that are recorded: the latest one of each name",
			Example: `  muster upgrade status
  muster upgrade status -o json | jq -r '.[] | select(.state == "failed") | .name'`,
		}, agentService, answerTo(httpapi.PathUpgrades, printUpgrades)),
		newUpgradeWaitCommand(),
		newAmendCommand(&cobra.Command{
			Use:   "retry",
			Short: "Have a step run again that has failed or was interrupted",
			Long: `Run a step again that has failed, or was interrupted and is not restartable. It runs as soon as a
node that has it is master. It is an error if the step is in another state, or is not the latest
one that is recorded of its name.`,
			Example: `  muster upgrade retry schema 1.2`,
		}, nil, httpapi.PathUpgradeRetry, "may run again: on the next host that starts it, or that waits for it"),
		newAmendCommand(&cobra.Command{
			Use:   "resolve",
			Short: "Record a step as done that is known to be",
			Long: `Record a step as done. This is for an operator who knows that it is, for example if a node was
stopped at the very end of the step. The gates of the step open, and it does not run. It is an
error if the step is not the latest one that is recorded of its name.

With --lost the record of the step may be missing, or be that of an earlier version, as after the
store was wiped. All steps of that name up to VERSION are done then, and no command takes that
back: a wrong NAME or VERSION has gates open too early.`,
			Example: `  muster upgrade resolve schema 1.2
  muster upgrade resolve --lost schema 1.2`,
		}, map[string]string{"lost": "the record of the step was lost"}, httpapi.PathUpgradeResolve, "is recorded as done"),
	)
	return cmd
}

func printUpgrades(w io.Writer, all []upgrade.Status) error {
	t := newTable(w, "NAME", "VERSION", "STATE", "NODE", "TERM", "RUNS", "ENDED", "ERROR")
	for _, s := range all {
		ended := ""
		if !s.Ended.IsZero() {
			ended = s.Ended.UTC().Format(time.RFC3339)
		}
		t.row(s.Name, string(s.Version), string(s.State), s.NodeID,
			termText(s.Term), strconv.Itoa(s.Runs), ended, s.Error)
	}
	return t.flush()
}

// stepQuery is the query of a step.
func stepQuery(name, version string) url.Values {
	return url.Values{"name": {name}, "version": {version}}
}

// newAmendCommand completes a command by which an operator decides about a step. Each of the
// switches is a flag, and a key of the query.
func newAmendCommand(cmd *cobra.Command, switches map[string]string, path, said string) *cobra.Command {
	flags := askFlags{service: agentService}
	for name, usage := range switches {
		cmd.Flags().Bool(name, false, usage)
	}
	cmd.Use += " NAME VERSION"
	cmd.Args = cobra.ExactArgs(2)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		agent, err := flags.agent()
		if err != nil {
			return err
		}
		query := stepQuery(args[0], args[1])
		for name := range switches {
			if cmd.Flags().Lookup(name).Value.String() == "true" {
				query.Set(name, "true")
			}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), operateTimeout)
		defer cancel()
		var s upgrade.Status
		if _, err := agent.send(ctx, http.MethodPost, path+"?"+query.Encode(), &s); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", cell(s.Name), cell(string(s.Version)), said)
		return nil
	}
	flags.addTo(cmd)
	return cmd
}

func newUpgradeWaitCommand() *cobra.Command {
	flags := askFlags{service: agentService}
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait [flags] NAME VERSION",
		Short: "Wait until a step is done, on whatever node it runs",
		Long: `Wait until a step is done, on any node, and end with status 0. If it has failed, or was interrupted
and may not run again, print its error and end with status 1. If the agent does not answer, wait
until it does.`,
		Example: `  muster upgrade wait schema 1.2 && exec ./server
  muster upgrade wait --timeout 5m schema 1.2`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout < 0 {
				return usageError(fmt.Errorf("--timeout: %v: negative; write a duration such as 5m, or 0 for none", timeout))
			}
			agent, err := flags.agent()
			if err != nil {
				return err
			}
			result, err := waitUpgrade(cmd.Context(), agent, args[0], args[1], timeout, cmd.ErrOrStderr())
			if err == nil {
				err = failureOf(result)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s is done\n", args[0], args[1])
			return nil
		},
	}
	flags.addTo(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait (default without end)")
	return cmd
}

const (
	// waitRetryMin and waitRetryMax bound the waits for an agent that does not answer.
	waitRetryMin = 100 * time.Millisecond
	waitRetryMax = 2 * time.Second
	// waitGrace is how much longer than the agent a client waits for what it has to say.
	waitGrace = 3 * time.Second
)

// waitUpgrade waits for a step by asking an agent, also while that one is away. A timeout of 0 is
// none.
func waitUpgrade(ctx context.Context, a apiClient, name, version string, timeout time.Duration, complaints io.Writer) (httpapi.UpgradeResult, error) {
	query, began := stepQuery(name, version), time.Now()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+waitGrace)
		defer cancel()
	}
	retry := backoff.Backoff{Min: waitRetryMin, Max: waitRetryMax}
	for last := ""; ; {
		if timeout > 0 {
			query.Set("timeout", max((timeout-time.Since(began)).Round(time.Millisecond), time.Millisecond).String())
		}
		result, err := askUpgrade(ctx, a, query)
		switch {
		case err == nil:
			return result, nil
		case !errors.As(err, new(awayError)):
			return result, err
		case timeout > 0 && time.Since(began) >= timeout || ctx.Err() != nil:
			return result, fmt.Errorf("%s %s: not known to be done: %w", name, version, err)
		case err.Error() != last:
			last = err.Error()
			complain(complaints, fmt.Errorf("%w; it is asked again", err))
		}
		_ = retry.Wait(ctx)
	}
}

// awayError is of an agent that may answer later.
type awayError struct{ error }

func (e awayError) Unwrap() error { return e.error }

// askUpgrade reads the one event of a gate.
func askUpgrade(ctx context.Context, a apiClient, query url.Values) (result httpapi.UpgradeResult, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(streamSilence, func() { cancel(errSilence) })
	defer silence.Stop()
	response, err := a.open(ctx, http.MethodGet, httpapi.PathUpgradeWait+"?"+query.Encode(), "text/event-stream")
	if err != nil {
		return result, awayError{err}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		err := a.refused(response, httpapi.PathUpgradeWait, body)
		if response.StatusCode == http.StatusServiceUnavailable {
			return result, awayError{err}
		}
		return result, err
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		silence.Reset(streamSilence)
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			if err := json.Unmarshal([]byte(data), &result); err != nil {
				return result, fmt.Errorf("what answers at %s is no agent: %w", a.origin(), err)
			}
			return result, nil
		}
	}
	return result, awayError{cmp.Or(context.Cause(ctx), fmt.Errorf("the stream of the agent at %s has ended", a.origin()))}
}

var errSilence = errors.New("the agent says nothing")

// maxEvent bounds an event: an error of a step may have the stack of a panic.
const maxEvent = 1 << 20

// failureOf is why a step is not done, and nil if it is.
func failureOf(r httpapi.UpgradeResult) error {
	switch f := r.Failed; {
	case r.Done:
		return nil
	case f != nil:
		return fmt.Errorf("%s %s %s on node %s in term %d: %s; run it again with muster upgrade retry %[1]s %[2]s, or, if it is known to be done, muster upgrade resolve %[1]s %[2]s",
			cell(f.Name), f.Version, f.State, cell(f.NodeID), f.Term, cell(f.Error))
	}
	return errors.New(strings.TrimPrefix(r.Error, "upgrade: "))
}
