package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// committed is when the checkouts of the tests were committed.
var committed = time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)

// checkout returns a repository with one commit: the files of this one, changes included. Its
// commit is the same each time.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	checkoutTo(t, dir)
	return dir
}

func checkoutTo(t *testing.T, dir string) {
	t.Helper()
	root := filepath.Join("..", "..")
	list, err := exec.CommandContext(t.Context(), "git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatalf("the files of this checkout: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // removed, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git(t, dir, "init", "-q")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "all")
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "commit.gpgsign=false", "-c", "core.autocrlf=false", "-c", "core.fileMode=false"}, args...)...)
	date := committed.Format(time.RFC3339)
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE="+date,
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE="+date)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// released returns the files that run made, by what follows the version in their names.
func released(t *testing.T, root, version string, targets ...target) map[string][]byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	if err := run(t.Context(), root, out, version, targets); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if files[entry.Name()], err = os.ReadFile(filepath.Join(out, entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// systems are this one, and Linux for its packages.
func systems() []target {
	return slices.Compact([]target{{"linux", runtime.GOARCH}, {runtime.GOOS, runtime.GOARCH}})
}

// made is a release that several tests look at: one takes half a minute of a
// processor. They change neither it nor its checkout.
type made struct {
	once  sync.Once
	root  string
	files map[string][]byte
}

var older, newer made

func (m *made) get(t *testing.T, tag, version string) (root string, files map[string][]byte) {
	t.Helper()
	m.once.Do(func() {
		root := filepath.Join(shared, version+tag)
		checkoutTo(t, root)
		if tag != "" {
			git(t, root, "tag", tag)
		}
		m.files, m.root = released(t, root, version, systems()...), root
	})
	if m.files == nil {
		t.Fatal("the release failed in another test")
	}
	return m.root, m.files
}

// candidate is the release v0.1.0-rc.1, as it was asked for.
func candidate(t *testing.T) (root string, files map[string][]byte) {
	t.Helper()
	return older.get(t, "", "v0.1.0-rc.1")
}

// tagged is the release v0.9.1, by the tag of its commit.
func tagged(t *testing.T) (root string, files map[string][]byte) {
	t.Helper()
	return newer.get(t, "v0.9.1", "")
}

// shared is the directory of what several tests look at.
var shared string

func TestMain(m *testing.M) {
	var err error
	if shared, err = os.MkdirTemp("", "muster-released-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	_ = os.RemoveAll(shared)
	os.Exit(status)
}

// entry is what archives say of a file.
type entry struct {
	mode    fs.FileMode
	time    time.Time
	content []byte
}

func untar(t *testing.T, archive []byte) map[string]entry {
	t.Helper()
	uncompressed, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]entry{}
	last := ""
	for r := tar.NewReader(uncompressed); ; {
		h, err := r.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name <= last {
			t.Errorf("%s comes after %s", h.Name, last)
		}
		last = h.Name
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s belongs to %d:%d %q:%q", h.Name, h.Uid, h.Gid, h.Uname, h.Gname)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries[h.Name] = entry{h.FileInfo().Mode(), h.ModTime, content}
	}
}

func unzip(t *testing.T, archive []byte) map[string]entry {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]entry{}
	for _, f := range r.File {
		content, err := fs.ReadFile(r, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		entries[f.Name] = entry{f.Mode(), f.Modified, content}
	}
	return entries
}

func TestChosen(t *testing.T) {
	if got, err := chosen(""); err != nil || len(got) != len(targets) {
		t.Errorf("%v, %v, want all", got, err)
	}
	if got, err := chosen("linux/arm64"); err != nil || len(got) != 1 || got[0] != (target{"linux", "arm64"}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := chosen("linux/arm"); err == nil || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("%v, %v, want an error that names what there is", got, err)
	}
}

// Two checkouts in two places, built at two times by users with different permissions, give the
// same bytes, of which SHA256SUMS has the sums.
func TestReproducible(t *testing.T) {
	_, first := candidate(t)
	t.Setenv("GOFLAGS", "-ldflags=-w")
	t.Setenv("TZ", "Asia/Tokyo")
	second := released(t, checkout(t), "v0.1.0-rc.1", systems()...)
	var sums string
	for name, content := range first {
		if !bytes.Equal(content, second[name]) {
			t.Errorf("%s differs: %d and %d bytes", name, len(content), len(second[name]))
		}
		if name != "SHA256SUMS" {
			sums += fmt.Sprintf("%x  %s\n", sha256.Sum256(content), name)
		}
	}
	got, want := strings.SplitAfter(string(first["SHA256SUMS"]), "\n"), strings.SplitAfter(sums, "\n")
	slices.Sort(want)
	if slices.Sort(got); !slices.Equal(got, want) || len(first) < 2 || len(first) != len(second) {
		t.Errorf("%d and %d files, and SHA256SUMS is\n%s", len(first), len(second), first["SHA256SUMS"])
	}
}

// Archives hold the program and what comes with it, with the time of the commit; and a program
// knows its version, by a tag and without one.
func TestArchives(t *testing.T) {
	root, files := tagged(t)
	host := target{runtime.GOOS, runtime.GOARCH}

	zipped := unzip(t, zipOf(t, root, target{"windows", "arm64"}))
	unpacked := zipped
	if host.os != "windows" {
		unpacked = untar(t, files["muster_0.9.1_"+host.String()+".tar.gz"])
	}
	program := filepath.Join(t.TempDir(), "muster.exe")
	for _, tt := range []struct {
		dir   string
		files map[string]entry
		want  []string
	}{
		{"muster_0.9.1_windows_arm64/", zipped, []string{"muster.exe", "completion/muster.ps1", "LICENSE"}},
		{"muster_0.9.1_" + host.String() + "/", unpacked, []string{"completion/muster.bash", "completion/_muster", "completion/muster.fish", "LICENSE", "README.md", "CHANGELOG.md", licences}},
	} {
		for _, name := range tt.want {
			if len(tt.files[tt.dir+name].content) == 0 {
				t.Errorf("%s%s is missing or empty", tt.dir, name)
			}
		}
		for name, f := range tt.files {
			mode := fs.FileMode(0o644)
			if base := strings.TrimPrefix(name, tt.dir); base == "muster" || base == "muster.exe" {
				mode = 0o755
			}
			if f.mode != mode || !f.time.Equal(committed) || !strings.HasPrefix(name, tt.dir) {
				t.Errorf("%s: mode %v, want %v; time %v, want %v", name, f.mode, mode, f.time, committed)
			}
		}
	}
	if host.os == "linux" {
		for _, name := range []string{"man/man1/muster.1", "man/man1/muster-tls-cert.1", "systemd/muster.service"} {
			if len(unpacked["muster_0.9.1_"+host.String()+"/"+name].content) == 0 {
				t.Errorf("%s is missing", name)
			}
		}
	}
	for _, module := range []string{"github.com/hashicorp/memberlist v", "github.com/spf13/cobra v", "Go: LICENSE"} {
		if !strings.Contains(string(unpacked["muster_0.9.1_"+host.String()+"/"+licences].content), module) {
			t.Errorf("%s has no licence of %s", licences, module)
		}
	}

	// The SBOM names what the program links, by version.
	var bom struct {
		Metadata   struct{ Component struct{ Version string } }
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal(files["muster_0.9.1_"+host.String()+".cdx.json"], &bom); err != nil || bom.Metadata.Component.Version != "v0.9.1" {
		t.Errorf("the SBOM is of %q, %v", bom.Metadata.Component.Version, err)
	}
	for _, module := range []string{"std", "github.com/hashicorp/memberlist", "github.com/spf13/cobra"} {
		if !slices.ContainsFunc(bom.Components, func(c struct{ Name, Version string }) bool { return c.Name == module && c.Version != "" }) {
			t.Errorf("the SBOM has no %s", module)
		}
	}

	name := "muster_0.9.1_" + host.String() + "/muster"
	if host.os == "windows" {
		name += ".exe"
	}
	if err := os.WriteFile(program, unpacked[name].content, 0o755); err != nil {
		t.Fatal(err)
	}
	checkVersion(t, root, program, "v0.9.1")

	// Beyond the tag, the version is a pseudo-version, and says that the tree was changed.
	root = checkout(t)
	git(t, root, "tag", "v0.9.1")
	git(t, root, "commit", "-q", "--allow-empty", "-m", "more")
	if err := os.WriteFile(filepath.Join(root, "new.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := newRelease(t.Context(), root, filepath.Join(t.TempDir(), "out"), "")
	if err != nil {
		t.Fatal(err)
	}
	if os.RemoveAll(r.stage); !strings.HasPrefix(r.version, "v0.9.2-0.20261102030405-") || !strings.HasSuffix(r.version, "+dirty") {
		t.Errorf("the version is %s", r.version)
	}
	for _, version := range []string{"v1.0.0", "1.0.0", "v1.0", "v1.0.0+meta"} {
		if err := run(t.Context(), root, filepath.Join(t.TempDir(), "out"), version, nil); err == nil || !strings.Contains(err.Error(), version) {
			t.Errorf("a release %s of a changed tree: %v", version, err)
		}
	}
}

// zipOf returns the archive of a target of Windows, with a program that nothing was compiled for.
func zipOf(t *testing.T, root string, windows target) []byte {
	t.Helper()
	r, err := newRelease(t.Context(), root, filepath.Join(t.TempDir(), "out"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(r.stage)
	if err := r.documents(t.Context(), []target{windows}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(r.program(windows)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.program(windows), []byte("a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.archive(windows); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(r.name("windows_arm64.zip"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// checkVersion runs muster version of a program that was built from root.
func checkVersion(t *testing.T, root, program, version string) {
	t.Helper()
	head, err := exec.CommandContext(t.Context(), "git", "-C", root, "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	revision := strings.TrimSpace(string(head))
	line, err := exec.CommandContext(t.Context(), program, "version").CombinedOutput()
	if want := fmt.Sprintf("muster %s (commit %s of 2026-11-02) go", version, revision[:12]); err != nil || !strings.HasPrefix(string(line), want) {
		t.Errorf("muster version: %v: %q, want %q...", err, line, want)
	}
	text, err := exec.CommandContext(t.Context(), program, "version", "-o", "json").Output()
	var v struct{ Version, Revision, Time, OS, Arch string }
	if err := errorOr(err, json.Unmarshal(text, &v)); err != nil || v.Version != version || v.Revision != revision || v.Time != committed.Format(time.RFC3339) {
		t.Errorf("muster version -o json: %v: %s", err, text)
	}
}

func errorOr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}
