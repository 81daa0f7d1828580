// Command typecheck says whether a module compiles for systems other than this one, its tests and
// all that they import included, and compiles nothing: it lists what each system would compile and
// checks the types of that, from its sources. To check a system takes a tenth of the time that to
// compile for it does.
//
//	go run ./internal/testing/typecheck linux/amd64 windows/arm64
//
// The checker is the one that the compiler has. What it does not see is what comes after it:
// assembly and linking, which make cross-build does for some. Of the standard library it reads
// what is declared, and no function's body.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

func main() {
	ok, err := run(context.Background(), os.Stdout, ".", os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "typecheck:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// atATime is how many systems are checked at a time. Each holds the types of a thousand packages.
const atATime = 2

// run checks the module of dir for each target, as linux/amd64, and writes a line for each error
// of its code, the target before it. ok says that there was none.
func run(ctx context.Context, w io.Writer, dir string, targets []string) (ok bool, err error) {
	if len(targets) == 0 {
		return false, errors.New("no system to check for: name some, as linux/amd64")
	}
	found, failed := make([][]string, len(targets)), make([]error, len(targets))
	var checks sync.WaitGroup
	slots := make(chan struct{}, atATime)
	for i, target := range targets {
		checks.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			found[i], failed[i] = check(ctx, dir, target)
		})
	}
	checks.Wait()
	if err := errors.Join(failed...); err != nil {
		return false, err
	}
	ok = true
	for i, target := range targets {
		// What is not of a test is compiled alone, and again for the tests of its package.
		seen := make(map[string]bool)
		for _, line := range found[i] {
			if ok = false; !seen[line] {
				fmt.Fprintf(w, "%s: %s\n", target, line)
			}
			seen[line] = true
		}
	}
	return ok, nil
}

// A listed package is what go list says of one. Its fields have the meaning that they have there.
type listed struct {
	Dir, ImportPath, Name string
	GoFiles               []string
	ImportMap             map[string]string
	Standard              bool
	Module                *struct{ GoVersion string }
}

// list returns the packages that target compiles of the module of dir and its tests, each after
// those that it imports.
func list(ctx context.Context, dir, goos, goarch string) ([]listed, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-test", "-json=Dir,ImportPath,Name,GoFiles,ImportMap,Standard,Module", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var packages []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		// What go test writes itself needs no check.
		if !strings.HasSuffix(p.ImportPath, ".test") {
			packages = append(packages, p)
		}
	}
}

// check returns the errors of the module of dir, in the order of its packages.
func check(ctx context.Context, dir, target string) (found []string, err error) {
	goos, goarch, _ := strings.Cut(target, "/")
	sizes := types.SizesFor("gc", goarch)
	if sizes == nil {
		return nil, fmt.Errorf("%s: no such architecture: say it as linux/amd64", target)
	}
	packages, err := list(ctx, dir, goos, goarch)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	checked := map[string]*types.Package{"unsafe": types.Unsafe}
	for _, p := range packages {
		if p.ImportPath == "unsafe" {
			continue
		}
		files := token.NewFileSet()
		report := func(err error) { found = append(found, err.Error()) }
		config := types.Config{
			Sizes:            sizes,
			IgnoreFuncBodies: p.Standard,
			Error:            report,
			Importer: importer(func(path string) (*types.Package, error) {
				if mapped, ok := p.ImportMap[path]; ok {
					path = mapped
				}
				if imported, ok := checked[path]; ok {
					return imported, nil
				}
				return nil, fmt.Errorf("%s is not among what %s imports", path, p.ImportPath)
			}),
		}
		if p.Module != nil && p.Module.GoVersion != "" {
			config.GoVersion = "go" + p.Module.GoVersion
		}
		var sources []*ast.File
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				report(err)
			}
			if file != nil {
				sources = append(sources, file)
			}
		}
		// A test's package of its own is p_test [p.test], and the path of its types is p_test.
		path, _, _ := strings.Cut(p.ImportPath, " ")
		// All errors are reported.
		checked[p.ImportPath], _ = config.Check(path, files, sources, nil)
	}
	return found, nil
}

// An importer finds packages by the path that is imported.
type importer func(path string) (*types.Package, error)

func (i importer) Import(path string) (*types.Package, error) { return i(path) }
