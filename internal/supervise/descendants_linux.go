package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// endPoll is how often a process that was killed is looked at again until it has ended.
const endPoll = time.Millisecond

// killDescendants kills all descendants of this process, but those that are spared, and waits
// until none is left. This process adopts those whose parents end meanwhile, so that none is left
// when it has no child. Each is killed as soon as it is found: one that starts others all the time
// is found again in the next round, which follows at once as long as there is anybody new.
func killDescendants(spared processes, reaped func(pid int, ws syscall.WaitStatus)) {
	killed := make(map[int]bool)
	// The list of children lacks one that is handed on by a thread that ends: hence two looks.
	for quiet := 0; quiet < 2; {
		mine, fresh := killChildren(os.Getpid(), spared, killed)
		for below := mine; len(below) > 0; below = below[1:] {
			more, alsoFresh := killChildren(below[0], spared, killed)
			below, fresh = append(below, more...), fresh || alsoFresh
		}
		for _, pid := range mine {
			var ws syscall.WaitStatus
			if n, err := syscall.Wait4(pid, &ws, syscall.WNOHANG, nil); err == nil && n == pid {
				delete(killed, pid)
				reaped(pid, ws)
			}
		}
		quiet++
		if len(mine) > 0 {
			quiet = 0
		}
		if quiet == 0 && !fresh {
			time.Sleep(endPoll)
		}
	}
}

// killChildren kills the children of a process, and reports whether there were others than those
// killed before.
func killChildren(parent int, spared processes, killed map[int]bool) (found []int, fresh bool) {
	for _, pid := range children(parent) {
		if spared.has(pid) || wrappers.has(pid) {
			continue
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
		fresh = fresh || !killed[pid]
		killed[pid] = true
		found = append(found, pid)
	}
	return found, fresh
}

// processes are the ids of processes, and when each was started: an id is used again.
type processes map[int]string

// descendants are the processes below this one.
func descendants() processes {
	all := make(processes)
	below := children(os.Getpid())
	for i := 0; i < len(below); i++ {
		if f := stat(below[i]); f != nil {
			all[below[i]] = f[statStarted]
		}
		below = append(below, children(below[i])...)
	}
	return all
}

func (p processes) has(pid int) bool {
	started, ok := p[pid]
	if !ok {
		return false
	}
	f := stat(pid)
	return f != nil && f[statStarted] == started
}

// children are the ids of the children of a process, also of those that have ended and were not
// waited for.
func children(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/children", pid))
	if tasks == nil {
		return childrenInTable(pid) // the kernel has no such files, or the process has ended
	}
	for _, path := range tasks {
		text, _ := os.ReadFile(path)
		for _, f := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(f); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

func childrenInTable(pid int) (all []int) {
	if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid())); err == nil {
		return nil
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		child, _ := strconv.Atoi(filepath.Base(dir))
		if f := stat(child); f != nil && f[statParent] == strconv.Itoa(pid) {
			all = append(all, child)
		}
	}
	return all
}

// Where stat has which of what /proc says.
const (
	statParent  = 1
	statStarted = 19
)

// stat is what /proc says of a process after its name; nil if it has ended.
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	// The name, in parentheses, may hold anything.
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) <= statStarted {
		return nil
	}
	return f
}
