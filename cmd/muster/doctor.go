package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/doctor"
	"github.com/musterhq/muster/node/config"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker"
)

func newDoctorCommand() *cobra.Command {
	var file, output string
	timeout := 30 * time.Second
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check all that an agent needs here, and say how it is mended",
		Long: `Check what an agent with this configuration would need on this host, or needs while it
runs: the configuration; the providers, whether they can be reached and permit what the
node will do; the address that others dial, with each step of finding it, and whether it
leads back here; ports, certificates, clocks, the container engine, the disk; and the
cluster, its master, and who of those that are listed answers.

Each line is ok, warn or fail, and the last two say the mend. What hangs on something
that failed is not checked, and says so with a warning. Where the configuration is wrong,
that is all that is said.

Nothing stays of what is done. A record is written and deleted; a registration and a
claim of mastership are only rehearsed, so that no reader sees a node or a master. The
ports of an agent that does not run are opened for a moment: do not start it just then.

The status is 0 where nothing has failed, 1 where something has, the configuration
included, and 2 where the command line is wrong.`,
		Example: `  muster doctor -c muster.yaml
  muster doctor -c muster.yaml -o json | jq '.[] | select(.status != "ok")'
  docker exec orders-1 /muster doctor -c /etc/muster/muster.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			if timeout <= 0 {
				return usageError(fmt.Errorf("--timeout: %q: write how long all checks together may take, as 30s", timeout))
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			found, err := examine(ctx, cmd, file)
			if err != nil {
				return err
			}
			return report(cmd.OutOrStdout(), output, found)
		},
	}
	addConfigFlags(cmd, &file)
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long all checks together may take")
	addOutputFlag(cmd, &output, "table", "json")
	return cmd
}

// examine makes all checks. That the configuration is wrong is one of the findings.
func examine(ctx context.Context, cmd *cobra.Command, file string) (_ []doctor.Finding, err error) {
	cfg, err := loadConfig(cmd, file)
	if err != nil {
		return doctor.Configuration(err), nil
	}
	nodeConfig, closeRegistries, err := cfg.NodeConfig(nil)
	if err != nil {
		return doctor.Configuration(err), nil
	}
	defer func() { err = errors.Join(err, closeRegistries()) }()
	o := doctor.Options{Config: cfg, Providers: aboutProviders(cfg), Ask: func(ctx context.Context) (s httpapi.Status, err error) {
		a, err := ownAgent(cfg.HTTP)
		if err == nil {
			_, err = a.ask(ctx, httpapi.PathStatus, &s)
		}
		return s, err
	}}
	engine, err := openEngine(cfg)
	if err != nil {
		if cfg.Docker != (config.Docker{}) {
			return doctor.Configuration(err), nil
		}
		o.NoEngine = err
		nodeConfig.Detectors = append([]advertise.Detector{unusable{"docker", err}}, nodeConfig.Detectors...)
	} else {
		defer engine.Close()
		o.Engine = engine
		hostIP, _ := netip.ParseAddr(cfg.Detect.HostIP) // Load has checked it
		found := docker.NewDetector(docker.DetectorOptions{Engine: engine, HostIP: hostIP})
		nodeConfig.Detectors = append([]advertise.Detector{found}, nodeConfig.Detectors...)
	}
	o.Node = nodeConfig
	return doctor.Run(ctx, o), nil
}

// ownAgent is the agent of a configuration, of which the token and the very certificate
// are known.
func ownAgent(h config.HTTP) (agent, error) {
	addr, _, err := agentAddr(h.Addr)
	if err != nil {
		return agent{}, err
	}
	a := agent{addr: addr}
	if a.token, err = h.Token.Or(h.TokenFile); err != nil || !h.TLS.Enabled() {
		return a, err
	}
	own, err := tls.LoadX509KeyPair(h.TLS.CertFile, h.TLS.KeyFile)
	if err != nil {
		return agent{}, err
	}
	a.tls = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		Certificates:       []tls.Certificate{own}, // where the API wants one of its clients
		InsecureSkipVerify: true,                   // of the name and the authority
		VerifyConnection: func(s tls.ConnectionState) error {
			if !bytes.Equal(s.PeerCertificates[0].Raw, own.Certificate[0]) {
				return fmt.Errorf("it is not the one in %s", h.TLS.CertFile)
			}
			return nil
		},
	}
	return a, nil
}

// aboutProviders says of the configured providers what only their packages know.
func aboutProviders(cfg *config.Config) map[string]doctor.Provider {
	about := make(map[string]doctor.Provider)
	for name, section := range cfg.Provider {
		switch c := section.(type) {
		case *etcd.Config:
			about[name] = aboutEtcd(cfg.Cluster, c)
		case *consul.Config:
			about[name] = aboutConsul(cfg.Cluster, c)
		}
	}
	return about
}

func aboutEtcd(cluster string, c *etcd.Config) doctor.Provider {
	path := strings.TrimSuffix(cmp.Or(c.Prefix, etcd.DefaultPrefix), "/") + "/"
	about := doctor.Provider{TLS: c.TLS, Permission: fmt.Sprintf(
		"grant the user's role readwrite below the prefix: etcdctl role grant-permission ROLE --prefix=true readwrite %s; see providers/etcd/README.md#the-role-it-needs", path)}
	if c.Format != "" && c.Format != "muster" {
		about.Permission = fmt.Sprintf("grant the user's role readwrite for the part of service %s in the tree of format %s, and below %s/ for mastership; see providers/etcd/README.md#the-role-it-needs",
			cluster, c.Format, strings.TrimSuffix(cmp.Or(c.AuthorityPrefix, etcd.DefaultPrefix), "/"))
	}
	secure, err := c.TLS.ClientConfig()
	if err != nil {
		return about
	}
	for _, endpoint := range c.Endpoints {
		about.Clocks = append(about.Clocks, doctor.Clock{Name: "etcd at " + endpoint, URL: strings.TrimSuffix(endpoint, "/") + "/version", TLS: secure})
	}
	return about
}

func aboutConsul(cluster string, c *consul.Config) doctor.Provider {
	prefix := cmp.Or(c.AuthorityPrefix, c.Prefix, consul.DefaultPrefix)
	about := doctor.Provider{TLS: c.TLS.TLS, Permission: fmt.Sprintf(
		`give the token a policy with service %q, service "%s-master", key_prefix "%s/" and session_prefix "" to write and node_prefix "" to read; see providers/consul/README.md#what-the-token-may-do`,
		cluster, strings.ReplaceAll(prefix, "/", "-"), prefix)}
	secure, err := c.TLS.ClientConfig()
	if err != nil {
		return about
	}
	address := cmp.Or(c.Address, consul.DefaultAddress)
	clock := doctor.Clock{Name: "consul at " + address, TLS: secure}
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		clock.Socket, address = path, "localhost"
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	clock.URL = strings.TrimSuffix(address, "/") + "/v1/status/leader"
	about.Clocks = []doctor.Clock{clock}
	return about
}

// report prints what was found, and fails where something has failed.
func report(w io.Writer, output string, found []doctor.Finding) error {
	if output == "json" {
		if err := printJSON(w, found); err != nil {
			return err
		}
	} else if err := printFindings(w, found); err != nil {
		return err
	}
	bad := slices.DeleteFunc(slices.Clone(found), func(f doctor.Finding) bool { return f.Status != doctor.Fail })
	if len(bad) > 0 {
		return fmt.Errorf("%d of %d checks failed", len(bad), len(found))
	}
	return nil
}

func printFindings(w io.Writer, found []doctor.Finding) error {
	width := 0
	for _, f := range found {
		width = max(width, len(f.Check))
	}
	for _, f := range found {
		if _, err := fmt.Fprintf(w, "%-4s  %-*s  %s\n", f.Status, width, f.Check, cell(f.Detail)); err != nil {
			return err
		}
		if f.Mend != "" {
			if _, err := fmt.Fprintf(w, "      %*s  mend: %s\n", width, "", cell(f.Mend)); err != nil {
				return err
			}
		}
	}
	return nil
}
