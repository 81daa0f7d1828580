package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/pki"
)

const day = 24 * time.Hour

// maxDays keeps the end of a certificate within what other programs can read.
const maxDays = 100 * 365

func newTLSCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tls",
		Short: "Make certificates for the traffic between nodes and for the HTTP API",
		Long: `Make an authority, once for a cluster, and with it a certificate for each node. Keep
the key of the authority, ca-key.pem, off the nodes: none needs it, and with it
anyone can be any node.`,
	}
	cmd.AddCommand(newTLSCACommand(), newTLSCertCommand())
	return cmd
}

func newTLSCACommand() *cobra.Command {
	var dir, name string
	var days int
	var force bool
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make an authority: ca.pem and ca-key.pem",
		Long: `Make an authority, which signs the certificates of nodes: ca.pem, which every node is
given as tls.ca_file, and its key ca-key.pem, which none is given. Files that are
there are not written over.`,
		Example: `  muster tls ca
  muster tls ca --dir pki --name orders --days 3650`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lifetime, err := lifetimeOf(days)
			if err != nil {
				return err
			}
			_, pair, err := pki.NewAuthority(name, time.Now(), lifetime)
			if err != nil {
				return err
			}
			return storePair(cmd, pair, filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem"), force)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "dir", ".", "directory of the files, which is made if it is not there")
	flags.StringVar(&name, "name", "muster", "name of the authority, for people")
	flags.IntVar(&days, "days", 3650, "how long it is good")
	flags.BoolVar(&force, "force", false, "write over files that are there; every certificate of the old authority loses its worth")
	return cmd
}

func newTLSCertCommand() *cobra.Command {
	var dir, caFile, caKeyFile, nodeID string
	var hosts []string
	var days int
	var force bool
	cmd := &cobra.Command{
		Use:   "cert NAME",
		Short: "Make the certificate of a node: NAME.pem and NAME-key.pem",
		Long: `Make a certificate that the authority signs, good to serve and to dial: NAME.pem for
tls.cert_file and NAME-key.pem for tls.key_file.

It must be for every host by which others dial the node: the one of its advertised
address, and the one under which a static list has it. Where these are not known
beforehand, as with containers, have all certificates carry one name and set
tls.server_name to it on every node.

It also names the node, in a SPIFFE URI and, if the node id is one, as a DNS name: with
tls.verify_node_id no other node can use it. NAME is the node id, unless --node-id says
another.

It ends with the authority at the latest. A node takes a new certificate into use by
itself when the files change.`,
		Example: `  muster tls cert node-1 --host 10.0.0.5 --host orders-1.internal
  muster tls cert node-1 --host orders.muster     # and tls: {server_name: orders.muster}
  muster tls cert node-1 --host 10.0.0.5 --force  # before the old one ends`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usageError(errors.New("NAME: missing; write that of the node, as muster tls cert node-1 --host 10.0.0.5"))
			case len(args) > 1:
				return usageError(fmt.Errorf("%q: beside the name %q; write one NAME, and each host with --host", args[1], args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if name == "" || name != filepath.Base(name) || name == "." || name == ".." {
				return usageError(fmt.Errorf("%q: no name for files; write one such as node-1, and --dir for another directory", name))
			}
			lifetime, err := lifetimeOf(days)
			if err != nil {
				return err
			}
			if len(hosts) == 0 {
				return usageError(errors.New(`--host: "": missing; name the hosts by which the node is dialled, as --host 10.0.0.5`))
			}
			for _, host := range hosts {
				if err := pki.CheckHost(host); err != nil {
					return usageError(fmt.Errorf("--host: %q: %w", host, err))
				}
			}
			if caFile == "" {
				caFile = filepath.Join(dir, "ca.pem")
			}
			if caKeyFile == "" {
				caKeyFile = filepath.Join(dir, "ca-key.pem")
			}
			authority, err := readAuthority(caFile, caKeyFile)
			if err != nil {
				return err
			}
			certFile, keyFile := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
			for _, file := range []string{certFile, keyFile} {
				if sameFile(file, caFile) || sameFile(file, caKeyFile) {
					return usageError(fmt.Errorf("%q: %s is a file of the authority, which is never written over; choose another name, or another --dir", name, file))
				}
			}
			now := time.Now()
			if !now.Before(authority.Expiry()) {
				return fmt.Errorf("%s: the authority ended on %s; make a new one, as docs/security.md explains", caFile, date(authority.Expiry()))
			}
			pair, err := authority.Issue(cmp.Or(nodeID, name), hosts, now, lifetime)
			if err != nil {
				return err
			}
			return storePair(cmd, pair, certFile, keyFile, force)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&hosts, "host", nil, "IP address or DNS name by which the node is dialled; can be repeated")
	flags.StringVar(&nodeID, "node-id", "", "node.id of the node (default NAME)")
	flags.StringVar(&dir, "dir", ".", "directory of the files")
	flags.StringVar(&caFile, "ca", "", "certificate of the authority (default ca.pem in --dir)")
	flags.StringVar(&caKeyFile, "ca-key", "", "key of the authority (default ca-key.pem in --dir)")
	flags.IntVar(&days, "days", 365, "how long it is good")
	flags.BoolVar(&force, "force", false, "write over files that are there")
	return cmd
}

func lifetimeOf(days int) (time.Duration, error) {
	if days < 1 || days > maxDays {
		return 0, usageError(fmt.Errorf("--days: %q: write a number of days from 1 to %d", strconv.Itoa(days), maxDays))
	}
	return time.Duration(days) * day, nil
}

// sameFile reports whether both are there and are one, by whatever names.
func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

func readAuthority(certFile, keyFile string) (*pki.Authority, error) {
	cert, certErr := os.ReadFile(certFile)
	key, keyErr := os.ReadFile(keyFile)
	for _, err := range []error{certErr, keyErr} {
		if err != nil {
			return nil, fmt.Errorf("the authority cannot be read: %w; make one with muster tls ca, or name it with --ca and --ca-key", err)
		}
	}
	authority, err := pki.ParseAuthority(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are no authority: %w", certFile, keyFile, err)
	}
	return authority, nil
}

func storePair(cmd *cobra.Command, pair pki.Pair, certFile, keyFile string, force bool) error {
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o755); err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	switch err := pair.Write(certFile, keyFile, force); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w; write it over with --force, or choose another --dir", err)
	case err != nil:
		return err
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "wrote %s, good until %s\nwrote %s, which is secret\n", certFile, date(pair.Expiry), keyFile)
	return err
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }
