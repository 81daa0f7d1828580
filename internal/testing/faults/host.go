package faults

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/netlab"
	"github.com/musterhq/muster/internal/testing/process"
	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/httpapi"
)

// Host is a host on which a node runs, or has run.
type Host struct {
	*netlab.Host
	lab *Lab
	// NodeID names its node.
	NodeID string
	env    []string // in addition to that of the test
	args   []string
	skew   skew
	keys   func(map[string]any) // changes the configuration before it is written

	mu      sync.Mutex
	process *process.Process
	paused  bool
	lives   []checker.Life
	pauses  []checker.Fault
}

// skew is what is wrong with a host's clock.
type skew struct {
	offset time.Duration
	rate   float64
	epoch  int64
}

// trueTime is what an outside observer saw when the host's clock showed t.
func (s skew) trueTime(t int64) int64 {
	if s.rate == 0 || t == 0 {
		return t
	}
	t -= int64(s.offset)
	return s.epoch + int64(float64(t-s.epoch)/s.rate)
}

func (h *Host) file(name string) string { return filepath.Join(h.lab.dir, h.Name()+name) }

// Addr is the one port of the node.
func (h *Host) Addr() string { return h.IP() + ":7946" }

func (h *Host) dataDir() string { return h.file(".data") }

// Start starts the node.
func (h *Host) Start() {
	h.lab.t.Helper()
	document := map[string]any{
		"cluster":   h.lab.cluster,
		"node":      map[string]any{"id": h.NodeID, "bind": h.Addr(), "data_dir": h.dataDir()},
		"detect":    map[string]any{"require_external": false}, // the network of the host is all there is
		"log":       map[string]any{"level": cmp.Or(h.lab.options.LogLevel, "debug"), "format": "json"},
		"bootstrap": map[string]any{"expect": h.lab.expect},
	}
	for key, value := range h.lab.store.config(h) {
		document[key] = value
	}
	if h.lab.ttl > 0 {
		document["mastership"] = map[string]any{"ttl": h.lab.ttl.String()}
	}
	if h.keys != nil {
		h.keys(document)
	}
	text, err := yaml.Marshal(document)
	if err == nil {
		err = os.WriteFile(h.file(".yaml"), text, 0o600)
	}
	if err != nil {
		h.lab.t.Fatal(err)
	}
	args := append([]string{
		"-c", h.file(".yaml"), "-history", h.file(".history"), "-notes", h.file(".notes"), "-register", h.lab.registerURL,
		"-session-ttl", h.lab.sessionTTL.String(), "-api", h.IP() + ":7980", "-hold", h.file(".hold"),
	}, h.args...)
	env := slices.DeleteFunc(os.Environ(), func(pair string) bool { return strings.HasPrefix(pair, "MUSTER_") })
	if h.skew.rate != 0 {
		env = append(env, fmt.Sprintf("MUSTER_FAULT_CLOCK=%v %v %d", h.skew.offset, h.skew.rate, h.skew.epoch))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	begin := now()
	h.process, err = process.Start(process.Config{
		Program: h.lab.worker, Args: args, Env: append(env, h.env...), Log: h.file(".log"), Netns: h.Netns(),
	})
	if err != nil {
		h.lab.t.Fatalf("start %s: %v", h.Name(), err)
	}
	h.paused = false
	h.lives = append(h.lives, checker.Life{Host: h.Name(), Begin: begin})
	p, life := h.process, len(h.lives)-1
	h.lab.background.Go(func() {
		<-p.Done()
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.lives[life].End == 0 {
			h.lives[life].End = now()
		}
	})
	h.lab.logf("%s starts", h.Name())
}

func now() int64 { return int64(clock.Now()) }

// Running reports whether the process lives, paused or not.
func (h *Host) Running() bool {
	h.mu.Lock()
	p := h.process
	h.mu.Unlock()
	if p == nil {
		return false
	}
	ended, _ := p.Ended()
	return !ended
}

// Kill ends the process as kill -9 does.
func (h *Host) Kill() {
	h.lab.logf("%s is killed", h.Name())
	h.end(func(p *process.Process) { p.Kill() })
}

// Stop asks the process to leave, and waits for it to end.
func (h *Host) Stop() {
	h.lab.logf("%s is asked to leave", h.Name())
	h.Resume()
	h.end(func(p *process.Process) {
		if !p.Stop(wait.Patience) {
			h.lab.t.Errorf("%s did not leave within %v of being asked", h.Name(), wait.Patience)
		}
	})
}

func (h *Host) end(how func(*process.Process)) {
	if !h.Running() {
		return
	}
	how(h.process)
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := &h.lives[len(h.lives)-1]; l.End == 0 {
		l.End = now()
	}
	h.unpause()
}

// unpause notes the end of a pause, if there is one.
func (h *Host) unpause() {
	if h.paused {
		h.paused = false
		h.pauses[len(h.pauses)-1].End = now()
	}
}

// Pause stops the process, as SIGSTOP does.
func (h *Host) Pause() {
	if !h.Running() {
		return
	}
	h.lab.logf("%s is paused", h.Name())
	if err := h.process.Pause(); err != nil {
		h.lab.t.Fatalf("pause %s: %v", h.Name(), err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.paused = true
	h.pauses = append(h.pauses, checker.Fault{Kind: checker.Pause, Host: h.Name(), Begin: now()})
}

// Resume undoes Pause.
func (h *Host) Resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.paused {
		return
	}
	h.lab.logf("%s goes on", h.Name())
	h.unpause() // before: it is awake at the latest from here on
	if err := h.process.Resume(); err != nil {
		h.lab.t.Errorf("resume %s: %v", h.Name(), err)
	}
}

// Starve lets the process run for a tenth of the time only, in turns of 100 ms, as
// under a limit on its CPU.
func (h *Host) Starve(d time.Duration) {
	const turn = 100 * time.Millisecond
	for begin := time.Now(); time.Since(begin) < d; {
		h.Pause()
		h.lab.Sleep(turn * 9 / 10)
		h.Resume()
		h.lab.Sleep(turn / 10)
	}
}

// lastWords is the end of what the process logged.
func (h *Host) lastWords() string {
	text, err := os.ReadFile(h.file(".log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-1000):])
}

// LoseData removes all that the node has on its disk. The process must not run.
func (h *Host) LoseData() {
	h.lab.logf("%s loses its data", h.Name())
	if err := os.RemoveAll(h.dataDir()); err != nil {
		h.lab.t.Fatal(err)
	}
}

// get asks the node's HTTP API.
func (h *Host) get(ctx context.Context, path string, value any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.IP()+":7980"+path, nil)
	if err != nil {
		return err
	}
	response, err := h.lab.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(value)
}

// view is what the node sees.
func (h *Host) view(ctx context.Context) (v httpapi.View, err error) {
	err = h.get(ctx, httpapi.PathView, &v)
	return v, err
}

// masterOf is the member that a view marks as master.
func masterOf(v httpapi.View) (m httpapi.Member, ok bool) {
	i := slices.IndexFunc(v.Members, func(m httpapi.Member) bool { return m.Master })
	if i < 0 {
		return m, false
	}
	return v.Members[i], true
}
