package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
)

func newCallCommand() *cobra.Command {
	flags := askFlags{service: agentService}
	to, timeout := httpapi.CallMaster, 5*time.Second
	cmd := &cobra.Command{
		Use:   "call METHOD [JSON]",
		Short: "Call a handler of the master, of a node, or of all members",
		Long: `Call METHOD of the master, of a node, or of all members, with JSON as the request, or null, and
print the answer as JSON. METHOD is the name of a handler that is called with JSON: a program
registers it with call.Handle of package node/call.

With --to all the answer is an array that says of each member what became of its call, in state:
answered, failed (the handler returned the error), not_run (no handler has seen the call, nor
will), or unknown (it may have run).

The status is 0 if all have answered, 1 if a call failed or has not run, and 4 if of a call it is
not known whether it was done: look before you repeat it. A call is cancelled if this command is
interrupted.

For methods of generated code, use muster forward call with a client of gRPC.`,
		Example: `  muster call orders.Count '{"open": true}'
  muster call cache.Drop '"customer-7"' --to all
  muster call orders.Reindex --to orders-2 --timeout 1m`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := []byte("null")
			if len(args) == 2 {
				request = []byte(args[1])
			}
			switch {
			case args[0] == "" || strings.ContainsAny(args[0], "/ "):
				return usageError(fmt.Errorf("METHOD: %q: not the name of a handler that is called with JSON; write one without slashes, as orders.Count", args[0]))
			case !json.Valid(request):
				return usageError(fmt.Errorf("JSON: %q: not JSON; quote it for the shell, as '{\"open\": true}'", args[1]))
			case timeout <= 0 || timeout > time.Hour:
				return usageError(fmt.Errorf("--timeout: %q: write how long the call may take, up to an hour, as 10s", timeout))
			case to == "":
				return usageError(errors.New(`--to: "": write master, all, or the id of a node`))
			}
			agent, err := flags.agent()
			if err != nil {
				return err
			}
			replies, err := agent.call(cmd.Context(), args[0], to, timeout, request)
			if err != nil {
				return err
			}
			return printReplies(cmd.OutOrStdout(), args[0], to, replies)
		},
	}
	cmd.Flags().StringVar(&to, "to", to, "what is called: master, all, or the id of a node")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long the call may take")
	flags.addTo(cmd)
	return cmd
}

// unknownErr is of what may have been done, or may be done still.
type unknownErr struct{ err error }

func (e *unknownErr) Error() string { return e.err.Error() }
func (e *unknownErr) Unwrap() error { return e.err }

// call has the agent make a call. The error is an unknownErr if it may have been made.
func (a apiClient) call(ctx context.Context, method, to string, timeout time.Duration, request []byte) ([]httpapi.CallReply, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+askTimeout)
	defer cancel()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	query := url.Values{"method": {method}, "to": {to}, "timeout": {timeout.String()}}
	response, err := a.openWith(ctx, http.MethodPost, httpapi.PathCall+"?"+query.Encode(), bytes.NewReader(request), http.Header{"Accept": {"application/json"}})
	if err != nil {
		if sent.Load() {
			return nil, &unknownErr{fmt.Errorf("%w; the call may have run", err)}
		}
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err == nil && response.StatusCode != http.StatusOK {
		return nil, a.refused(response, httpapi.PathCall, body)
	}
	var replies []httpapi.CallReply
	if err == nil {
		err = json.Unmarshal(body, &replies)
	}
	if err != nil {
		return nil, &unknownErr{fmt.Errorf("the answer of the agent at %s broke off: %s; the call may have run", a.origin(), cause(err))}
	}
	return replies, nil
}

// printReplies prints the answers, and returns how it has failed: of several as the worst has.
func printReplies(w io.Writer, method, to string, replies []httpapi.CallReply) error {
	if to == httpapi.CallAll {
		if err := printJSON(w, replies); err != nil {
			return err
		}
	} else if len(replies) == 1 && replies[0].State == httpapi.CallAnswered {
		return printJSON(w, replies[0].Answer)
	}
	var bad []string
	unknown := false
	for _, r := range replies {
		if r.State == httpapi.CallAnswered {
			continue
		}
		unknown = unknown || r.State != httpapi.CallFailed && r.State != httpapi.CallNotRun
		text := r.Error
		if r.State == httpapi.CallFailed {
			text = fmt.Sprintf("call %s at %s: the handler failed: %s (%s)", method, cell(r.NodeID), text, r.Code)
		}
		bad = append(bad, cell(text))
	}
	if len(bad) == 0 {
		return nil
	}
	err := errors.New(strings.Join(bad, "\n"))
	if unknown {
		return &unknownErr{err}
	}
	return err
}
