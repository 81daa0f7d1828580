package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/musterhq/muster/node/httpapi"
)

const (
	demoLookPause   = 100 * time.Millisecond
	demoSilentAfter = time.Second // without an answer
)

// demoAgent is a process of a kept demo, for those who want to harm it.
type demoAgent struct {
	NodeID string `json:"node_id"`
	PID    int    `json:"pid"`
	URL    string `json:"url"`
	agent  string // what --agent takes
}

func (c *demoCluster) demoAgents() []demoAgent {
	var list []demoAgent
	for _, name := range c.names {
		p := c.agents[name]
		list = append(list, demoAgent{NodeID: name, PID: p.pid(), URL: "http://" + p.httpAddr + "/", agent: p.httpAddr})
	}
	return list
}

// printInvitation says what can be tried, in lines to be copied.
func printInvitation(w io.Writer, binary string, agents []demoAgent, master httpapi.Master, restartAfter time.Duration) {
	fmt.Fprintf(w, "\nThe cluster runs until Ctrl-C. A node that ended is started again after %v.\n\n", restartAfter)
	t := newTable(w, "NODE", "PID", "PAGE", "MASTER")
	var victim demoAgent
	for _, a := range agents {
		if a.NodeID == master.NodeID {
			victim = a
		}
		t.row(a.NodeID, strconv.Itoa(a.PID), a.URL, mark(a.NodeID == master.NodeID))
	}
	_ = t.flush() // what the terminal does not take is nobody's loss
	fmt.Fprintln(w, "\nOpen a page in a browser. Try in another terminal, with the master or another node:")
	fmt.Fprintln(w)
	lines := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range [][2]string{
		{fmt.Sprintf("kill -9 %d", victim.PID), "kill it: the others elect the next master"},
		{fmt.Sprintf("kill -STOP %d", victim.PID), "pause it, as a machine that hangs"},
		{fmt.Sprintf("kill -CONT %d", victim.PID), "let it go on: it is master no more"},
		{fmt.Sprintf("kill %d", victim.PID), "stop it: it hands its mastership over and leaves"},
	} {
		fmt.Fprintf(lines, "  %s\t# %s\n", line[0], line[1])
	}
	_ = lines.Flush()
	// By itself: the path of a binary of go run is longer than a terminal is wide.
	fmt.Fprintf(w, "\nAsk it for its status; so do members, master and voters:\n\n  %s status --agent %s\n\n", shortestCommand(binary), victim.agent)
}

// shortestCommand is what a shell needs to run the binary.
func shortestCommand(binary string) string {
	const name = "muster"
	if path, err := exec.LookPath(name); err == nil {
		a, errA := os.Stat(path)
		b, errB := os.Stat(binary)
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return name
		}
	}
	return binary
}

// demoEvent is something that a kept demo saw. Its fields are part of what
// `muster demo --keep -o json` prints, and are only added to.
type demoEvent struct {
	Time time.Time `json:"time"`
	// Event is ended, started, silent, answers, master or no_master.
	Event  string `json:"event"`
	NodeID string `json:"node_id,omitempty"`
	PID    int    `json:"pid,omitempty"`
	// Status is how the process ended.
	Status string `json:"status,omitempty"`
	Term   uint64 `json:"term,omitempty"`
	// WithoutMasterMS is the time from the end of the last master's process.
	WithoutMasterMS int64 `json:"without_master_ms,omitempty"`
}

func (e demoEvent) String() string {
	switch e.Event {
	case "ended":
		return fmt.Sprintf("%s, pid %d, ended: %s", e.NodeID, e.PID, e.Status)
	case "started":
		return fmt.Sprintf("%s was started again, pid %d", e.NodeID, e.PID)
	case "silent":
		return fmt.Sprintf("%s, pid %d, does not answer", e.NodeID, e.PID)
	case "answers":
		return fmt.Sprintf("%s, pid %d, answers", e.NodeID, e.PID)
	case "no_master":
		return "no master is known"
	}
	text := fmt.Sprintf("%s is master in term %d", e.NodeID, e.Term)
	if e.WithoutMasterMS > 0 {
		text += fmt.Sprintf(", %d ms after the last one ended", e.WithoutMasterMS)
	}
	return text
}

// report prints e, as it happens.
func (d *demo) report(e demoEvent) error {
	if d.json {
		return json.NewEncoder(d.out).Encode(e)
	}
	_, err := fmt.Fprintf(d.out, "%s  %v\n", e.Time.Format("15:04:05.000"), e)
	return err
}

// sighting is one look at an agent.
type sighting struct {
	name   string
	at     time.Time
	ended  bool // the last one of the process
	answer bool
	view   httpapi.View
}

// follow reports what becomes of the cluster, and starts again what ended, until ctx ends.
func (d *demo) follow(ctx context.Context, c *demoCluster, master httpapi.Master) error {
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer cancel()
	sightings := make(chan sighting)
	restarts := make(chan string)
	look := func(p *agentProcess) { looking.Go(func() { lookAt(ctx, p, sightings) }) }

	state := newDemoState(c.names, master)
	for _, name := range c.names {
		look(c.agents[name])
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-sightings:
			for _, e := range state.saw(s) {
				e.Time = s.at
				if p := c.agents[e.NodeID]; p != nil {
					e.PID = p.pid()
				}
				if e.Event == "ended" {
					e.Status = c.agents[e.NodeID].cmd.ProcessState.String()
				}
				if err := d.report(e); err != nil {
					return err
				}
			}
			if s.ended {
				looking.Go(func() {
					select {
					case <-time.After(d.restartAfter):
					case <-ctx.Done():
						return
					}
					select {
					case restarts <- s.name:
					case <-ctx.Done():
					}
				})
			}
		case name := <-restarts:
			if err := c.start(name); err != nil {
				return err
			}
			p := c.agents[name]
			if err := d.report(demoEvent{Time: time.Now(), Event: "started", NodeID: name, PID: p.pid()}); err != nil {
				return err
			}
			look(p)
		}
	}
}

// lookAt sends what is seen of p, until its process has ended or ctx ends.
func lookAt(ctx context.Context, p *agentProcess, to chan<- sighting) {
	tick := time.NewTicker(demoLookPause)
	defer tick.Stop()
	for {
		view, err := p.view(ctx)
		s := sighting{name: p.name, at: time.Now(), answer: err == nil, view: view, ended: !p.running()}
		select {
		case to <- s:
		case <-ctx.Done():
			return
		}
		if s.ended {
			return
		}
		select {
		case <-tick.C:
		case <-p.exited:
		case <-ctx.Done():
			return
		}
	}
}

// demoState is what was last seen of each agent.
type demoState struct {
	answered map[string]time.Time // by the processes that run
	silent   map[string]bool
	views    map[string]httpapi.View // of those that answer
	master   string                  // the last one that was reported, "" for none
	term     uint64
	ended    time.Time // when the process of that master did
}

func newDemoState(names []string, master httpapi.Master) *demoState {
	s := &demoState{
		answered: make(map[string]time.Time),
		silent:   make(map[string]bool),
		views:    make(map[string]httpapi.View),
		master:   master.NodeID,
		term:     master.Term,
	}
	for _, name := range names {
		s.answered[name] = time.Now()
	}
	return s
}

// saw returns the events that a sighting is, or brings about.
func (s *demoState) saw(now sighting) (events []demoEvent) {
	name := now.name
	add := func(what string) { events = append(events, demoEvent{Event: what, NodeID: name}) }
	switch {
	case now.ended:
		add("ended")
		delete(s.answered, name)
		delete(s.silent, name)
		delete(s.views, name)
		if name == s.master {
			s.ended = now.at
		}
	case now.answer:
		if _, known := s.answered[name]; !known || s.silent[name] {
			add("answers")
		}
		s.answered[name] = now.at
		delete(s.silent, name)
		s.views[name] = now.view
	default:
		last, known := s.answered[name]
		if known && !s.silent[name] && now.at.Sub(last) > demoSilentAfter {
			add("silent")
			s.silent[name] = true
			delete(s.views, name)
		}
	}
	return append(events, s.masterChange(now.at)...)
}

// masterChange is the event of another master, or of none, in what the agents say that
// answer. The highest term counts: who has been away knows an old one.
func (s *demoState) masterChange(at time.Time) []demoEvent {
	var master string
	var term uint64
	for _, view := range s.views {
		for _, m := range view.Members {
			if m.Master && view.Term > term {
				master, term = m.NodeID, view.Term
			}
		}
	}
	if term < s.term && master != "" || master == s.master && (term == s.term || master == "") {
		return nil
	}
	e := demoEvent{Event: "no_master"}
	if master != "" {
		e = demoEvent{Event: "master", NodeID: master, Term: term}
		if !s.ended.IsZero() {
			e.WithoutMasterMS = at.Sub(s.ended).Milliseconds()
		}
		s.term, s.ended = term, time.Time{}
	}
	s.master = master
	return []demoEvent{e}
}
