package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/node/history/check"
	"github.com/musterhq/muster/node/httpapi"
)

// incidentFlags are those of muster history.
type incidentFlags struct {
	askFlags
	agents                        []string
	cluster, since, until, output string
}

func newHistoryCommand() *cobra.Command {
	f := incidentFlags{askFlags: askFlags{service: agentService}}
	cmd := &cobra.Command{
		Use:   "history [FILE]...",
		Short: "Check what the nodes recorded: were there two masters, how long was there none",
		Long: `Merge the histories of the nodes of a cluster into one timeline, and check it: whether
there were two masters at a time, whether terms rose, and how long there was no master.

The histories are what muster agent --history wrote: name the files of all nodes, or
directories of them. Rotated files, files compressed by gzip, and pipes such as
<(ssh b cat history.jsonl) are read, too. Without a file agents are asked; --agent can be
repeated. An agent has the last 1 MiB of what it recorded since it was started, whether or
not it writes a file.

On one host times are compared by its boot clock. Hosts are compared by the messages
between their nodes, since wall clocks may be wrong. The answer is no only if the records
prove it, and otherwise "cannot be told", with the reasons: a node without a history,
missing records, clocks that are not known well enough. The times that are printed are
those of the wall clocks, in UTC.

Torn lines are normal after a crash or on a full disk. Other lines that are no records are
counted, and named.

The status is 0 if nothing shows a broken promise, 1 if something does or nothing can be
read, and 2 if the command line is wrong.`,
		Example: `  muster history node-1.jsonl node-2.jsonl node-3.jsonl
  muster history /var/log/muster --since 2h
  muster history --agent 127.0.0.1:7981 --agent 127.0.0.1:7982 --agent 127.0.0.1:7983
  muster history histories/ --since '2026-11-30 03:00' --until '2026-11-30 04:00' -o json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(f.output, "text", "json"); err != nil {
				return err
			}
			o, err := f.span(time.Now())
			if err != nil {
				return err
			}
			loader, err := f.load(cmd.Context(), args)
			if err != nil {
				return err
			}
			return f.report(cmd.OutOrStdout(), loader, o)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.agents, "agent", nil, "HOST:PORT or https://HOST:PORT of an agent's HTTP API, several times for several (default, without a FILE, $"+agentVariable+" or "+f.usual+")")
	f.addAccessTo(cmd)
	flags.StringVar(&f.cluster, "cluster", "", "name of the cluster, where there are histories of several")
	flags.StringVar(&f.since, "since", "", "leave out what was before: a time, as '2026-11-30 03:00' in UTC or 2026-11-30T03:00:00+01:00, or how long ago, as 2h")
	flags.StringVar(&f.until, "until", "", "leave out what was after, written as --since")
	addOutputFlag(cmd, &f.output, "text", "json")
	return cmd
}

// span reads --since and --until.
func (f incidentFlags) span(now time.Time) (o check.Options, err error) {
	if o.Since, err = parseMoment("--since", f.since, now); err != nil {
		return o, err
	}
	if o.Until, err = parseMoment("--until", f.until, now); err != nil {
		return o, err
	}
	if !o.Since.IsZero() && !o.Until.IsZero() && !o.Since.Before(o.Until) {
		return o, usageError(fmt.Errorf("--until: %q: not after --since %q", f.until, f.since))
	}
	return o, nil
}

// parseMoment reads a moment of the wall clock.
func parseMoment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError(fmt.Errorf("%s: %q: not a time; write '2026-11-30 03:00' in UTC, 2026-11-30T03:00:00+01:00, or how long ago, as 2h", flag, text))
}

// load reads the files that the names stand for, and asks the agents. One that does not answer is a
// source that could not be read.
func (f incidentFlags) load(ctx context.Context, names []string) (*check.Loader, error) {
	var l check.Loader
	for _, name := range names {
		files, err := check.Files(name)
		if err != nil {
			return nil, usageError(fmt.Errorf("%w; name a history, or a directory of them", err))
		}
		for _, file := range files {
			if err := l.File(ctx, file); err != nil {
				return nil, err
			}
		}
	}
	agents := f.agents
	if len(names)+len(agents) == 0 || f.file != "" && len(agents) == 0 {
		agents = []string{""}
	}
	var failed error
	for _, addr := range agents {
		f.addr = addr
		agent, err := f.agent()
		if err != nil {
			return nil, err
		}
		text, err := agent.history(ctx)
		if err != nil {
			failed = err
			l.Sources = append(l.Sources, check.Source{Name: agent.name + " at " + agent.origin(), Err: err})
			continue
		}
		if err := l.Read(agent.name+" at "+agent.origin(), bytes.NewReader(text)); err != nil {
			return nil, err
		}
	}
	if len(l.Logs) == 0 {
		return nil, failed
	}
	return &l, nil
}

// history asks an agent for what it recorded lately.
func (a apiClient) history(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return a.fetch(ctx, http.MethodGet, httpapi.PathHistory, "application/jsonl")
}

// report prints what the histories come to, and fails where a promise was broken.
func (f incidentFlags) report(w io.Writer, l *check.Loader, o check.Options) error {
	clusters := check.Clusters(l.Logs)
	switch {
	case f.cluster != "" && !slices.Contains(clusters, f.cluster):
		return usageError(fmt.Errorf("--cluster: %q: there is no history of it, but of %s", f.cluster, cmp.Or(strings.Join(clusters, ", "), "none")))
	case f.cluster == "" && len(clusters) > 1:
		return usageError(fmt.Errorf("there are histories of several clusters: %s; name one with --cluster", strings.Join(clusters, ", ")))
	case f.cluster != "":
		l.Logs = check.Select(l.Logs, f.cluster)
	}
	if !slices.ContainsFunc(l.Logs, func(log check.Log) bool { return len(log.Records) > 0 }) {
		return fmt.Errorf("there is no record of a history in %s", strings.Join(sourceNames(l), ", "))
	}
	found := newIncident(l, check.Check(l.Logs, o))
	var err error
	if f.output == "json" {
		err = printJSON(w, found)
	} else {
		err = found.print(w)
	}
	if broken := len(found.Violations) + found.Omitted; err == nil && broken > 0 {
		return fmt.Errorf("%d times a promise was broken", broken)
	}
	return err
}

func sourceNames(l *check.Loader) (names []string) {
	for _, s := range l.Sources {
		names = append(names, s.Name)
	}
	return names
}

// incident is the JSON of `muster history -o json`. It only gains fields.
type incident struct {
	TwoMasters check.Answer `json:"two_masters"` // yes, no or unknown
	// Undecided says why it is unknown.
	Undecided    []string             `json:"undecided,omitempty"`
	Violations   []incidentViolation  `json:"violations"`
	Omitted      int                  `json:"violations_omitted,omitempty"`
	Masterships  []incidentMastership `json:"masterships"`
	Availability *incidentTimes       `json:"availability,omitempty"` // none without a mastership
	Notes        []string             `json:"notes,omitempty"`
	Sources      []incidentSource     `json:"sources"`
	Timeline     []check.Entry        `json:"timeline"`
}

type incidentViolation struct {
	Invariant string    `json:"invariant"`
	Time      time.Time `json:"time,omitzero"`
	Text      string    `json:"text"`
}

type incidentMastership struct {
	NodeID     string    `json:"node_id"`
	InstanceID string    `json:"instance_id"`
	Term       uint64    `json:"term"`
	ClusterID  string    `json:"cluster_id"`
	From       time.Time `json:"from"`
	Until      time.Time `json:"until"`
	Reason     string    `json:"reason,omitempty"`
	// Partial says that the beginning is not on record.
	Partial bool `json:"partial,omitempty"`
	// The same by the boot clock of that name.
	Clock   string `json:"clock"`
	BeginNS int64  `json:"begin_ns"`
	UntilNS int64  `json:"until_ns"`
}

type incidentTimes struct {
	From           time.Time `json:"from"`
	To             time.Time `json:"to"`
	Share          float64   `json:"share"`
	LongestWithout float64   `json:"longest_without_seconds"`
	Since          time.Time `json:"longest_without_since,omitzero"`
	Lasts          bool      `json:"longest_without_lasts"`
}

type incidentSource struct {
	Name       string   `json:"name"`
	Records    int      `json:"records"`
	Torn       int      `json:"torn"`
	Unreadable int      `json:"unreadable"`
	Named      []string `json:"unreadable_lines,omitempty"`
	Error      string   `json:"error,omitempty"`
}

func newIncident(l *check.Loader, r *check.Report) incident {
	found := incident{
		TwoMasters: r.TwoMasters, Undecided: r.Undecided, Omitted: r.Omitted, Notes: r.Notes, Timeline: r.Timeline(),
		Violations: []incidentViolation{}, Masterships: []incidentMastership{}, Sources: []incidentSource{},
	}
	for _, v := range r.Violations {
		broken := incidentViolation{Invariant: v.Invariant, Text: v.Text}
		if v.Instance != nil {
			broken.Time = r.Wall(v.Instance, v.BootNS)
		}
		found.Violations = append(found.Violations, broken)
	}
	for _, m := range r.Masterships {
		found.Masterships = append(found.Masterships, incidentMastership{
			NodeID: m.Node, InstanceID: m.ID, Term: m.Term, ClusterID: m.ClusterID, Reason: m.Reason, Partial: m.Partial,
			From: r.Wall(m.Instance, m.Begin), Until: r.Wall(m.Instance, m.Until), Clock: m.Clock, BeginNS: m.Begin, UntilNS: m.Until,
		})
	}
	if a, ok := r.Availability(); ok {
		found.Availability = &incidentTimes{From: a.From, To: a.To, Share: a.Share, LongestWithout: a.Without.Seconds(), Since: a.Since, Lasts: a.Now}
	}
	for _, s := range l.Sources {
		source := incidentSource{Name: s.Name, Records: s.Records, Torn: s.Torn, Unreadable: s.Lines}
		for _, err := range s.Named {
			source.Named = append(source.Named, err.Error())
		}
		if s.Err != nil {
			source.Error = s.Err.Error()
		}
		found.Sources = append(found.Sources, source)
	}
	return found
}

const momentForm = "2006-01-02 15:04:05.000"

func moment(t time.Time) string { return t.UTC().Format(momentForm) }

// print prints the timeline, the masterships, what is missing, and the verdict in the end.
func (f incident) print(w io.Writer) error {
	t := newTable(w, "TIME (UTC)", "NODE", "EVENT")
	for _, e := range f.Timeline {
		t.row(moment(e.Time), e.Node, e.Text)
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "MASTER", "TERM", "FROM (UTC)", "UNTIL (UTC)", "FOR", "ENDED")
	for _, m := range f.Masterships {
		ended := check.ReasonText(m.Reason)
		if ended == "" {
			ended = "its end is not on record: the last deadline is"
		}
		from := moment(m.From)
		if m.Partial {
			from = "before " + from
		}
		t.row(m.NodeID, fmt.Sprint(m.Term), from, moment(m.Until), m.Until.Sub(m.From).Round(time.Millisecond).String(), ended)
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, s := range f.Sources {
		fmt.Fprintf(w, "read: %s: %d records", cell(s.Name), s.Records)
		if s.Torn > 0 {
			fmt.Fprintf(w, ", %d torn lines, which is normal", s.Torn)
		}
		fmt.Fprintln(w)
		for _, line := range s.Named {
			fmt.Fprintf(w, "  unreadable: %s\n", cell(line))
		}
		if more := s.Unreadable - len(s.Named); more > 0 {
			fmt.Fprintf(w, "  unreadable: %d more lines\n", more)
		}
		if s.Error != "" {
			fmt.Fprintf(w, "  the rest could not be read: %s\n", cell(s.Error))
		}
	}
	for _, n := range f.Notes {
		fmt.Fprintf(w, "note: %s\n", cell(n))
	}
	for _, v := range f.Violations {
		at := ""
		if !v.Time.IsZero() {
			at = " at " + moment(v.Time)
		}
		fmt.Fprintf(w, "broken%s: %s: %s\n", at, v.Invariant, cell(v.Text))
	}
	if f.Omitted > 0 {
		fmt.Fprintf(w, "broken: %d more times\n", f.Omitted)
	}
	fmt.Fprintln(w)
	return f.printVerdict(w)
}

func (f incident) printVerdict(w io.Writer) error {
	switch f.TwoMasters {
	case check.Unknown:
		fmt.Fprintln(w, "two masters: cannot be told")
		for _, reason := range f.Undecided {
			fmt.Fprintf(w, "  %s\n", cell(reason))
		}
	default:
		fmt.Fprintf(w, "two masters: %s\n", f.TwoMasters)
	}
	a := f.Availability
	if a == nil {
		_, err := fmt.Fprintln(w, "no mastership is on record")
		return err
	}
	switch without := time.Duration(a.LongestWithout * float64(time.Second)).Round(time.Millisecond); {
	case without <= 0:
		fmt.Fprintln(w, "longest without a master: never without one")
	case a.Lasts:
		fmt.Fprintf(w, "longest without a master: %v from %s on, up to the last record\n", without, moment(a.Since))
	default:
		fmt.Fprintf(w, "longest without a master: %v at %s\n", without, moment(a.Since))
	}
	_, err := fmt.Fprintf(w, "a master %.2f %% of the time from %s to %s\n", 100*a.Share, moment(a.From), moment(a.To))
	return err
}
