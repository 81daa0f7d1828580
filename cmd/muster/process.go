package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/node/httpapi"
)

// agentProcess is one agent that runs as a process of its own.
type agentProcess struct {
	name     string
	nodeAddr string // the one port
	httpAddr string
	config   string   // path of its YAML
	args     []string // further ones of its command line
	logFile  string
	held     *os.File // of agentFiles
	cmd      *exec.Cmd
	exited   chan struct{} // closed when the process has ended
	killed   bool          // by us
}

// agentFiles says how an agent is to be run: with which binary, and where its
// files go.
type agentFiles struct {
	binary string
	dir    string
	held   *os.File // what an agent has open while it runs; nil: nothing
}

// prepare writes the YAML of an agent, from its name and addresses and the keys of
// config, which win.
func (f agentFiles) prepare(name, nodeAddr, httpAddr string, config map[string]any) (*agentProcess, error) {
	document := map[string]any{
		"cluster": "demo",
		"node": map[string]any{
			"id":       name,
			"bind":     nodeAddr,
			"data_dir": filepath.Join(f.dir, name),
		},
		"http": map[string]any{"addr": httpAddr},
		"log":  map[string]any{"level": "debug", "format": "json"},
	}
	for key, value := range config {
		document[key] = value
	}
	text, err := yaml.Marshal(document)
	if err != nil {
		return nil, err
	}
	p := &agentProcess{
		held:     f.held,
		name:     name,
		nodeAddr: nodeAddr,
		httpAddr: httpAddr,
		config:   filepath.Join(f.dir, name+".yaml"),
		logFile:  filepath.Join(f.dir, name+".log"),
	}
	return p, os.WriteFile(p.config, text, 0o600)
}

// start runs the agent. The process ends with this one, where the system can see
// to that, and its log is appended to.
func (p *agentProcess) start(binary string) error {
	log, err := os.OpenFile(p.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, append([]string{"agent", "-c", p.config}, p.args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = ownEnvironment()
	cmd.SysProcAttr = childAttributes()
	if p.held != nil {
		cmd.ExtraFiles = []*os.File{p.held}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	p.cmd, p.exited, p.killed = cmd, exited, false
	go func() {
		defer close(exited)
		_ = cmd.Wait() // the status is read from cmd.ProcessState
	}()
	return nil
}

// kill ends the process at once and waits for it to be gone.
func (p *agentProcess) kill() {
	if p.cmd != nil {
		p.killed = true
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// ownEnvironment is that of this process without what would configure an agent: the
// file says it all.
func ownEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "MUSTER_") })
}

// pid is the id of the process that was started last.
func (p *agentProcess) pid() int { return p.cmd.Process.Pid }

// stop asks the process to leave, even if it is paused, and kills it when ctx ends first.
func (p *agentProcess) stop(ctx context.Context) error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.kill() // already gone, or a system without the signal
		return nil
	}
	resume(p.cmd.Process)
	select {
	case <-p.exited:
		if status := p.cmd.ProcessState.ExitCode(); status != 0 {
			return fmt.Errorf("%s ended with status %d: %s", p.name, status, p.lastLog())
		}
		return nil
	case <-ctx.Done():
		p.kill()
		return fmt.Errorf("%s did not stop in time: %w", p.name, ctx.Err())
	}
}

// running reports whether the process has not ended.
func (p *agentProcess) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return p.cmd != nil
	}
}

// get reads one path of the agent's HTTP API into value.
func (p *agentProcess) get(ctx context.Context, path string, value any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.httpAddr+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(value)
}

// master asks the agent who is master.
func (p *agentProcess) master(ctx context.Context) (httpapi.Master, error) {
	var m httpapi.Master
	err := p.get(ctx, httpapi.PathMaster, &m)
	return m, err
}

// members asks the agent for the members that it sees.
func (p *agentProcess) members(ctx context.Context) ([]httpapi.Member, error) {
	var members []httpapi.Member
	err := p.get(ctx, httpapi.PathMembers, &members)
	return members, err
}

// view asks the agent for what it knows of the cluster.
func (p *agentProcess) view(ctx context.Context) (httpapi.View, error) {
	var v httpapi.View
	err := p.get(ctx, httpapi.PathView, &v)
	return v, err
}

// lastLog returns the last line that the process logged, to explain its end.
func (p *agentProcess) lastLog() string {
	text, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// freeAddrs returns n addresses on loopback whose ports were free just now. They
// are held together until all are known, so that they differ.
func freeAddrs(n int) ([]string, error) {
	var addrs []string
	var errs []error
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, errors.Join(errs...)
}

// poll calls done every few milliseconds until it returns true or ctx ends.
func poll(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
