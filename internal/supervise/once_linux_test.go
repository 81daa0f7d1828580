package supervise

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/wait"
)

// onceVariable has this binary run RunOnce in the directory that it names, and orphansVariable kill
// orphans beside that.
const (
	onceVariable    = "SUPERVISE_TEST_ONCE"
	orphansVariable = "SUPERVISE_TEST_ORPHANS"
)

// output takes what a command writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func lasting(d time.Duration, term uint64) func(context.Context) iter.Seq[Grant] {
	return func(context.Context) iter.Seq[Grant] {
		return func(yield func(Grant) bool) {
			yield(Grant{Term: term, ClusterID: "c1", NodeID: "n1", Deadline: clock.Now().Add(d)})
		}
	}
}

func shell(t *testing.T, o *output, script string) Once {
	return Once{
		Command: []string{"/bin/sh", "-c", script}, LockFile: filepath.Join(t.TempDir(), "lock"), Env: []string{"PATH=" + os.Getenv("PATH"), "A=b"},
		Output: o, Drain: 10 * time.Second, Grants: lasting(time.Hour, 7),
	}
}

func TestOnce(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		change func(*Once)
		status int
		want   string
		err    string
		is     error
	}{
		"status":        {script: `echo out; echo err >&2; exit 3`, status: 3, want: "out\nerr\n"},
		"environment":   {script: `echo $A $MUSTER_RUN_TERM $MUSTER_RUN_CLUSTER_ID $MUSTER_RUN_NODE_ID $HOME`, want: "b 7 c1 n1\n"},
		"without term":  {script: `echo ${MUSTER_RUN_TERM-none} ${MUSTER_RUN_CLUSTER_ID-none} $MUSTER_RUN_NODE_ID`, change: func(o *Once) { o.Grants = lasting(time.Hour, NoTerm) }, want: "none none n1\n"},
		"no program":    {change: func(o *Once) { o.Command = []string{"/no/such"} }, status: 127, want: "muster: /no/such: cannot be executed: fork/exec /no/such: no such file or directory\n"},
		"leaves behind": {script: `sleep 600 & echo started`, want: "started\n"},
		"grant expired": {script: `echo ran`, change: func(o *Once) { o.Grants = lasting(-time.Second, 7) }, err: "it was not started"},
		"no grant":      {script: `echo ran`, change: func(o *Once) { o.Grants = lasting(time.Hour, 0) }, err: "it was not started"},
		"grant ends":    {script: `trap "" TERM; echo ran; sleep 600`, change: func(o *Once) { o.Grants = lasting(3*time.Second, 7) }, status: 137, want: "ran\n", is: ErrNotRenewed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out output
			o := shell(t, &out, c.script)
			if c.change != nil {
				c.change(&o)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.err != "" {
				cancel()
			}
			status, err := RunOnce(ctx, o)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || out.String() != "" {
					t.Errorf("status %d, %v, output %q", status, err, out.String())
				}
				return
			}
			if name == "no program" {
				c.want = out.String()
			}
			if !errors.Is(err, c.is) || status != c.status || out.String() != c.want {
				t.Errorf("status %d, %v, output %q; want %d, %v, %q", status, err, out.String(), c.status, c.is, c.want)
			}
		})
	}
}

// When its context ends a command may end in order; one that does not is killed.
func TestOnceIsAskedToEnd(t *testing.T) {
	for name, c := range map[string]struct {
		trap   string // set before the test may cancel
		then   string
		drain  time.Duration
		status int
		want   string
	}{
		"ends":        {`trap "echo bye; exit 0" TERM`, ``, time.Minute, 0, "begun\nbye\n"},
		"by default":  {``, ``, time.Minute, 143, "begun\n"},
		"does not":    {`trap "" TERM`, ``, 500 * time.Millisecond, 137, "begun\n"},
		"is stopped":  {``, `kill -STOP $$`, 500 * time.Millisecond, 137, "begun\n"},
		"and leaves ": {`sleep 600 & trap "exit 4" TERM`, ``, time.Minute, 4, "begun\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out output
			o := shell(t, &out, c.trap+"\necho begun\n"+c.then+`
while :; do sleep 0.05; done`)
			o.Drain = c.drain
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				wait.Until(ctx, func() bool { return strings.Contains(out.String(), "begun") })
				cancel()
			}()
			status, err := RunOnce(ctx, o)
			if err != nil || status != c.status && !(name == "by default" && status == 137) || strings.ReplaceAll(out.String(), "Terminated\n", "") != c.want {
				t.Errorf("status %d, %v, output %q; want %d, %q", status, err, out.String(), c.status, c.want)
			}
		})
	}
}

// A service manager sends signals to all processes of the agent: it is the agent that has the
// command end. That the wrapper is killed is no status of the command.
func TestOnceSignalsToTheWrapper(t *testing.T) {
	for name, c := range map[string]struct {
		signals []syscall.Signal
		is      error
		want    string
	}{
		"that ask":  {signals: []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT}, want: "begun\nended\n"},
		"that kill": {signals: []syscall.Signal{syscall.SIGKILL}, is: ErrLost, want: "begun\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out output
			free := filepath.Join(t.TempDir(), "free")
			o := shell(t, &out, `echo begun; while [ ! -e `+free+` ]; do sleep 0.05; done; echo ended`)
			result := make(chan error, 1)
			go func() {
				_, err := RunOnce(t.Context(), o)
				result <- err
			}()
			wait.For(t, "the command runs", func() bool { return out.String() == "begun\n" })
			sent := 0
			for _, pid := range children(os.Getpid()) {
				line, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
				if !strings.Contains(string(line), o.LockFile) {
					continue
				}
				for _, s := range c.signals {
					if syscall.Kill(pid, s) == nil {
						sent++
					}
				}
			}
			if c.is != nil {
				if err := <-result; !errors.Is(err, c.is) || out.String() != c.want {
					t.Errorf("%v, output %q; want %v, %q", err, out.String(), c.is, c.want)
				}
			}
			if err := os.WriteFile(free, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.is == nil {
				if err := <-result; err != nil || out.String() != c.want {
					t.Errorf("%v, output %q; want %q", err, out.String(), c.want)
				}
			}
			if sent != len(c.signals) {
				t.Errorf("%d signals were sent", sent)
			}
		})
	}
}

// Several run in one process; the end of one is nothing to the others.
func TestOnceManyAtATime(t *testing.T) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			var out output
			status, err := RunOnce(t.Context(), shell(t, &out, "sleep 0."+strconv.Itoa(i)+"; echo done; exit "+strconv.Itoa(i)))
			if err != nil || status != i || out.String() != "done\n" {
				t.Errorf("%d: status %d, %v, %q", i, status, err, out.String())
			}
		})
	}
	all.Wait()
}

func runOnceIn(dir string) int {
	_, _ = RunOnce(context.Background(), Once{
		Command:  []string{"/bin/sh", "-c", `trap "" TERM; echo $$ > inner; sleep 600 & while :; do date +%s%N > beat; sleep 0.05; done`},
		LockFile: filepath.Join(dir, "lock"), Env: os.Environ(), Drain: time.Minute, Grants: lasting(time.Hour, 7),
	})
	return 0
}

// startOnce starts this binary with the variable, in a directory of its own, and waits until the
// command of runOnceIn runs there. beat returns another text each time that it went on.
func startOnce(t *testing.T, variable string) (dir string, agent *exec.Cmd, beat func() string) {
	t.Helper()
	dir = t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	agent = exec.Command(self)
	agent.Env, agent.Dir = append(os.Environ(), variable+"="+dir), dir
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	beat = func() string { b, _ := os.ReadFile(filepath.Join(dir, "beat")); return string(b) }
	wait.For(t, "the command runs", func() bool { return beat() != "" })
	return dir, agent, beat
}

// The agent is killed: all of the command is, although its grant lasts.
func TestOnceDiesWithTheAgent(t *testing.T) {
	dir, agent, _ := startOnce(t, onceVariable)
	_ = agent.Process.Signal(syscall.SIGKILL)
	_ = agent.Wait()
	wait.For(t, "it holds no lock", func() bool {
		f, taken, err := Lock(filepath.Join(dir, "lock"))
		if err == nil && taken {
			f.Close()
		}
		return taken
	})
}

// killOrphansIn has a Run of this process kill what a command has left, beside a RunOnce.
func killOrphansIn(dir string) int {
	go runOnceIn(dir)
	wait.Until(context.Background(), func() bool {
		_, err := os.Stat(filepath.Join(dir, "beat"))
		return err == nil
	})
	orphan := exec.Command("sleep", "600")
	if orphan.Start() != nil {
		return 1
	}
	killOrphans(processes{})
	write(dir, "killed", orphan.Process.Pid)
	select {}
}

// What Run kills in a process that has jobs, too, are not the jobs.
func TestOnceIsNoOrphan(t *testing.T) {
	dir, _, beat := startOnce(t, orphansVariable)
	var orphan int
	wait.For(t, "the orphan is killed", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "killed"))
		orphan, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return orphan != 0
	})
	if syscall.Kill(orphan, 0) == nil {
		t.Errorf("the orphan %d is alive", orphan)
	}
	last := beat()
	wait.For(t, "the command goes on", func() bool { return beat() != last })
}

// A supervisor kills its command at the last deadline that it was given, and says so.
func TestSupervisorAtItsDeadline(t *testing.T) {
	for _, how := range isolations(true) {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			lock, err := os.Create(filepath.Join(t.TempDir(), "lock"))
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
			end := make(chan ended, 1)
			l := launcher{args: []string{"sleep", "600"}, lock: lock, isolations: []isolation{how}}
			p, err := l.start(func(e ended) { end <- e })
			if err != nil {
				t.Skip(err)
			}
			deadline := clock.Now().Add(3 * time.Second)
			if err := p.run(Grant{Term: 1, ClusterID: "c", NodeID: "n", Deadline: deadline}); err != nil {
				t.Fatal(err)
			}
			select {
			case e := <-end:
				if !e.expired || e.unstarted || e.unseen || e.status != 137 {
					t.Errorf("its end: %+v", e)
				}
			case <-time.After(wait.Patience):
				t.Error("it goes on after its deadline")
				p.kill()
			}
		})
	}
}
