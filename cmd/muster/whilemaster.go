package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/internal/supervise"
	"github.com/musterhq/muster/node/httpapi"
)

// commandStatus is the status of a command that was run, and is passed on.
type commandStatus int

func (s commandStatus) Error() string { return fmt.Sprintf("status %d", int(s)) }

// whileMaster is one call of the command.
type whileMaster struct {
	ask               askFlags
	name, lock, again string
	noNamespace       bool
}

func newWhileMasterCommand() *cobra.Command {
	w := whileMaster{ask: askFlags{service: agentService}}
	cmd := &cobra.Command{
		Use:   "while-master [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a command only while this node is master",
		Long: `Run COMMAND only while the node of an agent is master. With -c the command runs a node of its
own, with its API, and needs no agent.

COMMAND has MUSTER_RUN_TERM, MUSTER_RUN_CLUSTER_ID and MUSTER_RUN_NODE_ID in its environment.
Attach the term to what COMMAND does elsewhere, and have the receiver reject a term below the
highest that it has seen.

When mastership is asked back, as by muster resign or muster leave, COMMAND gets SIGTERM, and
SIGKILL when mastership.drain_timeout of the agent is nearly over. The grant is kept and renewed
until COMMAND has ended; then another node can be master. At the deadline of the grant, or if
the agent dies or hangs, everything that COMMAND has started is killed. Afterwards this waits
until the node is master again.

On Linux COMMAND runs in a PID namespace if that is permitted: to root with CAP_SYS_ADMIN, and to
other users if they may make user namespaces. Then nothing of it can survive. With a user
namespace /proc shows the process ids of the host, so COMMAND cannot use pkill.

Otherwise, and with --no-namespace, COMMAND runs in a process group. Processes that it leaves
behind are found and killed, unless this process and its supervisor are killed at the same
moment. On other Unix systems a process that leaves the group survives. Windows is not supported.

If this process is stopped (SIGSTOP), COMMAND is killed at the last deadline of the grant that
this process knows, and after 10 s the agent gives mastership up.

Not promised: if this process and its supervisor are both stopped (SIGSTOP), COMMAND is killed
when they continue. A process in an uninterruptible sleep dies later. Then the term protects.

One COMMAND runs for each agent and --name: the agent grants nothing to a second one until the
first has ended or its grant has expired. COMMAND and its processes also hold the lock of a file.
If this process was killed and is started again, it waits until they have ended.

A COMMAND that ends by itself is run again as --restart says. If it is not, this process ends with
its status, with 128 and the number of the signal if it was killed by one, or with 126 or 127 if
it cannot be executed. Then the node gives mastership up, so that another one does the work. All
signals are passed on. After SIGTERM or an interrupt COMMAND is not run again.`,
		Example: `  muster while-master -- ./worker
  muster while-master --restart always -- ./worker --queue orders
  muster while-master -c muster.yaml -- ./worker`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return w.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the command is its own
	flags.StringVar(&w.ask.addr, "agent", "", "HOST:PORT or https://HOST:PORT of the agent's HTTP API (default $"+agentVariable+" or "+agentService.usual+")")
	w.ask.addAccessTo(cmd)
	flags.Lookup("config").Usage = "YAML file of a node to run, in place of an agent"
	flags.StringVar(&w.name, "name", "", "name of the command, of several with one agent (default the name of its program)")
	flags.StringVar(&w.again, "restart", string(supervise.RestartNever), "when a command that has ended is run again in the same term: never, on-failure or always")
	flags.StringVar(&w.lock, "lock-file", "", "file whose lock the command holds (default one for the agent and the name, below $XDG_RUNTIME_DIR, /run or the directory of temporary files)")
	flags.BoolVar(&w.noNamespace, "no-namespace", false, "run the command in a process group, and not in a PID namespace")
	return cmd
}

var whileMasterName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

func (w *whileMaster) run(cmd *cobra.Command, args []string) error {
	if runtime.GOOS == "windows" {
		_, err := supervise.Run(cmd.Context(), supervise.Options{})
		return err
	}
	policy := supervise.Restart(w.again)
	switch policy {
	case supervise.RestartNever, supervise.RestartOnFailure, supervise.RestartAlways:
	default:
		return usageError(fmt.Errorf("--restart: %q: unknown; write never, on-failure or always", w.again))
	}
	name := cmp.Or(w.name, filepath.Base(args[0]))
	if !whileMasterName.MatchString(name) {
		return usageError(fmt.Errorf("--name: %q: not a name; write up to 64 letters, digits, dots, dashes and underscores", name))
	}
	if err := checkExecutable(cmd, args[0]); err != nil {
		return err
	}
	// Before anything is started: a signal that comes now is not lost.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)

	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	client, stop, err := agentOrOwn(cmd, w.ask)
	if err != nil {
		return err
	}
	status, err := w.supervise(cmd, args, client, log, signals, policy, name)
	if stopped := stop(); stopped != nil && (err == nil || errors.As(stopped, new(ownNodeError))) {
		return stopped
	}
	if err != nil {
		return err
	}
	return commandStatus(status)
}

// checkExecutable complains about a command that cannot be executed, and returns its status.
func checkExecutable(cmd *cobra.Command, name string) error {
	_, err := exec.LookPath(name)
	if err == nil || errors.Is(err, exec.ErrDot) {
		return nil
	}
	complain(cmd.ErrOrStderr(), fmt.Errorf("%s: cannot be executed: %w", name, errors.Unwrap(err)))
	return commandStatus(supervise.StatusOf(err))
}

func (w *whileMaster) supervise(cmd *cobra.Command, args []string, client apiClient, log *slog.Logger, signals chan os.Signal, policy supervise.Restart, name string) (int, error) {
	lock, err := lockFile(w.lock, "while-master", client, name)
	if err != nil {
		return 1, err
	}
	status, err := supervise.Run(context.WithoutCancel(cmd.Context()), supervise.Options{
		Command: args, Restart: policy, LockFile: lock, NoNamespace: w.noNamespace,
		Source: &grants{client: client, path: httpapi.PathHold + "?name=" + url.QueryEscape(name) + "&holder=" + rand.Text(), alive: true}, Signals: signals, Logger: log,
	})
	return status, lockError(lock, err)
}

// lockFile is the one that is given, or that of an agent and a name.
func lockFile(given, command string, client apiClient, name string) (string, error) {
	if given != "" {
		return given, nil
	}
	dir, err := supervise.RuntimeDir()
	if err != nil {
		return "", usageError(fmt.Errorf("--lock-file: no directory for it: %w; name a file", err))
	}
	return filepath.Join(dir, command+"-"+strings.NewReplacer(":", "-", "[", "", "]", "", "%", "-").Replace(client.addr)+"-"+name+".lock"), nil
}

// lockError is an error of supervise.Run, of wrong usage if it is about the lock.
func lockError(lock string, err error) error {
	var file *os.PathError
	if errors.As(err, &file) && file.Path == lock {
		return usageError(fmt.Errorf("--lock-file: %w; name a file in a directory that exists", err))
	}
	return err
}

// ownNodeError is why the node of -c has ended by itself, or has not started.
type ownNodeError struct{ error }

func (e ownNodeError) Unwrap() error { return e.error }

// agentOrOwn returns the agent to follow. With -c it starts one in this process; stop has it leave.
func agentOrOwn(cmd *cobra.Command, ask askFlags) (client apiClient, stop func() error, err error) {
	if ask.file == "" {
		client, err = ask.agent()
		return client, func() error { return nil }, err
	}
	if ask.addr != "" {
		return apiClient{}, nil, usageError(fmt.Errorf("--agent: %q: set beside -c %s, which runs a node; keep one of the two", hidden(ask.addr), ask.file))
	}
	load := func() (*config.Config, error) {
		cfg, err := config.Load(config.Options{Path: ask.file})
		if err != nil {
			return nil, usageError(err)
		}
		return cfg, nil
	}
	cfg, err := load()
	if err != nil {
		return apiClient{}, nil, err
	}
	if client, err = ownAgent(agentService, cfg.HTTP); err != nil {
		return apiClient{}, nil, usageError(fmt.Errorf("%s: http: %w; the command asks its own node there", ask.file, err))
	}
	asking, cancel := context.WithTimeout(cmd.Context(), time.Second)
	_, err = client.fetch(asking, http.MethodGet, httpapi.PathHealth, "text/plain")
	cancel()
	if err == nil {
		return apiClient{}, nil, usageError(fmt.Errorf("-c %s: an agent answers at its http.addr %s already; to use that one, write --agent %[2]s in place of -c", ask.file, client.addr))
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	ended := make(chan error, 1)
	go func() {
		err := agent.Run(ctx, cfg, agent.Options{Load: load, Logs: cmd.ErrOrStderr()})
		if err != nil && ctx.Err() == nil {
			err = ownNodeError{err}
		}
		ended <- err
		if ctx.Err() == nil {
			// The node has ended by itself, or was asked to leave: so does the command.
			endSelf()
		}
	}()
	return client, func() error { cancel(); return <-ended }, nil
}
