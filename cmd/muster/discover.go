package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/config"
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
		Short: "List the instances of a service, as the provider knows them",
		Long: `List the instances that the configured provider knows, without registering
anything. The service is that of the cluster unless another one is named. With
-o json an array of instances is printed.

With --watch the whole set is printed again after each change, as a table or as one
JSON object on a line, with the instances and what else is known. When the provider
fails, that is reported and the last good set stands, marked stale.

Entries of the provider that cannot be read are reported on stderr.`,
		Example: `  muster discover -c muster.yaml
  muster discover -c muster.yaml --tag web --zone eu-1 --meta version=1.4
  muster discover -c muster.yaml -o json | jq -r '.[].addr'
  muster discover -c muster.yaml --watch -o json
  MUSTER_CLUSTER=orders muster discover --provider-etcd-endpoints http://127.0.0.1:2379`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(d.output, "table", "json"); err != nil {
				return err
			}
			if d.timeout < 0 {
				return usageError(fmt.Errorf("--timeout: %q: negative; write a duration, as 10s, or 0 to wait for ever", d.timeout))
			}
			var err error
			if d.query.Meta, err = parseMeta(meta); err != nil {
				return err
			}
			cfg, err := loadConfig(cmd, file)
			if err != nil {
				return err
			}
			if d.query.Service == "" {
				d.query.Service = cfg.Cluster
			}
			d.out, d.err = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return d.run(cmd.Context(), cfg)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&d.watch, "watch", "w", false, "print the set again after each change, until interrupted")
	flags.StringVar(&d.query.Service, "service", "", "service whose instances are listed (default the cluster's)")
	flags.StringSliceVar(&d.query.Tags, "tag", nil, "only instances with this tag; repeat it for more")
	flags.StringSliceVar(&meta, "meta", nil, "only instances with this fact, as version=1.4; repeat it for more")
	flags.StringVar(&d.query.Zone, "zone", "", "only instances of this zone")
	flags.DurationVar(&d.timeout, "timeout", 10*time.Second, "how long to wait for the first answer of the provider; 0 is for ever")
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

// discoverer prints what a provider knows.
type discoverer struct {
	query    discovery.Query
	watch    bool
	timeout  time.Duration
	output   string
	out, err io.Writer

	name     string          // of the provider
	provider string          // how it is named in messages
	told     map[string]bool // the skipped entries that stand and were reported
	failing  string          // the failure that was reported last
}

func (d *discoverer) run(ctx context.Context, cfg *config.Config) error {
	d.provider = cfg.ProviderLabel()
	var o discovery.Options
	if cfg.Log.Level == "debug" {
		o.Logger = cfg.Logger(d.err)
	}
	registry, err := cfg.OpenRegistry(o)
	if err != nil {
		return usageError(err)
	}
	d.name = registry.Name()
	return errors.Join(d.follow(ctx, registry), registry.Close())
}

// follow prints the first set that is known and, with --watch, each one after it.
func (d *discoverer) follow(ctx context.Context, registry *discovery.Registry) error {
	watching, stop := context.WithCancel(ctx)
	snapshots := make(chan discovery.Snapshot)
	go func() {
		defer close(snapshots)
		for s := range registry.Watch(watching, d.query) {
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
	var last error
	for known := false; ; {
		select {
		case s, ok := <-snapshots:
			switch {
			case !ok && ctx.Err() == nil:
				return fmt.Errorf("%s: the watch ended: %w", d.provider, either(d.reason(last), errors.New("no reason was given")))
			case !ok:
				continue // the context's end is told below
			case !s.Known:
				last = s.Err
				if s.Err != nil && !driver.Retryable(s.Err) {
					return fmt.Errorf("%s: %w", d.provider, d.reason(s.Err))
				}
				d.waiting(s.Err)
				continue
			}
			known, late = true, nil
			soon.Stop()
			if err := d.print(s); err != nil || !d.watch {
				return err
			}
		case <-soon.C:
			if d.failing == "" {
				fmt.Fprintf(d.err, "muster: waiting for %s\n", d.provider)
			}
		case <-late:
			return fmt.Errorf("%s did not answer within %v: %w", d.provider, d.timeout, either(d.reason(last), driver.ErrUnavailable))
		case <-ctx.Done():
			if known {
				return nil // how a watch is meant to end
			}
			return fmt.Errorf("interrupted before %s answered: %w", d.provider, either(d.reason(last), ctx.Err()))
		}
	}
}

func either(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// reason is err without the name of the provider, which our messages begin with.
func (d *discoverer) reason(err error) error {
	if err == nil {
		return nil
	}
	if text, ok := strings.CutPrefix(err.Error(), "provider "+d.name+": "); ok {
		return errors.New(text)
	}
	return err
}

// waiting says why there is no answer yet, once for each reason.
func (d *discoverer) waiting(err error) {
	if err == nil || d.reason(err).Error() == d.failing {
		return
	}
	d.failing = d.reason(err).Error()
	fmt.Fprintf(d.err, "muster: waiting for %s: %s\n", d.provider, d.failing)
}

func (d *discoverer) print(s discovery.Snapshot) error {
	d.reportSkipped(s.Skipped)
	d.reportStale(s)
	if d.output == "json" {
		return d.printJSON(s)
	}
	if d.watch {
		state := ""
		if s.Stale {
			state = ", stale"
		}
		fmt.Fprintf(d.out, "%s  %d of %s%s\n", s.At.Format(time.TimeOnly), len(s.Instances), cell(d.query.Service), state)
	}
	t := newTable(d.out, "NODE", "INSTANCE", "ADDRESS", "ZONE", "TAGS", "META", "APP ADDRESSES")
	for _, i := range s.Instances {
		t.row(i.NodeID, short(i.InstanceID), i.Addr, i.Zone, strings.Join(i.Tags, ","), pairs(i.Meta), pairs(i.AppAddrs))
	}
	err := t.flush()
	if d.watch {
		fmt.Fprintln(d.out)
	}
	return err
}

// discovered is a line of `muster discover --watch -o json`. It only gains fields.
type discovered struct {
	Service string `json:"service"`
	// Revision is that of the provider, 0 where it has none.
	Revision uint64 `json:"revision"`
	// Stale says that the provider fails, for the reason in Error, and that this is
	// the last good set.
	Stale     bool                 `json:"stale"`
	Error     string               `json:"error,omitempty"`
	At        time.Time            `json:"at"`
	Instances []discovery.Instance `json:"instances"`
	Skipped   []skipped            `json:"skipped"`
}

type skipped struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// printJSON prints the array of instances, or a line of a watch.
func (d *discoverer) printJSON(s discovery.Snapshot) error {
	instances := append([]discovery.Instance{}, s.Instances...) // never null
	if !d.watch {
		return printJSON(d.out, instances)
	}
	v := discovered{
		Service:   d.query.Service,
		Revision:  uint64(s.Revision),
		Stale:     s.Stale,
		At:        s.At,
		Instances: instances,
		Skipped:   []skipped{},
	}
	if s.Err != nil {
		v.Error = s.Err.Error()
	}
	for _, k := range s.Skipped {
		v.Skipped = append(v.Skipped, skipped{k.Key, reasonOf(k)})
	}
	return json.NewEncoder(d.out).Encode(v) // on one line
}

// reportSkipped tells of entries that cannot be read, once for each as long as it
// stands.
func (d *discoverer) reportSkipped(list []driver.Skipped) {
	now := make(map[string]bool, len(list))
	for _, k := range list {
		now[k.Key] = true
		if !d.told[k.Key] {
			fmt.Fprintf(d.err, "muster: skipped %s: %s\n", strconv.Quote(k.Key), cell(reasonOf(k)))
		}
	}
	d.told = now
}

func reasonOf(k driver.Skipped) string {
	if k.Reason == nil {
		return "no reason was given"
	}
	return k.Reason.Error()
}

// reportStale tells when the provider begins to fail, and when it is back.
func (d *discoverer) reportStale(s discovery.Snapshot) {
	switch {
	case s.Stale && s.Err != nil && d.reason(s.Err).Error() != d.failing:
		d.failing = d.reason(s.Err).Error()
		fmt.Fprintf(d.err, "muster: stale: %s fails: %s\n", d.provider, d.failing)
	case !s.Stale && d.failing != "":
		d.failing = ""
		fmt.Fprintf(d.err, "muster: %s answers again\n", d.provider)
	}
}
