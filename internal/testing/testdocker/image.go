package testdocker

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// images are those that this process has made, by the package within.
var images struct {
	sync.Mutex
	built map[string]*image
}

type image struct {
	once sync.Once
	name string
	err  error
}

// Build returns the name of an image that holds the program of a main package and an
// empty /tmp, and runs it. pkg is a path of the main module, such as
// "github.com/musterhq/muster/cmd/muster", or a directory as the go command takes it, from the
// test's own. It is built once in a process.
func (e *Engine) Build(pkg string) string {
	e.t.Helper()
	images.Lock()
	if images.built == nil {
		images.built = map[string]*image{}
	}
	i := images.built[pkg]
	if i == nil {
		i = new(image)
		images.built[pkg] = i
	}
	images.Unlock()
	i.once.Do(func() { i.name, i.err = build(pkg) })
	if i.err != nil {
		e.t.Fatalf("build an image of %s: %v", pkg, i.err)
	}
	return i.name
}

func build(pkg string) (string, error) {
	dir, err := os.MkdirTemp("", "muster-image-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+process.arch, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	archive, err := pack(program)
	if err != nil {
		return "", err
	}
	name := unique()
	out, err := run(callTimeout, archive, "import",
		"--change", `ENTRYPOINT ["/program"]`,
		"--change", "LABEL "+labelRun+"="+process.run,
		"--change", "LABEL "+labelStart+"="+strconv.FormatInt(process.start.Unix(), 10),
		"-", name)
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, strings.TrimSpace(out))
	}
	return name, nil
}

// pack returns the files of the image.
func pack(program string) (*bytes.Buffer, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	archive := new(bytes.Buffer)
	w := tar.NewWriter(archive)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return nil, err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "program", Mode: 0o755, Size: int64(len(content))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	return archive, w.Close()
}

// LoadImage loads the image that write leaves at path, and returns its name. The image must have
// the name, and the labels, which are arguments as "--label", "NAME=VALUE".
func (e *Engine) LoadImage(write func(path, name string, labels []string)) string {
	e.t.Helper()
	path, name := filepath.Join(e.t.TempDir(), "image.tar"), unique()
	write(path, name, labels())
	e.Docker("load", "-q", "-i", path)
	return name
}

// Arch is the architecture of the engine's programs, as GOARCH has it.
func (e *Engine) Arch() string { return process.arch }
