package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/supervise"
	"github.com/musterhq/muster/node/httpapi"
)

// upgradeRun is one call of muster upgrade run.
type upgradeRun struct {
	ask                             askFlags
	lock                            string
	restartable, afterAll, inAGroup bool
}

// ownNodeStays is how long the node of -c stays when the step is done, so that others which need it
// for a majority learn of that too.
const ownNodeStays = 2 * time.Second

func newUpgradeRunCommand() *cobra.Command {
	u := upgradeRun{ask: askFlags{service: agentService}}
	cmd := &cobra.Command{
		Use:   "run [flags] NAME VERSION -- COMMAND [ARGUMENT...]",
		Short: "Run a step once in the cluster, on one of the hosts that start this",
		Long: `Run a step once in the cluster. Of all hosts that start this, one runs COMMAND. When it is done,
all of them end with status 0, at once if it was done before. If it has failed, all end with
status 1 and its error, and it runs again only after muster upgrade retry.

The master claims the step and records it. If no host that starts this is master, mastership
goes to one that does. With -c this runs a node of its own, with its API, until the step is
done, and needs no agent.

COMMAND has MUSTER_RUN_TERM, MUSTER_RUN_CLUSTER_ID and MUSTER_RUN_NODE_ID in its environment. The
step is done if its status is 0, and has failed with any other. COMMAND is killed at the deadline
of the grant; the help of muster while-master says how.

The step is interrupted if mastership is asked back, the grant ends, or this process gets SIGTERM
or an interrupt, before COMMAND has ended with status 0; and if this process or the agent dies.
With --restartable it runs again. Otherwise an operator decides, by muster upgrade retry or
resolve. Give all hosts the same flags.

With --after-all the step waits until all members of the cluster have started this, so that each
has a program that works with what it changes. A host that starts a lower version afterwards gets
an error.`,
		Example: `  muster upgrade run schema 1.2 -- ./migrate.sh
  muster upgrade run --restartable schema 1.2 -- ./migrate.sh && exec ./server
  muster upgrade run -c muster.yaml schema 1.2 -- ./migrate.sh   # in an init container`,
		Args: cobra.MinimumNArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error { return u.run(cmd, args[0], args[1], args[2:]) },
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the command is its own
	flags.StringVar(&u.ask.addr, "agent", "", "HOST:PORT or https://HOST:PORT of the agent's HTTP API (default $"+agentVariable+" or "+agentService.usual+")")
	u.ask.addAccessTo(cmd)
	flags.Lookup("config").Usage = "YAML file of a node to run, in place of an agent"
	flags.BoolVar(&u.restartable, "restartable", false, "run it again if it was interrupted")
	flags.BoolVar(&u.afterAll, "after-all", false, "wait until all members have started this")
	flags.StringVar(&u.lock, "lock-file", "", "file whose lock the command holds (default one for the agent and NAME, below $XDG_RUNTIME_DIR, /run or the directory of temporary files)")
	flags.BoolVar(&u.inAGroup, "no-namespace", false, "run the command in a process group, and not in a PID namespace")
	return cmd
}

func (u *upgradeRun) run(cmd *cobra.Command, name, version string, command []string) error {
	if runtime.GOOS == "windows" {
		_, err := supervise.Run(cmd.Context(), supervise.Options{})
		return err
	}
	if command[0] == "--" { // flags end with NAME, since they are not interspersed
		command = command[1:]
	}
	switch {
	case len(command) == 0:
		return usageError(errors.New("there is no command to run; write it after --"))
	case !whileMasterName.MatchString(name):
		return usageError(fmt.Errorf("NAME: %q: not a name; write up to 64 letters, digits, dots, dashes and underscores", name))
	}
	if err := checkExecutable(cmd, command[0]); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)
	client, stop, err := agentOrOwn(cmd, u.ask)
	if err != nil {
		return err
	}
	err = u.follow(cmd, client, signals, name, version, command)
	if u.ask.file != "" && !errors.As(err, new(commandStatus)) {
		_ = backoff.Sleep(cmd.Context(), ownNodeStays)
	}
	if stopped := stop(); stopped != nil && (err == nil || errors.As(stopped, new(ownNodeError))) {
		return stopped
	}
	if err == nil {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s is done\n", name, version)
	}
	return err
}

// recordWithin is how long a client that has run the step waits for its record, before it offers to
// run it again: the agent may have died before it was written.
const recordWithin = 5 * time.Second

// follow runs the command when it is this host's turn, and returns once the step is done, or why
// it is not.
func (u *upgradeRun) follow(cmd *cobra.Command, client apiClient, signals <-chan os.Signal, name, version string, command []string) error {
	for {
		ended, err := u.offer(cmd, client, signals, name, version, command)
		if ended || err != nil {
			return err
		}
		// The command has ended here; the record of that decides.
		result, err := waitUpgrade(cmd.Context(), client, name, version, recordWithin, cmd.ErrOrStderr())
		switch {
		case err == nil && (result.Done || result.Failed != nil):
			return failureOf(result)
		case cmd.Context().Err() != nil:
			return context.Cause(cmd.Context())
		}
	}
}

// offer has the agent run the step here. It reports that all is over, and why the step is not done;
// and false if the command has ended, and what is recorded of that is not known.
func (u *upgradeRun) offer(cmd *cobra.Command, client apiClient, signals <-chan os.Signal, name, version string, command []string) (over bool, err error) {
	lock, err := lockFile(u.lock, "upgrade", client, name)
	if err != nil {
		return true, err
	}
	query := stepQuery(name, version)
	query.Set("holder", rand.Text())
	for key, set := range map[string]bool{"restartable": u.restartable, "after_all": u.afterAll} {
		if set {
			query.Set(key, "true")
		}
	}
	running, end := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer end()
	s := &stepSource{command: filepath.Base(command[0]), ended: make(map[uint64]commandEnd)}
	s.grants = grants{client: client, alive: true, path: httpapi.PathUpgradeRun + "?" + query.Encode(), result: func(r httpapi.UpgradeResult) {
		s.finish(failureOf(r))
		end()
	}}
	s.end = end
	asked := make(chan os.Signal, cap(signals))
	go s.passOn(running, signals, asked)
	status, err := supervise.Run(running, supervise.Options{
		Command: command, Once: true, LockFile: lock, NoNamespace: u.inAGroup, Source: s, Ended: s.commandEnded,
		Signals: asked, Logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
	})
	if err != nil {
		return true, lockError(lock, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped && !s.known {
		return true, commandStatus(status)
	}
	return s.known, s.failure
}

// stepSource is the source of grants of a step, which says to the agent how its command has ended.
type stepSource struct {
	grants
	command string
	end     func() // ends supervise.Run

	mu      sync.Mutex
	ended   map[uint64]commandEnd // by term
	known   bool                  // what has become of the step, or that nothing will
	failure error                 // why it is not done
	stopped bool                  // this process was asked to end
}

// commandEnd is how a command has ended.
type commandEnd struct {
	status int
	itself bool
}

func (s *stepSource) finish(failure error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure, s.known = failure, true
}

// Follow implements supervise.Source. An agent that refuses the step ends all, unless another
// process runs that one with it, or it has no room: then it is asked again.
func (s *stepSource) Follow(ctx context.Context, update func(supervise.Grant)) error {
	err := s.grants.Follow(ctx, update)
	refused := refusal{}
	if !errors.As(err, &refused) || refused.status == http.StatusConflict || refused.status == http.StatusServiceUnavailable {
		return err
	}
	s.finish(refused.error)
	s.end()
	<-ctx.Done()
	return context.Cause(ctx)
}

// passOn hands signals on until ctx ends, and notes those that ask this process to end.
func (s *stepSource) passOn(ctx context.Context, from <-chan os.Signal, to chan<- os.Signal) {
	for {
		select {
		case sig := <-from:
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				s.mu.Lock()
				s.stopped = true
				s.mu.Unlock()
			}
			select {
			case to <- sig:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (s *stepSource) commandEnded(term uint64, status int, itself bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended[term] = commandEnd{status, itself}
}

// outcome is how the step has ended in a term. Only a command that was started, and whose status
// is 0, is done.
func (s *stepSource) outcome(term uint64) url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, started := s.ended[term]
	outcome, why := httpapi.OutcomeInterrupted, ""
	switch {
	case !started:
		return url.Values{"outcome": {httpapi.OutcomeNotBegun}}
	case e.status == 0:
		return url.Values{"outcome": {httpapi.OutcomeDone}}
	case e.itself:
		outcome, why = httpapi.OutcomeFailed, fmt.Sprintf("%s has ended with status %d", s.command, e.status)
	default:
		why = fmt.Sprintf("%s was asked to end, or killed, and has ended with status %d", s.command, e.status)
	}
	return url.Values{"outcome": {outcome}, "error": {why}}
}

// Done implements supervise.Source. It tries again until ctx ends: what the agent does not know is
// an interruption.
func (s *stepSource) Done(ctx context.Context, term uint64, _ bool) error {
	query := s.outcome(term)
	retry := backoff.Backoff{Min: 50 * time.Millisecond, Max: time.Second}
	for {
		err := s.done(ctx, term, query)
		if err == nil || retry.Wait(ctx) != nil {
			return err
		}
	}
}
