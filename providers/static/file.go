package static

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"

	"github.com/musterhq/muster/internal/smallfile"
)

// readFile returns the addresses of the file at path, as they are written, in
// their order and each once, or else what is wrong with it, where, and how it is
// fixed. One bad line makes the whole file bad: part of a set is none.
func readFile(path string) (addrs []string, problem, hint string) {
	b, err := smallfile.Read(path) // it is followed
	if err != nil {
		return nil, fmt.Sprintf("cannot be read: %v", bare(err)), "make it, with one HOST:PORT on each line"
	}
	// Editors that write in place empty the file first. An operator who means no
	// peer at all says so in a comment.
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, "is empty", "write one HOST:PORT on each line, or a comment if none is meant"
	}
	seen := make(map[string]bool)
	scanner := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; scanner.Scan(); n++ {
		text, _, _ := strings.Cut(scanner.Text(), "#")
		addr := strings.TrimSpace(text)
		if addr == "" {
			continue
		}
		canonical, problem, hint := parseAddr(addr)
		if problem != "" {
			return nil, fmt.Sprintf("line %d: %q: %s", n, addr, problem), hint
		}
		if !seen[canonical] {
			seen[canonical] = true
			addrs = append(addrs, addr)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Sprintf("%v", err), "write one HOST:PORT on each line"
	}
	return addrs, "", ""
}
