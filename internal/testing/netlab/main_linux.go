package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// variable marks a process that is inside, or says why it cannot be.
const variable, within = "MUSTER_NETLAB", "inside"

const envRequire = "MUSTER_REQUIRE_NETLAB"

// Main runs the tests inside namespaces of their own where that can be, and otherwise
// as they are. It returns the exit status.
func Main(m interface{ Run() int }) int {
	switch os.Getenv(variable) {
	case "":
		if missing() != "" {
			break
		}
		status, err := inside()
		if err == nil {
			return status
		}
		deny(err) // as in a container, whose root may not do all
	case within:
		if err := prepare(); err != nil {
			deny(err)
		}
	}
	return m.Run()
}

// deny has the tests that want a network be skipped because of err.
func deny(err error) {
	_ = os.Setenv(variable, strings.ReplaceAll(err.Error(), "\n", ": ")) // which fails for no such value
}

// missing says why there can be no network of hosts here, and is empty if there can.
func missing() string {
	if v := os.Getenv(variable); v != "" && v != within {
		return v
	}
	if os.Geteuid() != 0 {
		return "this needs root, for network namespaces"
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return "this needs the program " + program + ", which is not installed"
		}
	}
	return ""
}

// Require skips the test where there can be no network of hosts. With
// MUSTER_REQUIRE_NETLAB=1 it fails it.
func Require(t testing.TB) {
	t.Helper()
	if why := missing(); why != "" {
		lack(t, why)
	}
	if os.Getenv(variable) == "" {
		t.Fatal("netlab.Main did not run this test")
	}
}

// lack ends the test for want of something.
func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv(envRequire) == "1" {
		t.Fatalf("no network of hosts: %s", why)
	}
	t.Skipf("no network of hosts: %s", why)
}

// inside runs this program again inside new namespaces, and returns its exit status, or
// why it could not be started.
func inside() (status int, err error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), variable+"="+within)
	// Unshareflags, so that mounts are kept from the machine's.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	// The kernel counts this thread as the parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("namespaces: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.ExitCode() >= 0 {
				return exit.ExitCode(), nil
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "netlab:", err)
				return 1, nil
			}
			return 0, nil
		}
	}
}

// prepare makes what all networks of this process share.
func prepare() error {
	if err := syscall.Mount("netlab", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", root, err)
	}
	for _, dir := range []string{root + "/netns", root + "/tmp"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Setenv("TMPDIR", root+"/tmp"); err != nil {
		return err
	}
	return errors.Join(run("", "ip", "link", "set", "lo", "up"), run("", "nft", "list", "tables"))
}
