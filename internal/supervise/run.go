package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"
)

// Source is where grants come from.
type Source interface {
	// Follow calls update with each grant of the node, until ctx ends or the source breaks off,
	// and returns why. It does not try again. It returns ctx's error if ctx has ended.
	Follow(ctx context.Context, update func(Grant)) error
	// Done says that nothing of the command runs in the term any longer, and with leave that
	// nothing will.
	Done(ctx context.Context, term uint64, leave bool) error
}

// Options say what is run, and when.
type Options struct {
	// Command is the program, found as a shell does, and its arguments. Mandatory.
	Command []string
	// Restart says when a command that has ended by itself is run again. Default: RestartNever.
	Restart Restart
	// LockFile is the file whose lock a command has while it runs. Its directory exists.
	LockFile string
	// NoNamespace leaves out the PID namespace also where it is permitted.
	NoNamespace bool
	// Source says when this node is master. Mandatory.
	Source Source
	// Started is called when a command was told to begin. Nil: nothing is called.
	Started func()
	// Ended is called when a command has ended that was started in a term, before Source.Done
	// for that term. itself says that it ended by itself: it was not asked to, nor killed. Nil:
	// nothing is called.
	Ended func(term uint64, status int, itself bool)
	// Signals are passed on to the command. After SIGTERM or SIGINT it is not run again, and Run
	// returns once it has ended.
	Signals <-chan os.Signal
	// Logger takes what happens. Mandatory.
	Logger *slog.Logger
	// Once has Run return when a command that was started has ended, however that was: it is not
	// run a second time.
	Once bool

	lockWithin time.Duration // how long Run waits for the lock; 0: without end
}

// NoTerm is the term of a grant that is none: of a command that runs on each node. It has no
// MUSTER_RUN_TERM and no MUSTER_RUN_CLUSTER_ID.
const NoTerm = math.MaxUint64

// Why a command of RunOnce was stopped before its end.
var (
	ErrNotRenewed = errors.New("its grant was not renewed in time")
	ErrLost       = errors.New("its wrapper was killed")
)

// Once is what RunOnce runs.
type Once struct {
	// Command is the program, found as a shell does, and its arguments. Mandatory.
	Command []string
	// LockFile is the file whose lock the command has while it runs. Its directory exists.
	LockFile string
	// Env is the environment of the command, to which the variables of its grant are added.
	Env []string
	// Output takes what the command writes. Nil: it is lost.
	Output io.Writer
	// Started is called once when the command has begun, unless that is not known. Nil: nothing is
	// called.
	Started func()
	// Drain is how long the command has to end when it is asked to.
	Drain time.Duration
	// Grants yields the grant of the command, and each renewal, until its context ends. DrainBy is
	// not looked at.
	Grants func(context.Context) iter.Seq[Grant]
}

// RuntimeDir returns the directory of this user for files that need not survive a boot, and makes
// it. Nobody else can write to it.
func RuntimeDir() (string, error) {
	base, name := os.Getenv("XDG_RUNTIME_DIR"), "muster"
	switch {
	case base != "":
	case os.Geteuid() == 0:
		base = "/run"
	default:
		base, name = os.TempDir(), fmt.Sprintf("muster-%d", os.Getuid())
	}
	dir := filepath.Join(base, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return "", err
	case !info.IsDir() || !ownedByUs(info):
		return "", fmt.Errorf("%s belongs to somebody else", dir)
	}
	return dir, nil
}
