package clock

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"testing"
)

const printIDVariable = "TEST_PRINT_CLOCK_ID"

// All processes of a host read one clock, and say so.
func TestIDIsOneForAllProcesses(t *testing.T) {
	if os.Getenv(printIDVariable) != "" {
		os.Stdout.WriteString("id=" + ID() + "\n")
		return
	}
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("the system names no boot")
	}
	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=TestIDIsOneForAllProcesses")
	other.Env = append(os.Environ(), printIDVariable+"=1")
	out, err := other.Output()
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^id=([0-9a-f]{16})$`).FindSubmatch(out)
	if m == nil || string(m[1]) != ID() {
		t.Errorf("another process says %q, want %q", out, ID())
	}
}
