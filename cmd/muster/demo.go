package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
)

const (
	demoPrefix          = "muster-demo-" // of the name of its directory
	demoMostNodes       = 15             // all of them vote
	demoFormTimeout     = 30 * time.Second
	demoFailoverTimeout = 30 * time.Second
	demoStopTimeout     = 10 * time.Second
)

// demoResult is the JSON that `muster demo -o json` prints. It only gains fields.
type demoResult struct {
	Nodes      int    `json:"nodes"`
	FormedMS   int64  `json:"formed_ms"`
	Master     string `json:"master"`
	Term       uint64 `json:"term"`
	FailoverMS int64  `json:"failover_ms"`
	NextMaster string `json:"next_master"`
	NextTerm   uint64 `json:"next_term"`
	// Agents are those that go on running, with --keep.
	Agents []demoAgent `json:"agents,omitempty"`
}

func newDemoCommand() *cobra.Command {
	var nodes int
	var keep bool
	var restartAfter time.Duration
	var output string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Form a cluster on this machine, kill its master and show the next one",
		Long: `Start agents as processes of their own on loopback, with a static list of peers,
temporary data and free ports. Show the members and the master with its term,
kill the master with SIGKILL, show the next one and the time that it took, and
stop everything. Nothing is left behind. If the demo is killed, the next one removes
its files.

With --keep the cluster goes on running until Ctrl-C: try to kill, pause and stop
its nodes. What the demo sees is printed, and a node that ended is started again
after a while. With -o json each of these events is one object on a line.`,
		Example: `  muster demo
  muster demo --keep
  muster demo --nodes 5
  muster demo -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if nodes < 3 || nodes > demoMostNodes {
				return usageError(fmt.Errorf("--nodes: %q: want 3, as a cluster that outlives its master has at least, to %d", fmt.Sprint(nodes), demoMostNodes))
			}
			if err := checkOutput(output, "text", "json"); err != nil {
				return err
			}
			if restartAfter < 0 {
				return usageError(fmt.Errorf("--restart-after: %q: negative; write how long a node that ended stays away, as 15s", restartAfter))
			}
			// A terminal that is closed ends the demo, but for nohup.
			ctx := cmd.Context()
			if !signal.Ignored(syscall.SIGHUP) {
				var stop context.CancelFunc
				ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
				defer stop()
			}
			d := demo{out: cmd.OutOrStdout(), json: output == "json", keep: keep, restartAfter: restartAfter}
			return d.run(ctx, nodes)
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 3, "number of agents")
	cmd.Flags().BoolVar(&keep, "keep", false, "go on running after the show, until Ctrl-C")
	cmd.Flags().DurationVar(&restartAfter, "restart-after", 15*time.Second, "with --keep, how long a node that ended stays away")
	addOutputFlag(cmd, &output, "text", "json")
	return cmd
}

// demo is one run of the command.
type demo struct {
	out          io.Writer
	json         bool
	keep         bool
	restartAfter time.Duration
}

func (d *demo) run(ctx context.Context, nodes int) (err error) {
	cluster, err := newDemoCluster(nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.close()) }()

	story := d.out
	if d.json {
		story = io.Discard
	}
	result, err := cluster.show(ctx, story)
	if err != nil {
		return err
	}
	var master httpapi.Master
	if d.keep {
		fmt.Fprintf(story, "Starting %s again.\n", result.Master)
		if err := cluster.start(result.Master); err != nil {
			return err
		}
		if master, err = cluster.waitFormed(ctx); err != nil {
			return err
		}
		result.Agents = cluster.demoAgents()
		printInvitation(story, cluster.files.binary, result.Agents, master, d.restartAfter)
	}
	if d.json {
		if err := printJSON(d.out, result); err != nil {
			return err
		}
	}
	if d.keep {
		if err := d.follow(ctx, cluster, master); err != nil {
			return err
		}
	}
	fmt.Fprintln(story, "Stopping the agents.")
	return nil
}

// demoCluster is a set of agents with the static provider.
type demoCluster struct {
	files  agentFiles
	names  []string
	agents map[string]*agentProcess
}

func newDemoCluster(nodes int) (*demoCluster, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	tidyDemos()
	dir, err := os.MkdirTemp("", demoPrefix)
	if err != nil {
		return nil, err
	}
	c := &demoCluster{files: agentFiles{binary: binary, dir: dir}, agents: make(map[string]*agentProcess)}
	if c.files.held, err = lockDemo(dir); err != nil {
		return nil, errors.Join(err, c.close())
	}
	addrs, err := freeAddrs(2 * nodes)
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	peers, web := addrs[:nodes], addrs[nodes:]
	for i := range nodes {
		name := fmt.Sprintf("node-%d", i+1)
		agent, err := c.files.prepare(name, peers[i], web[i], map[string]any{
			"provider": map[string]any{"static": map[string]any{"peers": peers}},
		})
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.names = append(c.names, name)
		c.agents[name] = agent
	}
	return c, nil
}

// show tells its story on w as it goes: the cluster forms, and loses its master.
func (c *demoCluster) show(ctx context.Context, w io.Writer) (result demoResult, err error) {
	fmt.Fprintf(w, "Starting %d agents on loopback, each a process of its own, with a static list of peers.\n", len(c.names))
	if err := c.start(c.names...); err != nil {
		return result, err
	}
	began := time.Now()
	master, err := c.waitFormed(ctx)
	if err != nil {
		return result, err
	}
	result = demoResult{
		Nodes:    len(c.names),
		FormedMS: time.Since(began).Milliseconds(),
		Master:   master.NodeID,
		Term:     master.Term,
	}
	fmt.Fprintf(w, "Formed %d ms after the last of them was started.\n\n", result.FormedMS)
	if err := c.printMembers(ctx, w); err != nil {
		return result, err
	}

	victim := c.agents[master.NodeID]
	fmt.Fprintf(w, "\n%s is master in term %d. Killing it (SIGKILL, pid %d).\n", master.NodeID, master.Term, victim.pid())
	killed := time.Now()
	victim.kill()
	next, err := c.waitNext(ctx, master)
	if err != nil {
		return result, err
	}
	result.FailoverMS = time.Since(killed).Milliseconds()
	result.NextMaster, result.NextTerm = next.NodeID, next.Term
	fmt.Fprintf(w, "%s is master in term %d, %d ms after the kill.\n", next.NodeID, next.Term, result.FailoverMS)
	return result, nil
}

func (c *demoCluster) start(names ...string) error {
	for _, name := range names {
		if err := c.agents[name].start(c.files.binary); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	return nil
}

// waitFormed waits until every agent sees all the others and all name the same
// master.
func (c *demoCluster) waitFormed(ctx context.Context) (httpapi.Master, error) {
	ctx, cancel := context.WithTimeout(ctx, demoFormTimeout)
	defer cancel()
	var master httpapi.Master
	return master, c.wait(ctx, "form", func() bool {
		for _, agent := range c.live() {
			members, err := agent.members(ctx)
			if err != nil || len(members) != len(c.names) {
				return false
			}
		}
		var agreed bool
		master, agreed = c.agreedMaster(ctx)
		return agreed
	})
}

// waitNext waits until all survivors name the same master of a higher term.
func (c *demoCluster) waitNext(ctx context.Context, last httpapi.Master) (httpapi.Master, error) {
	ctx, cancel := context.WithTimeout(ctx, demoFailoverTimeout)
	defer cancel()
	var next httpapi.Master
	return next, c.wait(ctx, "elect the next master", func() bool {
		var agreed bool
		next, agreed = c.agreedMaster(ctx)
		return agreed && next.Term > last.Term
	})
}

// wait polls until done, and fails at once where an agent ended by itself.
func (c *demoCluster) wait(ctx context.Context, what string, done func() bool) error {
	var ended *agentProcess
	err := poll(ctx, func() bool {
		for _, name := range c.names {
			if agent := c.agents[name]; !agent.running() && !agent.killed {
				ended = agent
				return true
			}
		}
		return done()
	})
	if ended != nil {
		return fmt.Errorf("%s ended before its time: %s", ended.name, ended.lastLog())
	}
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	if err != nil {
		for _, agent := range c.live() {
			err = errors.Join(err, fmt.Errorf("%s: %s", agent.name, agent.lastLog()))
		}
		return fmt.Errorf("the cluster did not %s: %w", what, err)
	}
	return nil
}

func (c *demoCluster) agreedMaster(ctx context.Context) (master httpapi.Master, agreed bool) {
	for i, agent := range c.live() {
		m, err := agent.master(ctx)
		if err != nil || i > 0 && m.InstanceID != master.InstanceID {
			return m, false
		}
		master = m
	}
	return master, true
}

func (c *demoCluster) live() []*agentProcess {
	var live []*agentProcess
	for _, name := range c.names {
		if agent := c.agents[name]; agent.running() {
			live = append(live, agent)
		}
	}
	return live
}

func (c *demoCluster) printMembers(ctx context.Context, w io.Writer) error {
	members, err := c.live()[0].members(ctx)
	if err != nil {
		return err
	}
	t := newTable(w, "NODE", "ADDRESS", "STATE", "MASTER")
	for _, m := range members {
		t.row(m.NodeID, m.Addr, m.State, mark(m.Master))
	}
	return t.flush()
}

// close stops the agents that run, followers first so that mastership does not
// wander, and removes the files.
func (c *demoCluster) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), demoStopTimeout)
	defer cancel()
	var errs []error
	master, _ := c.agreedMaster(ctx)
	live := c.live()
	slices.SortStableFunc(live, func(a, b *agentProcess) int {
		switch master.NodeID {
		case a.name:
			return 1
		case b.name:
			return -1
		}
		return 0
	})
	for _, agent := range live {
		errs = append(errs, agent.stop(ctx))
	}
	errs = append(errs, os.RemoveAll(c.files.dir))
	if c.files.held != nil {
		errs = append(errs, c.files.held.Close())
	}
	return errors.Join(errs...)
}
