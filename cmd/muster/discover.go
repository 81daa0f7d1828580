package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

// sayAfter is how long a provider may take to answer before it is said that it is
// waited for.
const sayAfter = time.Second

func newDiscoverCommand() *cobra.Command {
	var file string
	var d discoverer
	var meta []string
	cmd := &cobra.Command{
		Use:   "discover",
		Short: "List the instances of a service, as the providers know them",
		Long: `List the instances that the configured providers know, without registering
anything. The service is that of the cluster unless another one is named. With
-o json an array of instances is printed.

With several providers the instances of all are printed, each with the providers that
list it. If one fails, that is reported on stderr, and what the others know is printed.
--provider asks only one.

With --watch the whole set is printed again after each change, as a table or as one JSON
object on a line. If a provider fails, that is reported, and its last good set is printed,
marked stale.

Entries that cannot be read are reported on stderr.`,
		Example: `  muster discover -c muster.yaml
  muster discover -c muster.yaml --tag web --zone eu-1 --meta version=1.4
  muster discover -c muster.yaml -o json | jq -r '.[].addr'
  muster discover -c muster.yaml --watch -o json
  muster discover -c muster.yaml --provider etcd
  MUSTER_CLUSTER=orders muster discover --provider-etcd-endpoints http://127.0.0.1:2379`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(d.output, "table", "json"); err != nil {
				return err
			}
			if d.timeout < 0 {
				return usageError(fmt.Errorf("--timeout: %q: negative; write a duration, as 10s, or 0 to wait until it answers", d.timeout))
			}
			var err error
			if d.query.Meta, err = parseMeta(meta); err != nil {
				return err
			}
			purpose := config.ForNode
			if d.query.Service != "" {
				purpose = config.ForAny // the file of a registrar names no cluster
			}
			cfg, err := loadConfigFor(cmd, file, purpose)
			if err != nil {
				return err
			}
			if d.query.Service == "" {
				d.query.Service = cfg.Cluster
			}
			if names := cfg.Providers(); d.only != "" && !slices.Contains(names, d.only) {
				return usageError(fmt.Errorf("--provider: %q: not configured; write %s", d.only, strings.Join(names, " or ")))
			}
			d.out, d.err = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return d.run(cmd.Context(), cfg)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&d.watch, "watch", "w", false, "print the set again after each change, until interrupted")
	flags.StringVar(&d.only, "provider", "", "ask this one of the configured providers alone")
	flags.StringVar(&d.query.Service, "service", "", "service whose instances are listed (default the cluster's)")
	flags.StringSliceVar(&d.query.Tags, "tag", nil, "only instances with this tag; repeat it for more")
	flags.StringSliceVar(&meta, "meta", nil, "only instances with this fact, as version=1.4; repeat it for more")
	flags.StringVar(&d.query.Zone, "zone", "", "only instances of this zone")
	flags.DurationVar(&d.timeout, "timeout", 10*time.Second, "how long to wait for the first answer of a provider; 0 waits until it answers")
	addOutputFlag(cmd, &d.output, "table", "json")
	addConfigFlags(cmd, &file, "cluster")
	return cmd
}

func parseMeta(list []string) (map[string]string, error) {
	meta := make(map[string]string, len(list))
	for _, item := range list {
		key, value, ok := strings.Cut(item, "=")
		if !ok || key == "" {
			return nil, usageError(fmt.Errorf("--meta: %q: not a fact; write NAME=VALUE", item))
		}
		meta[key] = value
	}
	return meta, nil
}

// discoverer prints what providers know.
type discoverer struct {
	query    discovery.Query
	only     string // the provider that is asked, or empty for all
	watch    bool
	timeout  time.Duration
	output   string
	out, err io.Writer

	label    func(provider string) string // how a provider is named in messages
	reported map[string]bool              // the skipped entries that stand and were reported
	failing  map[string]string            // by provider, what was reported last and still stands
}

func (d *discoverer) run(ctx context.Context, cfg *config.Config) error {
	var o discovery.Options
	if cfg.Log.Level == "debug" {
		o.Logger = cfg.Logger(d.err)
	}
	var names []string
	if d.only != "" {
		names = []string{d.only}
	}
	union, err := cfg.Open(o, names...)
	if err != nil {
		return usageError(err)
	}
	d.label = cfg.ProviderLabel
	return errors.Join(d.follow(ctx, union), union.Close())
}

// follow prints the first set that is known and, with --watch, each one after it. The
// first waits until every provider has answered or failed.
func (d *discoverer) follow(ctx context.Context, union *discovery.Union) error {
	d.failing = make(map[string]string)
	watching, stop := context.WithCancel(ctx)
	snapshots := make(chan discovery.UnionSnapshot)
	go func() {
		defer close(snapshots)
		for s := range union.Watch(watching, d.query) {
			select {
			case snapshots <- s:
			case <-watching.Done():
				return
			}
		}
	}()
	defer func() {
		stop()
		for range snapshots { // until the watch has ended
		}
	}()

	soon := time.NewTimer(sayAfter)
	defer soon.Stop()
	var late <-chan time.Time
	if d.timeout > 0 {
		timer := time.NewTimer(d.timeout)
		defer timer.Stop()
		late = timer.C
	}
	var last discovery.UnionSnapshot
	for _, r := range union.Registries() { // as long as none has answered
		last.Parts = append(last.Parts, discovery.Part{Provider: r.Name()})
	}
	for printed := false; ; {
		select {
		case s, ok := <-snapshots:
			switch {
			case !ok && ctx.Err() == nil:
				return d.nothing(last, "the watch of %s ended", errors.New("no reason was given"))
			case !ok:
				continue // the context's end is reported below
			}
			last = s
			if !printed && (!s.Known || !s.Settled()) {
				if hopeless(s) {
					return d.nothing(s, "%s", nil)
				}
				d.reportWaiting(s)
				continue
			}
		case <-soon.C:
			for _, p := range last.Parts {
				if !printed && pending(p) {
					fmt.Fprintf(d.err, "muster: waiting for %s\n", d.label(p.Provider))
				}
			}
			continue
		case <-late:
			if !last.Known {
				return d.nothing(last, fmt.Sprintf("%%s did not answer within %v", d.timeout), driver.ErrUnavailable)
			}
		case <-ctx.Done():
			if printed {
				return nil // how a watch is meant to end
			}
			return d.nothing(last, "interrupted before %s answered", ctx.Err())
		}
		printed, late = true, nil
		if err := d.print(last); err != nil || !d.watch {
			return err
		}
	}
}

// pending reports whether the provider has not answered yet.
func pending(p discovery.Part) bool { return !p.Known && p.Err == nil }

// hopeless reports whether no provider has answered and none will.
func hopeless(s discovery.UnionSnapshot) bool {
	return !slices.ContainsFunc(s.Parts, func(p discovery.Part) bool {
		return p.Known || pending(p) || driver.Retryable(p.Err)
	})
}

// nothing is the error where nothing is known: for each provider what happened, a
// format for its name, and the reason, or else the one that is given.
func (d *discoverer) nothing(s discovery.UnionSnapshot, format string, reason error) error {
	var errs []error
	for _, p := range s.Parts {
		errs = append(errs, fmt.Errorf(format+": %w", d.label(p.Provider), either(reasonOf(p), reason)))
	}
	return errors.Join(errs...)
}

func either(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// reasonOf is the error of a part without the name of the provider, which our messages
// begin with.
func reasonOf(p discovery.Part) error {
	if p.Err == nil {
		return nil
	}
	if text, ok := strings.CutPrefix(p.Err.Error(), "provider "+p.Provider+": "); ok {
		return errors.New(text)
	}
	return p.Err
}

// reportWaiting says why there is no answer yet.
func (d *discoverer) reportWaiting(s discovery.UnionSnapshot) {
	for _, p := range s.Parts {
		d.report(p, "waiting for %s", message(reasonOf(p)))
	}
}

// reportFailing says what keeps the printed set from being whole and up to date.
func (d *discoverer) reportFailing(s discovery.UnionSnapshot) {
	for _, p := range s.Parts {
		switch {
		case pending(p):
			d.report(p, "incomplete: %s", "no answer yet")
		case p.Known:
			d.report(p, "stale: %s fails", message(reasonOf(p)))
		default:
			d.report(p, "incomplete: %s fails", message(reasonOf(p)))
		}
	}
}

// report says what is wrong with a provider, once as long as that is so, and when all
// is well again. The format is for its name.
func (d *discoverer) report(p discovery.Part, format, reason string) {
	line := ""
	if reason != "" {
		line = fmt.Sprintf(format, d.label(p.Provider)) + ": " + reason
	}
	switch last := d.failing[p.Provider]; {
	case line == last:
	case line == "":
		fmt.Fprintf(d.err, "muster: %s answers again\n", d.label(p.Provider))
	default:
		fmt.Fprintln(d.err, "muster: "+line)
	}
	d.failing[p.Provider] = line
}

func (d *discoverer) print(s discovery.UnionSnapshot) error {
	d.reportSkipped(s.Skipped)
	d.reportFailing(s)
	if d.output == "json" {
		return d.printJSON(s)
	}
	found, _ := s.Instances()
	if d.watch {
		state := ""
		if s.Stale {
			state = ", stale"
		}
		fmt.Fprintf(d.out, "%s  %d of %s%s\n", s.At.Format(time.TimeOnly), len(found), cell(d.query.Service), state)
	}
	header := []string{"NODE", "INSTANCE", "ADDRESS", "ZONE", "TAGS", "META", "APP ADDRESSES"}
	several := len(s.Parts) > 1
	if several {
		header = append(header, "PROVIDERS")
	}
	t := newTable(d.out, header...)
	for _, i := range found {
		row := []string{i.NodeID, short(i.InstanceID), i.Addr, i.Zone, strings.Join(i.Tags, ","), pairs(i.Meta), pairs(i.AppAddrs)}
		if several {
			row = append(row, strings.Join(s.Providers(i), ","))
		}
		t.row(row...)
	}
	err := t.flush()
	if d.watch {
		fmt.Fprintln(d.out)
	}
	return err
}

// listed is one instance in the output of `muster discover -o json`. It only gains
// fields.
type listed struct {
	discovery.Instance
	// Providers list it.
	Providers []string `json:"providers"`
}

// discovered is a line of `muster discover --watch -o json`. It only gains fields.
type discovered struct {
	Service string `json:"service"`
	// Revision is that of the provider, 0 if it has none and with several.
	Revision uint64 `json:"revision"`
	// Stale says that a provider fails, for the reason in Error, and that this is
	// the last good set.
	Stale     bool      `json:"stale"`
	Error     string    `json:"error,omitempty"`
	At        time.Time `json:"at"`
	Instances []listed  `json:"instances"`
	Skipped   []skipped `json:"skipped"`
	Providers []share   `json:"providers"`
}

type skipped struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// share is what one provider has to do with a set.
type share struct {
	Name string `json:"name"`
	// Known is false until it has answered once.
	Known     bool   `json:"known"`
	Stale     bool   `json:"stale"`
	Error     string `json:"error,omitempty"`
	Instances int    `json:"instances"`
	Revision  uint64 `json:"revision"`
}

// printJSON prints the array of instances, or a line of a watch.
func (d *discoverer) printJSON(s discovery.UnionSnapshot) error {
	instances := []listed{} // never null
	found, _ := s.Instances()
	for _, i := range found {
		instances = append(instances, listed{i, s.Providers(i)})
	}
	if !d.watch {
		return printJSON(d.out, instances)
	}
	v := discovered{
		Service:   d.query.Service,
		Revision:  uint64(s.Revision),
		Stale:     s.Stale,
		Error:     message(s.Err),
		At:        s.At,
		Instances: instances,
		Skipped:   []skipped{},
	}
	for _, k := range s.Skipped {
		v.Skipped = append(v.Skipped, skipped{k.Key, complaint(k)})
	}
	for _, p := range s.Parts {
		of, known := p.Instances()
		v.Providers = append(v.Providers, share{p.Provider, known, p.Stale, message(p.Err), len(of), uint64(p.Revision)})
	}
	return json.NewEncoder(d.out).Encode(v) // on one line
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// reportSkipped reports entries that cannot be read, once for each as long as it
// stands.
func (d *discoverer) reportSkipped(list []driver.Skipped) {
	now := make(map[string]bool, len(list))
	for _, k := range list {
		now[k.Key] = true
		if !d.reported[k.Key] {
			fmt.Fprintf(d.err, "muster: skipped %s: %s\n", strconv.Quote(k.Key), cell(complaint(k)))
		}
	}
	d.reported = now
}

func complaint(k driver.Skipped) string {
	if k.Reason == nil {
		return "no reason was given"
	}
	return k.Reason.Error()
}
