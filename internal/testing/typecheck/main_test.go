package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// module is one that compiles for Linux alone: for Windows neither a file, nor a test, nor a test's
// package of its own does, and for 32 bits a constant is too large.
var module = map[string]string{
	"go.mod":               "module example.com/m\n\ngo 1.24\n",
	"m.go":                 "package m\n\nimport \"os\"\n\nvar F = os.Getpid\n\nfunc helper() int { return system() }\n",
	"m_linux.go":           "package m\n\nfunc system() int { return 1 << 40 }\n",
	"m_windows.go":         "package m\n\nimport \"syscall\"\n\nfunc system() int { return syscall.Getuid() + missing }\n",
	"m_test.go":            "package m\n\nimport \"testing\"\n\n// Exported is for the package m_test.\nfunc Exported() int { return helper() }\n\nfunc TestIn(t *testing.T) {}\n",
	"in_windows_test.go":   "package m\n\nvar _ string = helper()\n",
	"out_test.go":          "package m_test\n\nimport (\n\t\"testing\"\n\n\t\"example.com/m\"\n)\n\nfunc TestOut(t *testing.T) { _ = m.Exported() }\n",
	"out_windows_test.go":  "package m_test\n\nimport \"os\"\n",
	"sub/s.go":             "package s\n\nimport \"example.com/m\"\n\nvar _ = m.F\n",
	"sub/unset_windows.go": "package s\n\nfunc f() { unused := 1 }\n",
}

// written returns the directory of module.
func written(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range module {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRun(t *testing.T) {
	dir := written(t)
	var b strings.Builder
	if ok, err := run(t.Context(), &b, dir, []string{"linux/amd64", "linux/arm64"}); !ok || err != nil || b.Len() > 0 {
		t.Errorf("for Linux: %v, %v:\n%s", ok, err, b.String())
	}
	b.Reset()
	ok, err := run(t.Context(), &b, dir, []string{"linux/386", "windows/amd64"})
	if ok || err != nil {
		t.Errorf("for others: %v, %v", ok, err)
	}
	if n := strings.Count(b.String(), "undefined: missing"); n != 1 {
		t.Errorf("an error is reported %d times", n)
	}
	for _, want := range []string{
		"linux/386: ", "m_linux.go:3:", "overflows",
		"windows/amd64: ", "m_windows.go:5:", "undefined: missing",
		"in_windows_test.go:3:",
		"out_windows_test.go:3:", "imported and not used",
		"unset_windows.go:3:", "declared and not used",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestRunRefuses(t *testing.T) {
	dir := written(t)
	for _, targets := range [][]string{nil, {"linux"}, {"linux/nothing"}} {
		if ok, err := run(t.Context(), os.Stderr, dir, targets); ok || err == nil {
			t.Errorf("%q: %v, %v, want an error", targets, ok, err)
		}
	}
}
