package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
)

// inShell returns a command that runs in dir with muster, which asks agent, on its path.
func inShell(t *testing.T, dir string, agent *agentProcess, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd, out := exec.CommandContext(t.Context(), args[0], args[1:]...), new(bytes.Buffer)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "MUSTER_AGENT="+agent.httpAddr)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// withMuster returns a directory that has this program as muster, and a script.
func withMuster(t *testing.T, script string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "muster")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(script)), text, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// examples/migration/start.sh: of three hosts one migrates, once, and all serve after it.
func TestExampleMigrationInShell(t *testing.T) {
	c, _ := formCluster(t, 3, patientProvider)
	rows := filepath.Join(t.TempDir(), "rows")
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	for _, agent := range c.agents {
		dir := withMuster(t, "../../examples/migration/start.sh")
		migrate := "#!/bin/sh\necho \"$1\" >> " + rows + "\n"
		if err := os.WriteFile(filepath.Join(dir, "migrate.sh"), []byte(migrate), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd, out := inShell(t, dir, agent, "./start.sh", "cat", rows)
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+t.TempDir()) // each is a host of its own
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil || !strings.HasSuffix(outs[i].String(), "1.1\n1.2\n") {
			t.Errorf("host %d: %v: %s", i+1, err, outs[i])
		}
	}
}

// examples/worker/worker.sh works on the host of the master alone, ends when it is asked to, and
// then works on the next one.
func TestExampleWorkerInShell(t *testing.T) {
	c, master := formCluster(t, 3, patientProvider)
	outs := make(map[string]string)
	for _, agent := range c.agents {
		dir := withMuster(t, "../../examples/worker/worker.sh")
		outs[agent.name] = filepath.Join(dir, "out")
		out, err := os.Create(outs[agent.name])
		if err != nil {
			t.Fatal(err)
		}
		cmd, _ := inShell(t, dir, agent, filepath.Join(dir, "muster"), "while-master", "--restart", "always", "--", "./worker.sh")
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+t.TempDir()) // each is a host of its own
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
			out.Close()
		})
	}
	works := func(name string) bool {
		return slices.ContainsFunc(linesOf(outs[name]), func(line string) bool { return strings.HasPrefix(line, "working on "+name+" in term ") })
	}
	wait.For(t, "the worker of "+master.NodeID+" works", func() bool { return works(master.NodeID) })
	old, others := c.split(master)
	for _, other := range others {
		if works(other.name) {
			t.Errorf("the worker of %s works, and %s is master", other.name, master.NodeID)
		}
	}
	if status, _, stderr := execute(t, "resign", "--agent", old.httpAddr); status != statusDone {
		t.Fatal(stderr)
	}
	if asked := fmt.Sprintf("asked to end in term %d", master.Term); !slices.Contains(linesOf(outs[old.name]), asked) {
		t.Errorf("it does not say %q: %q", asked, linesOf(outs[old.name]))
	}
	wait.For(t, "the next worker works", func() bool { return works(others[0].name) || works(others[1].name) })
}

// deploy/haproxy/haproxy.cfg leads to the master, and to the next one when it has resigned.
func TestHAProxyLeadsToTheMaster(t *testing.T) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		if os.Getenv("MUSTER_REQUIRE_HAPROXY") != "" {
			t.Fatal(err)
		}
		t.Skip("there is no haproxy: install Debian's package of that name")
	}
	text, err := os.ReadFile("../../deploy/haproxy/haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "haproxy.cfg")
	ca := newCommandCA(t)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), haproxy, "-c", "-f", config).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	write(strings.ReplaceAll(string(text), "/etc/haproxy/muster-ca.pem", ca.file()))

	c, master := formCluster(t, 3, patientProvider)
	addrs := testAddrs(t, 4)
	front := addrs[3]
	// On one host, and without TLS, as the agents of this test are.
	local := strings.NewReplacer("check-ssl verify required ca-file /etc/haproxy/muster-ca.pem port 7980 ", "", "bind :5432", "bind "+front).Replace(string(text))
	for i, agent := range c.agents {
		greeter(t, agent.name, addrs[i])
		_, port, _ := net.SplitHostPort(agent.httpAddr)
		was := fmt.Sprintf("server orders-%d 10.0.0.%d:5432", i+1, i+5)
		if !strings.Contains(local, was) {
			t.Fatalf("haproxy.cfg has no line %q", was)
		}
		local = strings.Replace(local, was, fmt.Sprintf("server %s %s port %s", agent.name, addrs[i], port), 1)
	}
	write(local)
	cmd := exec.CommandContext(t.Context(), haproxy, "-db", "-f", config)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	// leads waits until a new connection reaches the master of that time, and returns it.
	leads := func() net.Conn {
		t.Helper()
		var conn net.Conn
		c.eventually("HAProxy leads to the master", func(context.Context) bool {
			master = c.waitMaster(master.Term-1, 3, c.agents...)
			var err error
			if conn, err = net.Dial("tcp", front); err != nil {
				return false
			}
			_ = conn.SetDeadline(time.Now().Add(wait.Patience))
			name, err := bufio.NewReader(conn).ReadString('\n')
			if err == nil && strings.TrimSpace(name) == master.NodeID {
				return true
			}
			conn.Close()
			return false
		})
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	conn := leads()
	old := master
	resigns := c.agents[slices.IndexFunc(c.agents, func(a *agentProcess) bool { return a.name == old.NodeID })]
	if status, _, stderr := execute(t, "resign", "--agent", resigns.httpAddr); status != statusDone {
		t.Fatal(stderr)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("something was read from the old master")
	} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Error("the connection to the old master is still open")
	}
	leads()
	if master.Term <= old.Term {
		t.Errorf("the master is %+v, and was %+v", master, old)
	}
}
