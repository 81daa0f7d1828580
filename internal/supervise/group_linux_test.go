package supervise

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/wait"
)

// wrapperVariable has this binary be a wrapper in the directory that it names: of the script
// "command" there, in a process group, under a grant that lasts for a minute or as long as
// grantVariable says.
const (
	wrapperVariable = "SUPERVISE_TEST_WRAPPER"
	grantVariable   = "SUPERVISE_TEST_GRANT"
)

func TestMain(m *testing.M) {
	if status, is := Main(); is {
		os.Exit(status)
	}
	if dir := os.Getenv(onceVariable); dir != "" {
		os.Exit(runOnceIn(dir))
	}
	if dir := os.Getenv(orphansVariable); dir != "" {
		os.Exit(killOrphansIn(dir))
	}
	if dir := os.Getenv(wrapperVariable); dir != "" {
		os.Exit(runWrapper(dir))
	}
	os.Exit(m.Run())
}

func runWrapper(dir string) int {
	// As what a script has started before it becomes the wrapper.
	before := exec.Command("sleep", "600")
	if err := before.Start(); err != nil {
		return 99
	}
	write(dir, "before", before.Process.Pid)
	lasts, err := time.ParseDuration(os.Getenv(grantVariable))
	if err != nil {
		lasts = time.Minute
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	status, err := Run(context.Background(), Options{
		Command: []string{filepath.Join(dir, "command"), dir}, Restart: RestartAlways, NoNamespace: true,
		LockFile: filepath.Join(dir, "lock"), Source: oneGrant{lasts}, Signals: signals,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		slog.Error("wrapper", "error", err)
	}
	return status
}

// oneGrant is a node that is master for a while.
type oneGrant struct{ lasts time.Duration }

func (o oneGrant) Follow(ctx context.Context, update func(Grant)) error {
	update(Grant{Term: 1, ClusterID: "c", NodeID: "n", Deadline: clock.Now().Add(o.lasts)})
	<-ctx.Done()
	return ctx.Err()
}

func (oneGrant) Done(context.Context, uint64, bool) error { return nil }

func write(dir, name string, pid int) {
	_ = os.WriteFile(filepath.Join(dir, name), []byte(strconv.Itoa(pid)+"\n"), 0o600)
}

// startWrapper starts a wrapper of a script, whose first argument is the directory.
func startWrapper(t *testing.T, script string, environment ...string) (dir string, wrapper *exec.Cmd) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "command"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	wrapper = exec.Command(self)
	wrapper.Env = append(append(os.Environ(), wrapperVariable+"="+dir), environment...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	wrapper.Stdout, wrapper.Stderr = log, log
	if err := wrapper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = wrapper.Process.Kill()
		_ = wrapper.Wait()
		_ = syscall.Kill(pidIn(t, dir, "before"), syscall.SIGKILL)
		if text, _ := os.ReadFile(filepath.Join(dir, "log")); t.Failed() {
			t.Logf("the wrapper:\n%s", text)
		}
	})
	return dir, wrapper
}

// pidIn waits for a file with the id of a process.
func pidIn(t *testing.T, dir, name string) (pid int) {
	t.Helper()
	wait.For(t, name+" has started", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0 && strings.HasSuffix(string(text), "\n")
	})
	return pid
}

func alive(pid int) bool {
	f := stat(pid)
	return f != nil && f[0] != "Z"
}

// supervisorOf returns the supervisor of a process of the command that is no leader.
func supervisorOf(t *testing.T, pid int) int {
	t.Helper()
	f := stat(pid)
	if f == nil {
		t.Fatalf("process %d has ended", pid)
	}
	parent, _ := strconv.Atoi(f[statParent])
	return parent
}

// A command with a child in its group and one that has left it.
const twoChildren = `trap '' TERM HUP
sleep 600 & echo $! > $1/child
setsid sleep 600 & echo $! > $1/apart
echo $$ > $1/leader
while :; do sleep 1; done
`

// All of a command in a process group dies with its wrapper, also if the supervisor is stopped,
// and with its supervisor. What was there before goes on.
func TestGroupDiesWithWhoRunsIt(t *testing.T) {
	for _, v := range []struct {
		name          string
		stop, wrapper bool
	}{
		{"the wrapper", false, true},
		{"the wrapper of a supervisor that is stopped", true, true},
		{"the supervisor", false, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			dir, wrapper := startWrapper(t, twoChildren)
			leader := pidIn(t, dir, "leader")
			pids := []int{leader, pidIn(t, dir, "child"), pidIn(t, dir, "apart")}
			supervisor := supervisorOf(t, leader)
			if v.stop {
				_ = syscall.Kill(supervisor, syscall.SIGSTOP)
			}
			if v.wrapper {
				_ = wrapper.Process.Kill()
			} else {
				_ = syscall.Kill(supervisor, syscall.SIGKILL)
			}
			for _, pid := range pids {
				wait.For(t, "the command has ended", func() bool { return !alive(pid) })
			}
			if !alive(pidIn(t, dir, "before")) {
				t.Error("what was started before the wrapper was killed")
			}
		})
	}
}

// A command that leaves each process behind as soon as it has started another is killed in time.
func TestGroupKillsWhatKeepsForking(t *testing.T) {
	const lasts = 3 * time.Second
	began := clock.Now()
	dir, _ := startWrapper(t, `trap '' TERM HUP
echo >> $1/beats
sleep 0.002
setsid $0 $1 &
`+"[ -e $1/first ] || { echo > $1/first; while :; do sleep 1; done; }\n", grantVariable+"="+lasts.String())
	beats := func() int64 {
		info, err := os.Stat(filepath.Join(dir, "beats"))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	wait.For(t, "it forks", func() bool { return beats() > 20 })
	if clock.Now().Sub(began) > lasts {
		t.Skip("this machine is too slow to see it fork before the end of the grant")
	}
	wait.For(t, "its end", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "log"))
		return strings.Contains(string(text), "command ended")
	})
	t.Logf("it has ended %v after the start", clock.Now().Sub(began))
	info, err := os.Stat(filepath.Join(dir, "beats"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Stat(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if info.ModTime().After(log.ModTime()) {
		t.Errorf("it wrote at %v, and is said to have ended at %v", info.ModTime(), log.ModTime())
	}
}

// A command that was sent another signal than one to end is run again when it ends, whatever it
// leaves behind.
func TestGroupRunsAgainAfterAPassedSignal(t *testing.T) {
	dir, wrapper := startWrapper(t, `trap 'echo $$ > $1/hup' HUP
(trap '' HUP; exec sleep 600) &
echo $$ >> $1/runs
while [ ! -e $1/hup ]; do sleep 0.05; done
`)
	runs := func() int {
		text, _ := os.ReadFile(filepath.Join(dir, "runs"))
		return strings.Count(string(text), "\n")
	}
	wait.For(t, "the first run", func() bool { return runs() == 1 })
	if err := wrapper.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "another run", func() bool { return runs() > 1 })
}

// A wrapper that waits for a lock only so long says who may have it.
func TestLockThatIsNotGiven(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, taken, err := Lock(path)
	if err != nil || !taken {
		t.Fatal(taken, err)
	}
	defer held.Close()
	status, err := Run(t.Context(), Options{
		Command: []string{"true"}, LockFile: path, Source: oneGrant{time.Minute},
		Logger: slog.New(slog.DiscardHandler), lockWithin: 10 * time.Millisecond,
	})
	if err == nil || !strings.Contains(err.Error(), "an earlier run") || status == 0 {
		t.Errorf("status %d, %v", status, err)
	}
}
