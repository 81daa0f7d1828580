package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/httpapi"
)

const (
	demoMostNodes       = 15 // all of them vote
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
}

func newDemoCommand() *cobra.Command {
	var nodes int
	var output string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Form a cluster on this machine, kill its master and show the next one",
		Long: `Start agents as processes of their own on loopback, with a static list of peers,
temporary data and free ports. Show the members and the master with its term,
kill the master with SIGKILL, show the next one and the time that it took, and
stop everything. Nothing is left behind.`,
		Example: `  muster demo
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
			out := cmd.OutOrStdout()
			story := out
			if output == "json" {
				story = io.Discard
			}
			result, err := demo(cmd.Context(), nodes, story)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(out, result)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 3, "number of agents")
	addOutputFlag(cmd, &output, "text", "json")
	return cmd
}

// demo tells its story on w as it goes.
func demo(ctx context.Context, nodes int, w io.Writer) (result demoResult, err error) {
	cluster, err := newDemoCluster(nodes)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, cluster.close()) }()

	fmt.Fprintf(w, "Starting %d agents on loopback, each a process of its own, with a static list of peers.\n", nodes)
	if err := cluster.start(); err != nil {
		return result, err
	}
	began := time.Now()
	master, err := cluster.waitFormed(ctx)
	if err != nil {
		return result, err
	}
	result = demoResult{
		Nodes:    nodes,
		FormedMS: time.Since(began).Milliseconds(),
		Master:   master.NodeID,
		Term:     master.Term,
	}
	fmt.Fprintf(w, "Formed %d ms after the last of them was started.\n\n", result.FormedMS)
	if err := cluster.printMembers(ctx, w); err != nil {
		return result, err
	}

	victim := cluster.agents[master.NodeID]
	fmt.Fprintf(w, "\n%s is master in term %d. Killing it (SIGKILL, pid %d).\n", master.NodeID, master.Term, victim.cmd.Process.Pid)
	killed := time.Now()
	victim.kill()
	next, err := cluster.waitNext(ctx, master)
	if err != nil {
		return result, err
	}
	result.FailoverMS = time.Since(killed).Milliseconds()
	result.NextMaster, result.NextTerm = next.NodeID, next.Term
	fmt.Fprintf(w, "%s is master in term %d, %d ms after the kill.\n", next.NodeID, next.Term, result.FailoverMS)
	fmt.Fprintln(w, "Stopping the others.")
	return result, nil
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
	dir, err := os.MkdirTemp("", "muster-demo-")
	if err != nil {
		return nil, err
	}
	c := &demoCluster{files: agentFiles{binary: binary, dir: dir}, agents: make(map[string]*agentProcess)}
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

func (c *demoCluster) start() error {
	for _, name := range c.names {
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
	return errors.Join(append(errs, os.RemoveAll(c.files.dir))...)
}
