package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

func newClusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Repair what a provider records of a cluster",
	}
	cmd.AddCommand(newClusterResetCommand())
	return cmd
}

// resetTimeout bounds what muster cluster reset does.
const resetTimeout = 15 * time.Second

func newClusterResetCommand() *cobra.Command {
	var file, provider string
	var yes, force bool
	var term uint64
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Replace the record of a cluster's mastership by that of a new cluster id",
		Long: `Replace what the provider records of the mastership of this cluster: it gets a new cluster
id, no master, and a term from which the next ones count. Registrations, the records of the
store and other clusters are not changed.

This is for a record that no node can use any more: its term is out of bounds, it cannot
be read, or it is that of a cluster that no longer exists. What it costs:

  - A running node that remembers the old id takes no part until it is restarted. Stop
    all nodes before, or restart them one by one after.
  - Terms start again. A database that rejects a term below the highest that it has seen
    rejects the new masters, too. Name the highest one by --term, or reset the database.
  - If a master is recorded, its grant may be valid, and the command changes nothing. Stop
    the nodes and wait until the grant has expired. With --force it continues: then the old
    master may act until its deadline, at most for mastership.ttl, beside the next one.

Without --yes it changes nothing, and says what it would do. Static lists keep no such
record.`,
		Example: `  muster cluster reset -c muster.yaml
  muster cluster reset -c muster.yaml --yes
  muster cluster reset -c muster.yaml --term 4711 --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, file)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), resetTimeout)
			defer cancel()
			return resetCluster(ctx, cmd.OutOrStdout(), cfg, provider, driver.ResetOptions{
				ClusterID: freshClusterID(), Term: driver.Term(term), Force: force, DryRun: !yes,
			})
		},
	}
	addConfigFlags(cmd, &file)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it, and do not only say what would be done")
	cmd.Flags().BoolVar(&force, "force", false, "go on even if a master is recorded, whose grant may be valid")
	cmd.Flags().Uint64Var(&term, "term", 0, "highest term that something outside has seen; the next one is above it")
	cmd.Flags().StringVar(&provider, "provider", "", "provider whose record is replaced (default the one that grants mastership)")
	return cmd
}

func freshClusterID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails
	return hex.EncodeToString(id[:])
}

// resetCluster replaces the record of the cluster, or says what it would replace.
func resetCluster(ctx context.Context, out io.Writer, cfg *config.Config, provider string, o driver.ResetOptions) (err error) {
	name, err := authorityToReset(cfg, provider)
	if err != nil {
		return usageError(err)
	}
	union, err := cfg.Open(discovery.Options{}, name)
	if err != nil {
		return usageError(err)
	}
	defer func() { err = errors.Join(err, union.Close()) }()
	label := cfg.ProviderLabel(name)
	registry := union.Registries()[0]
	if !registry.CanRegister() {
		return usageError(fmt.Errorf("%s: it keeps no record that could be reset: its grants come from the listed nodes", label))
	}
	authority, err := registry.OpenAuthority(ctx, driver.AuthorityOptions{
		Cluster: cfg.Cluster, TTL: cfg.Mastership.TTL, Logger: slog.New(slog.DiscardHandler),
		Self: driver.Holder{NodeID: "reset", InstanceID: "reset-" + strings.ToLower(rand.Text())},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", label, err)
	}
	defer func() { err = errors.Join(err, authority.Close(context.WithoutCancel(ctx))) }()
	resetter, ok := authority.(driver.Resetter)
	if !ok {
		return usageError(fmt.Errorf("%s: its record of mastership cannot be reset by this command", label))
	}
	was, err := resetter.Reset(ctx, o)
	if err == nil || was.ClusterID != "" || was.Term != 0 || was.Holder != nil || len(was.Problems) > 0 {
		fmt.Fprintf(out, "%s records of cluster %s: %s\n", label, cfg.Cluster, describeRecord(was))
	}
	switch {
	case errors.Is(err, driver.ErrConflict) && !o.Force:
		return fmt.Errorf("%s: %w; stop the nodes and try again when mastership.ttl has passed, or add --force if no node acts on it", label, err)
	case err != nil:
		return fmt.Errorf("%s: %w", label, err)
	case o.DryRun:
		fmt.Fprintf(out, "with --yes it would record a new cluster id, no master, and term %d\n", o.Term)
		fmt.Fprintln(out, "nodes that remember the old cluster id would take no part until they are restarted")
		return nil
	}
	fmt.Fprintf(out, "it now records cluster id %s, no master, and term %d\n", o.ClusterID, o.Term)
	fmt.Fprintln(out, "restart every node that ran before: until then it takes no part")
	return nil
}

// authorityToReset returns the name of the provider whose record is meant.
func authorityToReset(cfg *config.Config, provider string) (string, error) {
	configured := cfg.Providers()
	switch {
	case provider != "" && !slices.Contains(configured, provider):
		return "", fmt.Errorf("--provider: %q: no such provider is configured; write one of %s", provider, strings.Join(configured, ", "))
	case provider == "" && len(configured) > 1 && (cfg.Mastership.Authority == "" || strings.Contains(cfg.Mastership.Authority, ",")):
		return "", fmt.Errorf("--provider: missing, and more than one could be meant; write one of %s", strings.Join(configured, ", "))
	}
	return cmp.Or(provider, configured[0]), nil
}

// describeRecord says in words what was recorded.
func describeRecord(r driver.Recorded) string {
	parts := []string{"cluster id " + cmp.Or(r.ClusterID, "none"), fmt.Sprintf("term %d", r.Term)}
	if r.Holder != nil {
		parts = append(parts, fmt.Sprintf("master %s at %s", r.Holder.NodeID, r.Holder.Addr))
	} else {
		parts = append(parts, "no master")
	}
	return strings.Join(append(parts, r.Problems...), "; ")
}
