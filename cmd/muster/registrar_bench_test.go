//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/testdocker"
	"github.com/musterhq/muster/internal/testing/testserver"
)

// BenchmarkRegistrarIdle takes what a registrar of a host with 20 containers needs while
// nothing happens: its resident memory, and its share of a core over an iteration of a
// minute, in which it inspects all of them once.
func BenchmarkRegistrarIdle(b *testing.B) {
	engine := testdocker.Require(b)
	server := testserver.StartEtcd(b)
	const label, n = "muster.test.idle", 20
	image := engine.Build("github.com/musterhq/muster/internal/testing/images/twoports")
	for range n {
		engine.Run(testdocker.Options{Image: image, Labels: map[string]string{label: "1", "SERVICE_NAME": "idle"}, Flags: []string{"-p", "0:80"}})
	}
	binary := releasedProgram(b)
	addr := testAddrs(b, 1)[0]
	cmd := exec.Command(binary, "registrar", "-c", writeFile(b, "registrar.yaml", fmt.Sprintf(`
provider: {etcd: {endpoints: [%q]}}
registrar: {hostname: h1, ip: 10.0.0.5, require_label: %s, cleanup: true}
http: {addr: %q}
`, server.Endpoint(), label, addr)))
	cmd.Env = ownEnvironment()
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	awaitReady(b, addr)
	var cpu, wall time.Duration
	for b.Loop() {
		before, began := cpuOf(b, cmd.Process.Pid), time.Now()
		time.Sleep(time.Minute)
		cpu, wall = cpu+cpuOf(b, cmd.Process.Pid)-before, wall+time.Since(began)
	}
	b.ReportMetric(100*cpu.Seconds()/wall.Seconds(), "%core")
	b.ReportMetric((&agentProcess{cmd: cmd}).residentMB(b), "MB")
	b.ReportMetric(0, "ns/op")
}

// cpuOf is the time that a process has spent, in user and system mode.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	// The name, in parentheses, may have spaces. What follows begins with the third field.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux
}
