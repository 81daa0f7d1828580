package main

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// started is when a service has long started, and needs no more what only its start needed.
const started = 15 * time.Second

// shrinkOnceStarted takes the pages of the program's file that only its start needed out of the
// resident memory: the system maps sixteen for each that is touched, and the start touches code all
// over the program. What is needed again is mapped again, from the cache of files, without a read.
// It happens once.
func shrinkOnceStarted() {
	time.AfterFunc(started, func() {
		file, err := os.Open("/proc/self/smaps")
		if err != nil {
			return // a system that hides it
		}
		defer file.Close()
		program, err := os.Readlink("/proc/self/exe")
		if err != nil {
			return
		}
		for _, m := range cleanMappings(file, program) {
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.start, m.size, syscall.MADV_DONTNEED)
		}
	})
}

// mapping is a part of the address space.
type mapping struct{ start, size uintptr }

// cleanMappings returns where a file is mapped, according to smaps, as long as that cannot be
// written to and has no page that differs from the file.
func cleanMappings(smaps io.Reader, file string) []mapping {
	var found []mapping
	var last *mapping // one of the file, until it is known to be clean
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		if from, to, ok := strings.Cut(fields[0], "-"); ok {
			start, err1 := strconv.ParseUint(from, 16, 64)
			end, err2 := strconv.ParseUint(to, 16, 64)
			last = nil
			if err1 == nil && err2 == nil && start < end && !strings.Contains(fields[1], "w") && strings.Join(fields[min(5, len(fields)):], " ") == file {
				last = &mapping{uintptr(start), uintptr(end - start)}
			}
		}
		if fields[0] == "Anonymous:" && fields[1] == "0" && last != nil {
			found = append(found, *last)
			last = nil
		}
	}
	return found
}
