package testserver

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// tool is a server, or another program, that a nested module builds.
type tool struct {
	// name is that of the program.
	name string
	// module is the module's directory below tools/. Empty: it is called as the program.
	module string
	// tags are those of the build, separated by commas.
	tags string
	// compile are flags of the compiler for all packages of the program.
	compile string
	// pkg is the main package.
	pkg string
	// env names the variable that may hold the path of a program to be used
	// instead of one that is built.
	env string
}

var etcdTool = tool{name: "etcd", pkg: "go.etcd.io/etcd/server/v3", env: "MUSTER_TEST_ETCD"}

// path returns the path of the program and builds it if it is not in the cache.
// The packages of `go test ./...` run side by side in processes of their own: a
// file lock lets one of them build while the others wait.
func (t tool) path() (string, error) {
	if p := os.Getenv(t.env); p != "" {
		return p, nil
	}
	module, err := t.moduleDir()
	if err != nil {
		return "", err
	}
	key, err := t.cacheKey(module)
	if err != nil {
		return "", err
	}
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, t.name+"-"+key)
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if exists(program) {
		return program, nil
	}
	unlock, err := lockFile(filepath.Join(dir, t.name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(program) {
		return program, nil
	}
	if err := t.build(module, program); err != nil {
		return "", err
	}
	return program, nil
}

// build puts the program in place by a rename, so that none is ever seen half
// written.
func (t tool) build(module, program string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(program), "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, filepath.Base(program))
	cmd := exec.Command("go", "build", "-C", module, "-trimpath", "-tags", t.tags, "-gcflags=all="+t.compile, "-o", out, t.pkg)
	// The flags of the tests are none of the server's: it is built alike whichever test
	// asks.
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s in %s: %w\n%s", t.pkg, module, err, output)
	}
	return os.Rename(out, program)
}

// moduleDir finds tools/<module> from the working directory upwards, which for a
// test is that of its package.
func (t tool) moduleDir() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	name := cmp.Or(t.module, t.name)
	for dir := start; ; dir = filepath.Dir(dir) {
		module := filepath.Join(dir, "tools", name)
		if exists(filepath.Join(module, "go.mod")) {
			return module, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no tools/%s above %s", name, start)
		}
	}
}

// cacheKey names what the program is built from.
func (t tool) cacheKey(module string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, t.pkg+t.tags+t.compile, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir() // no home, as in some build containers
	}
	dir := filepath.Join(base, "muster-testserver")
	return dir, os.MkdirAll(dir, 0o755)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}
