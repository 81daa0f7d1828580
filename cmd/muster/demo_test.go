//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

func TestDemo(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := execute(t, "demo", "-o", "json")
	if status != statusDone {
		t.Fatalf("status %d: %s", status, stderr)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	for _, field := range []string{"nodes", "formed_ms", "master", "term", "failover_ms", "next_master", "next_term"} {
		if _, ok := got[field]; !ok {
			t.Errorf("no %q in %s", field, stdout)
		}
	}
	if got["nodes"] != 3.0 || got["master"] == got["next_master"] || got["next_term"].(float64) <= got["term"].(float64) {
		t.Errorf("an odd story: %s", stdout)
	}
}

// keptDemo is a demo that goes on running, as a process of its own.
type keptDemo struct {
	cmd    *exec.Cmd
	out    io.Reader
	stderr *bytes.Buffer
	tmp    string // where its files are
}

func startKeptDemo(t *testing.T, args ...string) *keptDemo {
	t.Helper()
	d := &keptDemo{cmd: program(t, append([]string{"demo", "--keep"}, args...)...), stderr: new(bytes.Buffer), tmp: t.TempDir()}
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.tmp)
	d.cmd.Stderr = d.stderr
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.out = out
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.cmd.Process.Kill(); _ = d.cmd.Wait() })
	return d
}

// complaint ends the demo, and is what it wrote to stderr.
func (d *keptDemo) complaint() string {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	return d.stderr.String()
}

// checkNothingServes waits until none of the agents does.
func checkNothingServes(t *testing.T, agents []demoAgent) {
	t.Helper()
	for _, a := range agents {
		addr := strings.TrimSuffix(strings.TrimPrefix(a.URL, "http://"), "/")
		wait.For(t, a.NodeID+" is gone", func() bool {
			conn, err := net.DialTimeout("tcp", addr, time.Second)
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
	}
}

// A kept demo says what becomes of its nodes, starts those again that end, and leaves
// nothing behind, even if one of them is paused.
func TestDemoKeep(t *testing.T) {
	t.Parallel()
	d := startKeptDemo(t, "-o", "json", "--restart-after", "10ms")
	decoder := json.NewDecoder(d.out)
	var result demoResult
	if err := decoder.Decode(&result); err != nil {
		t.Fatalf("%v: %s", err, d.complaint())
	}
	pids := make(map[string]int)
	for _, a := range result.Agents {
		pids[a.NodeID] = a.PID
	}
	if len(pids) != 3 {
		t.Fatalf("agents %+v", result.Agents)
	}
	// until reads events until one since the last signal is as wanted.
	var seen []demoEvent
	until := func(what string, wanted func(demoEvent) bool) demoEvent {
		t.Helper()
		timer := time.AfterFunc(wait.Patience, func() { _ = d.cmd.Process.Kill() })
		defer timer.Stop()
		for i := 0; ; i++ {
			if i == len(seen) {
				var e demoEvent
				if err := decoder.Decode(&e); err != nil {
					t.Fatalf("waiting for %s after %+v: %v: %s", what, seen, err, d.complaint())
				}
				if e.Event == "started" {
					pids[e.NodeID] = e.PID
				}
				seen = append(seen, e)
			}
			if wanted(seen[i]) {
				return seen[i]
			}
		}
	}
	is := func(event, node string) func(demoEvent) bool {
		return func(e demoEvent) bool { return e.Event == event && e.NodeID == node }
	}
	master := func() (m httpapi.Master) {
		wait.For(t, "a master", func() bool {
			for _, a := range result.Agents {
				response, err := http.Get(a.URL + strings.TrimPrefix(httpapi.PathMaster, "/"))
				if err != nil {
					continue
				}
				err = json.NewDecoder(response.Body).Decode(&m)
				response.Body.Close()
				if err == nil && response.StatusCode == http.StatusOK {
					return true
				}
			}
			return false
		})
		return m
	}
	signal := func(node string, s syscall.Signal) {
		t.Helper()
		seen = nil
		if err := syscall.Kill(pids[node], s); err != nil {
			t.Fatal(err)
		}
	}

	first := master()
	signal(first.NodeID, syscall.SIGKILL)
	if e := until("the end of the master", is("ended", first.NodeID)); e.Status != "signal: killed" || e.PID != pids[first.NodeID] {
		t.Errorf("it ended as %+v", e)
	}
	next := until("the next master", func(e demoEvent) bool { return e.Event == "master" && e.Term > first.Term })
	until("an answer of who was started again", is("answers", first.NodeID))

	signal(next.NodeID, syscall.SIGSTOP)
	until("silence", is("silent", next.NodeID))
	until("the third master", func(e demoEvent) bool { return e.Event == "master" && e.Term > next.Term })
	signal(next.NodeID, syscall.SIGCONT)
	until("an answer of who was paused", is("answers", next.NodeID))

	signal(next.NodeID, syscall.SIGTERM)
	if e := until("a stop", is("ended", next.NodeID)); e.Status != "exit status 0" {
		t.Errorf("it stopped as %+v", e)
	}
	until("an answer of who was started again", is("answers", next.NodeID))

	signal(first.NodeID, syscall.SIGSTOP)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, d.out); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, d.stderr)
	}
	checkNothingServes(t, result.Agents)
	if left, err := os.ReadDir(d.tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// What a kept demo says to do can be done, and its agents do not outlive it.
func TestDemoKeepKilled(t *testing.T) {
	t.Parallel()
	d := startKeptDemo(t)
	timer := time.AfterFunc(wait.Patience, func() { _ = d.cmd.Process.Kill() })
	defer timer.Stop()
	var text strings.Builder
	buffer := make([]byte, 4096)
	for !regexp.MustCompile(` status --agent \S+\n`).MatchString(text.String()) {
		n, err := d.out.Read(buffer)
		text.Write(buffer[:n])
		if err != nil {
			t.Fatalf("%v: %s%s", err, text.String(), d.complaint())
		}
	}
	var agents []demoAgent
	for _, row := range regexp.MustCompile(`(?m)^(node-\d)  (\d+) +(http://\S+/) `).FindAllStringSubmatch(text.String(), -1) {
		agents = append(agents, demoAgent{NodeID: row[1], URL: row[3]})
		if want := "kill -9 " + row[2] + " "; strings.Contains(text.String(), row[3]+"  *") && !strings.Contains(text.String(), want) {
			t.Errorf("no %q in %s", want, text.String())
		}
	}
	if len(agents) != 3 {
		t.Fatalf("want three agents in %s", text.String())
	}
	line := regexp.MustCompile(`(?m)^  (\S+ status --agent \S+)$`).FindStringSubmatch(text.String())
	if line == nil {
		t.Fatalf("no line to ask for the status in %s", text.String())
	}
	args := strings.Fields(line[1])
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("demo")) {
		t.Errorf("%s: %v: %s", line[1], err, out)
	}
	end := syscall.SIGKILL
	if runtime.GOOS != "linux" {
		end = syscall.SIGHUP // elsewhere the system does not end the children of who was killed
	}
	if err := d.cmd.Process.Signal(end); err != nil {
		t.Fatal(err)
	}
	checkNothingServes(t, agents)
}
