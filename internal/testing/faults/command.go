package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/process"
	"github.com/musterhq/muster/internal/testing/wait"
)

// wrapper is a muster while-master on a host, whose agent is the worker there. Its command is the
// worker, too, and notes that it runs.
type wrapper struct {
	host    *Host
	command string // what the worker is told to be
	args    []string
	process *process.Process
}

// beatsFile is where all commands of the cluster write.
func (l *Lab) beatsFile() string { return filepath.Join(l.dir, "beats") }

// beats are the notes of all commands.
func (l *Lab) beats() []checker.Note {
	l.t.Helper()
	notes, err := readNotes(l.beatsFile(), skew{})
	if err != nil {
		l.t.Error(err)
	}
	return notes
}

// Wrap starts a muster while-master on a host. The command is "command", or "parent", which has
// a child that does what the other one does.
func (l *Lab) Wrap(h *Host, command string, args ...string) *wrapper {
	l.t.Helper()
	w := &wrapper{host: h, command: command, args: append([]string{
		"while-master", "--agent", h.IP() + ":7980", "--restart", "always", "--name", "beats", "--lock-file", h.file(".lock"),
	}, args...)}
	w.start()
	l.wrappers = append(l.wrappers, w)
	return w
}

func (w *wrapper) start() {
	l := w.host.lab
	l.t.Helper()
	p, err := process.Start(process.Config{
		Program: build(l.t, musterPackage), Args: append(append([]string{}, w.args...), "--", l.worker, w.command, l.beatsFile()),
		Log: w.host.file(".wrapper.log"), Netns: w.host.Netns(),
	})
	if err != nil {
		l.t.Fatalf("start muster while-master on %s: %v", w.host.Name(), err)
	}
	w.process = p
}

func (w *wrapper) stop() {
	_ = w.process.Resume()
	if !w.process.Stop(wait.Patience) {
		w.host.lab.t.Errorf("muster while-master on %s did not end", w.host.Name())
	}
}

// childOf is the first child of a process, waiting for it.
func (l *Lab) childOf(pid int) (child int) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("process %d has a child", pid), func(context.Context) bool {
		tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
		for _, path := range tasks {
			text, _ := os.ReadFile(path) // the thread may be gone
			if fields := strings.Fields(string(text)); len(fields) > 0 {
				child, _ = strconv.Atoi(fields[0])
				return true
			}
		}
		return false
	})
	return child
}

// lastBeat is the latest note of a command.
func (l *Lab) lastBeat() (last checker.Note) {
	for _, n := range l.beats() {
		if n.BootNS > last.BootNS {
			last = n
		}
	}
	return last
}

// nextCommand waits until another command runs than that of a note, and goes on.
func (l *Lab) nextCommand(before checker.Note) (now checker.Note) {
	l.t.Helper()
	var first checker.Note
	l.eventually("another command runs", func(context.Context) bool {
		n := l.lastBeat()
		if n.InstanceID == before.InstanceID {
			return false
		}
		if first.InstanceID != n.InstanceID {
			first = n
		}
		now = n
		return n.BootNS > first.BootNS
	})
	l.logf("command %.8s of term %d runs", now.InstanceID, now.Term)
	return now
}

// commandsAttacked kills, and stops, each of the processes that keep a command in check, and it.
func commandsAttacked(l *Lab, args ...string) {
	wrappers := make(map[*Host]*wrapper)
	l.Form()
	for _, h := range l.Hosts {
		wrappers[h] = l.Wrap(h, "command", args...)
	}
	beat := l.nextCommand(checker.Note{})
	master := func() *wrapper {
		l.t.Helper()
		var w *wrapper
		l.eventually("the master's command runs", func(ctx context.Context) bool {
			m := l.agreed(ctx, l.running(), true)
			if m == nil {
				return false
			}
			v, err := m.view(ctx)
			beat = l.lastBeat()
			w = wrappers[m]
			return err == nil && v.Term == beat.Term && now()-beat.BootNS < int64(time.Second)
		})
		return w
	}
	must := func(what string, err error) {
		if err != nil {
			l.t.Errorf("%s: %v", what, err)
		}
	}
	for _, victim := range []string{"wrapper", "supervisor", "command"} {
		w := master()
		pid := w.process.ID()
		for range map[string]int{"wrapper": 0, "supervisor": 1, "command": 2}[victim] {
			pid = l.childOf(pid)
		}
		l.logf("the %s on %s is killed", victim, w.host.Name())
		must("kill it", process.KillID(pid))
		if victim == "wrapper" {
			<-w.process.Done()
			w.start()
		}
		beat = l.nextCommand(beat)

		// It is stopped, and so is the agent: nothing is renewed, and another host is master.
		w = master()
		pid = w.process.ID()
		for range map[string]int{"wrapper": 0, "supervisor": 1, "command": 2}[victim] {
			pid = l.childOf(pid)
		}
		l.logf("the %s on %s is stopped", victim, w.host.Name())
		must("stop it", process.PauseID(pid))
		w.host.Pause()
		beat = l.nextCommand(beat)
		_ = process.ResumeID(pid) // it may have been killed
		w.host.Resume()
		l.Well()
	}
	w := master()
	w.host.Kill()
	beat = l.nextCommand(beat)
	w.host.Start()
	l.Well()
}
