package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// The documents that come with the program, below the stage.
const (
	manuals     = "man"
	completions = "completion"
	licences    = "THIRD_PARTY_LICENSES"
)

// documents writes the manual pages, the completion scripts and the licences of what the
// programs of the targets link.
func (r *release) documents(ctx context.Context, targets []target) error {
	for _, dir := range []string{manuals, completions} {
		if err := os.Mkdir(filepath.Join(r.stage, dir), 0o755); err != nil {
			return err
		}
	}
	// The tag adds the command that writes the pages. This program is not published.
	program := filepath.Join(r.stage, "documents")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if err := r.compile(ctx, program, "musterdoc"); err != nil {
		return err
	}
	defer os.Remove(program)
	if _, err := r.command(ctx, nil, program, "man", filepath.Join(r.stage, manuals)); err != nil {
		return err
	}
	for shell, file := range map[string]string{"bash": "muster.bash", "zsh": "_muster", "fish": "muster.fish", "powershell": "muster.ps1"} {
		script, err := r.command(ctx, nil, program, "completion", shell)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.stage, completions, file), []byte(script+"\n"), 0o644); err != nil {
			return err
		}
	}
	return r.thirdParty(ctx, targets)
}

// thirdParty writes the licences of the modules that the programs link, which wish to go where
// the program goes, and of Go. The source of each is public, at the path and version given.
func (r *release) thirdParty(ctx context.Context, targets []target) error {
	dirs := map[string]string{}
	for _, t := range targets {
		list, err := r.command(ctx, []string{"GOOS=" + t.os, "GOARCH=" + t.arch}, "go", "list", "-deps",
			"-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}", "./cmd/muster")
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(list, "\n") {
			if module, dir, ok := strings.Cut(line, "\t"); ok {
				dirs[module] = dir
			}
		}
	}
	goroot, err := r.command(ctx, nil, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	modules := make([]string, 0, len(dirs))
	for module := range dirs {
		modules = append(modules, module)
	}
	slices.Sort(modules)
	var text bytes.Buffer
	text.WriteString("Muster contains the Go standard library and the modules below, unchanged. The source of a\nmodule is at https://proxy.golang.org, by its path and version. Their licences:\n")
	if err := appendLicences(&text, "Go", goroot); err != nil {
		return err
	}
	for _, module := range modules {
		if err := appendLicences(&text, module, dirs[module]); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(r.stage, licences), text.Bytes(), 0o644)
}

// appendLicences appends the files in dir that licences are known to be in.
func appendLicences(text *bytes.Buffer, module, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := false
	for _, entry := range entries {
		name := strings.ToUpper(entry.Name())
		licence := strings.HasPrefix(name, "LICEN") || strings.HasPrefix(name, "COPYING")
		if entry.IsDir() || !licence && !strings.HasPrefix(name, "NOTICE") && !strings.HasPrefix(name, "PATENTS") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		found = found || licence
		fmt.Fprintf(text, "\n%s\n%s: %s\n\n%s\n", strings.Repeat("=", 80), module, entry.Name(), bytes.TrimSpace(content))
	}
	if !found {
		return fmt.Errorf("%s: no licence in %s", module, dir)
	}
	return nil
}

// A file goes into an archive.
type file struct {
	name   string // with slashes
	source string
	mode   os.FileMode
}

// files are those of the archive of a target, sorted by name, below one directory.
func (r *release) files(t target) ([]file, error) {
	dir := "muster_" + r.number() + "_" + t.String()
	files := []file{
		{filepath.Base(r.program(t)), r.program(t), 0o755},
		{licences, filepath.Join(r.stage, licences), 0o644},
	}
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md"} {
		files = append(files, file{name, filepath.Join(r.root, name), 0o644})
	}
	trees := map[string]string{completions: filepath.Join(r.stage, completions)}
	if t.os != "windows" {
		trees[manuals+"/man1"] = filepath.Join(r.stage, manuals)
	}
	if t.os == "linux" {
		trees["systemd"] = filepath.Join(r.root, "deploy", "systemd")
	}
	for name, source := range trees {
		entries, err := os.ReadDir(source)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			files = append(files, file{name + "/" + entry.Name(), filepath.Join(source, entry.Name()), 0o644})
		}
	}
	for i := range files {
		files[i].name = dir + "/" + files[i].name
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return files, nil
}
