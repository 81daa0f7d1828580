package alarm_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// final are the lines that are warnings or errors and no alarms, since nothing comes after
// them, and those of a package that imports the standard library alone.
var final = []string{
	`tlsfiles/files.go: log.Warn("certificates not reloaded", "alarm", alarmUnusable`,
	`tlsfiles/files.go: log.Warn("certificate expires soon or has expired", "alarm", alarmExpires`,
	`internal/testing/faults/worker/app.go: a.log.Error("note not written"`,
	`node/call/server.go: m.log.Error("handler panicked"`,
	`node/leave.go: n.log.Error("node ends"`,
	`node/internal/membership/stop.go: m.log.Error("membership ends"`,
	`registrar/stop.go: r.log.Warn("not deregistered at the end"`,
	`registrar/stop.go: r.log.Warn("session not renewed at the end"`,
}

var (
	warning  = regexp.MustCompile(`\b[\w.]*([lL]og|[lL]ogger|slog)\.(Warn|Error)(Context)?\(.*`)
	declared = regexp.MustCompile(`Name: "(\w+)", Raised: "|^\s*alarm[A-Z]\w*\s*= "(\w+)"$`)
)

// sources calls f with each line of the repository's own code.
func sources(t *testing.T, f func(file, line string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		if err != nil || !d.IsDir() && (!strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go")) {
			return err
		}
		file, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(name, ".") && file != "." || file == "tools" || file == filepath.Join("internal", "alarm") {
				return fs.SkipDir
			}
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(strings.TrimSpace(line), "//") {
				f(filepath.ToSlash(file), strings.TrimRight(line, "\n"))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A warning that nothing ever clears is one that operators learn to overlook: each goes
// through this package, unless it is the last word of what ends.
func TestEveryWarningIsAnAlarm(t *testing.T) {
	found := 0
	sources(t, func(file, line string) {
		call := warning.FindString(line)
		if call == "" {
			return
		}
		text := file + ": " + call
		if slices.ContainsFunc(final, func(f string) bool { return strings.HasPrefix(text, f) }) {
			found++
			return
		}
		t.Errorf("%s\na warning is an alarm: use internal/alarm, which says when it is over, and add it to docs/logs.md", text)
	})
	if found != len(final) {
		t.Errorf("%d lines that are no alarms, want %d: was the repository read?", found, len(final))
	}
}

// The page on logs has every alarm, and no other.
func TestAlarmsAreDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "logs.md"))
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(string(text), -1) {
		listed = append(listed, row[1])
	}
	if !slices.IsSorted(listed) || len(listed) == 0 {
		t.Errorf("the alarms are not listed by name: %v", listed)
	}
	names := make(map[string]bool)
	sources(t, func(file, line string) {
		if m := declared.FindStringSubmatch(line); m != nil {
			if m[1] == "" && file != "tlsfiles/files.go" {
				return
			}
			name := m[1] + m[2]
			names[name] = true
			if !slices.Contains(listed, name) {
				t.Errorf("%s: the alarm %s is not listed in docs/logs.md", file, name)
			}
		}
	})
	for _, name := range listed {
		if !names[name] {
			t.Errorf("docs/logs.md lists %s, which no code raises", name)
		}
	}
}
