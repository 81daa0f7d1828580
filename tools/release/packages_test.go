package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/sassoftware/go-rpmutils"
)

// packaged are the files that both packages hold, with their modes.
var packaged = map[string]fs.FileMode{
	"/usr/bin/muster":                                      0o755,
	"/etc/muster/muster.example.yaml":                      0o644,
	"/etc/muster/registrar.example.yaml":                   0o644,
	"/usr/lib/systemd/system/muster.service":               0o644,
	"/usr/lib/systemd/system/muster-registrar.service":     0o644,
	"/usr/share/man/man1/muster.1.gz":                      0o644,
	"/usr/share/man/man1/muster-tls-cert.1.gz":             0o644,
	"/usr/share/bash-completion/completions/muster":        0o644,
	"/usr/share/fish/vendor_completions.d/muster.fish":     0o644,
	"/usr/share/doc/muster/copyright":                      0o644,
	"/usr/share/doc/muster/examples/credentials.conf":      0o644,
	"/usr/share/doc/muster/examples/muster-worker.service": 0o644,
}

// Both packages of a release, and the deb of the one before.
func TestPackages(t *testing.T) {
	suffix := "_" + target{"linux", runtime.GOARCH}.String()
	olderRoot, older := candidate(t)
	root, newer := tagged(t)
	t.Run("rpm", func(t *testing.T) { testRPM(t, root, newer["muster_0.9.1"+suffix+".rpm"]) })
	t.Run("deb", func(t *testing.T) {
		_, err := exec.LookPath("dpkg")
		if err == nil && os.Geteuid() != 0 {
			err = errors.New("only root can install a package")
		}
		if err != nil && os.Getenv("MUSTER_REQUIRE_DPKG") == "" {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		testDeb(t, olderRoot, root, older["muster_0.1.0-rc.1"+suffix+".deb"], newer["muster_0.9.1"+suffix+".deb"])
	})
}

// testDeb installs a deb into a system without packages, uses it, upgrades it, removes it and
// purges it.
func testDeb(t *testing.T, olderRoot, newerRoot string, older, newer []byte) {
	root := system(t)
	var dpkg func(args ...string)
	install := func(deb []byte) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "muster.deb")
		if err := os.WriteFile(path, deb, 0o644); err != nil {
			t.Fatal(err)
		}
		dpkg("--install", path)
	}
	dpkg = func(args ...string) {
		t.Helper()
		// What the packages depend on is copied from this system, of which dpkg knows nothing.
		if out, err := exec.CommandContext(t.Context(), "dpkg", append([]string{"--root=" + root, "--force-depends"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("dpkg %v: %v\n%s", args, err, out)
		}
	}
	install(older)
	for name, mode := range packaged {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
			continue
		}
		owner := info.Sys().(*syscall.Stat_t)
		if info.Mode() != mode || owner.Uid != 0 || owner.Gid != 0 || info.Size() == 0 {
			t.Errorf("%s: mode %v, want %v; owner %d:%d, %d bytes", name, info.Mode(), mode, owner.Uid, owner.Gid, info.Size())
		}
	}
	if _, err := os.Stat(filepath.Join(root, "/usr/share/zsh/vendor-completions/_muster")); err != nil {
		t.Error(err)
	}
	checkVersion(t, olderRoot, filepath.Join(root, "/usr/bin/muster"), "v0.1.0-rc.1")
	if out, err := exec.CommandContext(t.Context(), filepath.Join(root, "/usr/bin/muster"), "config", "check", "-c", filepath.Join(root, "/etc/muster/muster.example.yaml")).CombinedOutput(); err != nil {
		t.Errorf("the example of a configuration: %v\n%s", err, out)
	}
	user := line(t, root, "/etc/passwd", "muster:")
	if f := strings.Split(user, ":"); len(f) != 7 || f[5] != "/var/lib/muster" || f[6] != "/usr/sbin/nologin" || line(t, root, "/etc/group", "muster:") == "" {
		t.Errorf("the user is %q", user)
	}
	verifyUnits(t, root)
	// Nothing starts by itself.
	for _, pattern := range []string{"/etc/systemd/system/*", "/etc/systemd/system/*/*", "/etc/init.d/*"} {
		if found, _ := filepath.Glob(filepath.Join(root, pattern)); len(found) > 0 {
			t.Errorf("after the installation there is %v", found)
		}
	}

	keep := map[string]string{"/etc/muster/muster.yaml": "cluster: ours\n", "/etc/muster/muster.example.yaml": "cluster: changed\n", "/var/lib/muster/orders/n1/state": "a vote\n"}
	for name, content := range keep {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(after string) {
		t.Helper()
		for name, want := range keep {
			if content, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(content) != want {
				t.Errorf("after %s: %s: %v: %q, want %q", after, name, err, content, want)
			}
		}
	}
	install(newer)
	checkVersion(t, newerRoot, filepath.Join(root, "/usr/bin/muster"), "v0.9.1")
	kept("the upgrade")
	if again := line(t, root, "/etc/passwd", "muster:"); again != user {
		t.Errorf("the upgrade made of the user %q: %q", user, again)
	}

	dpkg("--remove", "muster")
	kept("the removal")
	if _, err := os.Stat(filepath.Join(root, "/usr/bin/muster")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the removal the program is still there: %v", err)
	}
	dpkg("--purge", "muster")
	for _, name := range []string{"/var/lib/muster", "/etc/muster/muster.example.yaml"} {
		if _, err := os.Stat(filepath.Join(root, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after the purge %s is still there: %v", name, err)
		}
	}
	if line(t, root, "/etc/passwd", "muster:") != user {
		t.Error("the purge removed the user")
	}
}

// system returns a root directory with what the scripts of a package run, and no package.
func system(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	copyFile := func(path string) {
		t.Helper()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"/bin/sh", "/bin/rm", "/usr/sbin/useradd", "/usr/sbin/groupadd", "/usr/bin/getent", "/bin/kill"} {
		copyFile(program)
		out, err := exec.CommandContext(t.Context(), "ldd", program).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", program, err)
		}
		for _, field := range strings.Fields(string(out)) {
			if filepath.IsAbs(field) {
				copyFile(field)
			}
		}
	}
	// The units of systemd that ours come after.
	for _, pattern := range []string{"*.target", "*.slice"} {
		units, err := filepath.Glob("/usr/lib/systemd/system/" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, unit := range units {
			if _, err := os.Stat(unit); err == nil {
				copyFile(unit)
			}
		}
	}
	for name, content := range map[string]string{
		"/dev/null":                   "", // what is written there is not looked at
		"/etc/passwd":                 "root:x:0:0:root:/root:/bin/sh\n",
		"/etc/group":                  "root:x:0:\n",
		"/etc/nsswitch.conf":          "passwd: files\ngroup: files\nshadow: files\n",
		"/var/lib/dpkg/status":        "",
		"/var/lib/dpkg/available":     "",
		"/var/lib/dpkg/info/format":   "1\n",
		"/var/lib/dpkg/updates/.keep": "",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if filepath.Base(name) == ".keep" {
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// line returns the line of a file that begins with prefix.
func line(t *testing.T, root, name, prefix string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// verifyUnits has systemd read the installed units, and find the program that they start.
func verifyUnits(t *testing.T, root string) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		return
	}
	for _, unit := range []string{"muster.service", "muster-registrar.service"} {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--root="+root, "--man=no", "/usr/lib/systemd/system/"+unit).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, unit) && !strings.Contains(line, "Failed to connect") {
				t.Errorf("systemd-analyze verify %s: %v: %s", unit, err, line)
			}
		}
	}
}

// testRPM reads an rpm: it holds the same files, keeps changed configurations, and has the scripts.
func testRPM(t *testing.T, checked string, content []byte) {
	rpm, err := rpmutils.ReadRpm(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	for tag, want := range map[int]string{rpmutils.NAME: "muster", rpmutils.VERSION: "0.9.1", rpmutils.BUILDHOST: "localhost", rpmutils.LICENSE: "Apache-2.0"} {
		if got, err := rpm.Header.GetString(tag); err != nil || got != want {
			t.Errorf("tag %d: %q, %v; want %q", tag, got, err, want)
		}
	}
	for tag, want := range map[int]string{rpmutils.POSTIN: "useradd --system", rpmutils.PREUN: "systemctl disable --now", rpmutils.POSTUN: "daemon-reload"} {
		if script, err := rpm.Header.GetString(tag); err != nil || !strings.Contains(script, want) {
			t.Errorf("the script %d has no %q: %v", tag, want, err)
		}
	}
	infos, err := rpm.Header.GetFiles()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]rpmutils.FileInfo{}
	for _, info := range infos {
		found[info.Name()] = info
		if info.Mtime() != int(committed.Unix()) || info.UserName() != "root" || info.GroupName() != "root" {
			t.Errorf("%s: of %s:%s at %d", info.Name(), info.UserName(), info.GroupName(), info.Mtime())
		}
	}
	const configNoReplace = 1<<0 | 1<<4
	for name, mode := range packaged {
		info, ok := found[name]
		if !ok || fs.FileMode(info.Mode()).Perm() != mode {
			t.Errorf("%s: %v, mode %o, want %o", name, ok, info, mode)
			continue
		}
		if config := strings.HasPrefix(name, "/etc/"); config != (info.Flags()&configNoReplace == configNoReplace) {
			t.Errorf("%s: flags %b", name, info.Flags())
		}
	}
	if _, ok := found["/usr/share/zsh/site-functions/_muster"]; !ok {
		t.Error("no completion for zsh")
	}
	// The payload is whole.
	payload, err := rpm.PayloadReaderExtended()
	if err != nil {
		t.Fatal(err)
	}
	for {
		info, err := payload.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if info.Name() != "/usr/bin/muster" {
			continue
		}
		program, err := io.ReadAll(payload)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "muster")
		if err := os.WriteFile(path, program, 0o755); err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS == "linux" {
			checkVersion(t, checked, path, "v0.9.1")
		}
		delete(found, info.Name())
	}
	if _, left := found["/usr/bin/muster"]; left {
		t.Error("the payload has no program")
	}
	arch, err := rpm.Header.GetString(rpmutils.ARCH)
	if want := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]; err != nil || arch != want {
		t.Errorf("the architecture is %q, %v; want %q", arch, err, want)
	}
}
