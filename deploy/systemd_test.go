//go:build linux

package deploy_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user that owns nothing.
const nobody = 65534

// settings returns the values of a key of a unit, in order.
func settings(t *testing.T, file, key string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), key+"="); ok {
			all = append(all, value)
		}
	}
	return all
}

// systemd finds nothing wrong with the units and the drop-in.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip(err)
	}
	for _, unit := range []string{"muster.service", "muster-registrar.service", "muster-worker.service"} {
		text, err := os.ReadFile(filepath.Join("systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		conf, err := os.ReadFile("systemd/credentials.conf")
		if err != nil {
			t.Fatal(err)
		}
		// The program need not be installed here.
		path := filepath.Join(t.TempDir(), unit)
		program, err := exec.LookPath("true")
		if err != nil {
			t.Skip(err)
		}
		dropIn := filepath.Join(path+".d", "credentials.conf")
		if err := os.Mkdir(path+".d", 0o755); err != nil {
			t.Fatal(err)
		}
		for file, content := range map[string]string{path: strings.ReplaceAll(string(text), "=muster ", "="+program+" "), dropIn: string(conf)} {
			if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, unit) && !strings.Contains(line, "Failed to connect") {
				t.Errorf("%s: %v: %s", unit, err, line)
			}
		}
	}
}

// The user of the unit reads the keys that muster tls writes, and a token that is root's
// alone, by what systemd hands it; and not without that.
func TestCredentialsOfUnits(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a program as another user")
	}
	dir, err := os.MkdirTemp("", "muster-unit-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	muster := filepath.Join(dir, "muster")
	build := exec.Command("go", "build", "-trimpath", "-o", muster, "github.com/musterhq/muster/cmd/muster")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	etc, credentials := filepath.Join(dir, "etc"), filepath.Join(dir, "credentials")
	for _, args := range [][]string{
		{"tls", "ca", "--dir", etc + "/pki"}, {"tls", "cert", "node", "--dir", etc + "/pki", "--host", "10.0.0.5"},
	} {
		if out, err := exec.Command(muster, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(etc+"/http-token", strings.Repeat("0123456789abcdef", 4)+"\n", 0o600)
	write(etc+"/muster.yaml", "{cluster: orders, node: {id: n1, data_dir: /var/lib/muster}, http: {addr: '127.0.0.1:0'}, provider: {static: {peers: ['10.0.0.5:7946']}}}", 0o644)
	if err := os.Mkdir(credentials, 0o755); err != nil {
		t.Fatal(err)
	}

	// What systemd does with the drop-in.
	for _, value := range settings(t, "systemd/credentials.conf", "LoadCredential") {
		name, source, _ := strings.Cut(value, ":")
		text, err := os.ReadFile(strings.Replace(source, "/etc/muster", etc, 1))
		if err != nil {
			t.Fatal(err)
		}
		write(filepath.Join(credentials, name), string(text), 0o400)
		if err := os.Chown(filepath.Join(credentials, name), nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	check := func(from string) (string, error) {
		cmd := exec.Command(muster, "config", "check", "-c", etc+"/muster.yaml")
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		for _, value := range settings(t, "systemd/credentials.conf", "Environment") {
			cmd.Env = append(cmd.Env, strings.ReplaceAll(value, "%d", from))
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := check(credentials); err != nil || !strings.Contains(out, "ok") {
		t.Errorf("with what systemd hands it: %v\n%s", err, out)
	}
	for name, source := range map[string]string{"node-key.pem": etc + "/pki", "http-token": etc} {
		if out, err := check(source); err == nil || !strings.Contains(out, name) {
			t.Errorf("without: %v, want %s refused:\n%s", err, name, out)
		}
	}
}
