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

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/agent/doctor"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/providers/consul"
	"github.com/musterhq/muster/providers/etcd"
	"github.com/musterhq/muster/providers/static"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker"
	"github.com/musterhq/muster/registrar/host"
)

func newDoctorCommand() *cobra.Command {
	var file string
	var all bool
	cmd := completeDoctor(&cobra.Command{
		Use:   "doctor",
		Short: "Check all that an agent needs here, and how to fix it",
		Long: `Check what an agent with this configuration needs on this host, whether it runs or not:

  - the configuration
  - the providers: whether they can be reached, and permit what the node will do
  - the address that others dial: each step of finding it, and whether it leads back here
  - ports, certificates, clocks, the container engine, the disk
  - the cluster: its master, and which of the listed nodes answer

If the configuration names no cluster and has a section registrar or services, check what
a registrar needs, as muster registrar doctor does.

Each line is ok, warn or fail; the last two say how to fix it. Checks that depend on a
failed one are skipped and shown as warn, not checked. If the configuration is wrong,
nothing else is checked.

Nothing is left behind. A record is written and deleted. A registration and a claim of
mastership are only checked for permission. If the agent does not run, its ports are opened
for a moment: do not start it just then.

With --all the agent of this configuration asks those of all members, each of which makes these
checks on its own host. This wants mutual TLS between the nodes (tls.ca_file). A member whose agent
does not answer counts as failed; a program that embeds a node has no agent and is only named.

The status is 0 if nothing has failed, 1 if something has, which includes the
configuration, and 2 if the command line is wrong.`,
		Example: `  muster doctor -c muster.yaml
  muster doctor -c muster.yaml --all
  muster doctor -c muster.yaml -o json | jq '.[] | select(.status != "ok")'
  docker exec orders-1 /muster doctor -c /etc/muster/muster.yaml`,
	}, &file, config.ForAny)
	here := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all {
			return doctorAll(cmd, file)
		}
		return here(cmd, args)
	}
	cmd.Flags().BoolVar(&all, "all", false, "have the agents of all members make these checks")
	addConfigFlags(cmd, &file)
	return cmd
}

func newRegistrarDoctorCommand() *cobra.Command {
	var file string
	cmd := completeDoctor(&cobra.Command{
		Use:   "doctor",
		Short: "Check all that a registrar needs here, and how to fix it",
		Long: `Check what a registrar with this configuration needs on this host, whether it runs or not:

  - the configuration
  - the address of the host
  - the container engine, and what its containers would be registered as
  - the providers: whether they can be reached, and permit these registrations
  - the port of the API, certificates and the clock

Each line is ok, warn or fail; the last two say how to fix it. Nothing is left behind:
registrations are not made, only checked for permission.

The status is 0 if nothing has failed, 1 if something has, which includes the
configuration, and 2 if the command line is wrong.`,
		Example: `  muster registrar doctor -c registrar.yaml
  docker exec registrar /muster registrar doctor`,
	}, &file, config.ForRegistrar)
	addConfigFlags(cmd, &file, registrarFlags...)
	return cmd
}

// completeDoctor completes a command that examines a configuration for a purpose.
func completeDoctor(cmd *cobra.Command, file *string, purpose config.Purpose) *cobra.Command {
	var output string
	timeout := 30 * time.Second
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkDoctorFlags(output, timeout); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		found, err := examine(ctx, cmd, *file, purpose)
		if err != nil {
			return err
		}
		return report(cmd.OutOrStdout(), output, found)
	}
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long all checks together may take")
	addOutputFlag(cmd, &output, "table", "json")
	return cmd
}

func checkDoctorFlags(output string, timeout time.Duration) error {
	if err := checkOutput(output, "table", "json"); err != nil {
		return err
	}
	if timeout <= 0 || timeout > time.Hour {
		return usageError(fmt.Errorf("--timeout: %q: write how long all checks together may take, as 30s", timeout))
	}
	return nil
}

// examine makes all checks. That the configuration is wrong is one of the findings.
func examine(ctx context.Context, cmd *cobra.Command, file string, purpose config.Purpose) ([]doctor.Finding, error) {
	cfg, err := loadConfigFor(cmd, file, purpose)
	switch {
	case err != nil:
		if purpose == config.ForAny {
			if other, wrong := loadConfigFor(cmd, file, config.ForRegistrar); wrong == nil && other.Cluster == "" {
				return []doctor.Finding{{Check: "configuration", Status: doctor.Fail, Detail: `cluster: "": missing, which a node needs and a registrar does not`,
					Hint: "name the cluster, as cluster: orders, or look at a registrar with muster registrar doctor"}}, nil
			}
		}
		return doctor.Configuration(err), nil
	case cfg.Purpose() == config.ForRegistrar:
		return examineRegistrar(ctx, cfg)
	}
	return examineNode(ctx, cfg)
}

func examineNode(ctx context.Context, cfg *config.Config) (_ []doctor.Finding, err error) {
	nodeConfig, closeRegistries, err := agent.NodeConfig(cfg, nil)
	if err != nil {
		return doctor.Configuration(err), nil
	}
	defer func() { err = errors.Join(err, closeRegistries()) }()
	o := doctor.Options{Config: cfg, Providers: aboutProviders(cfg, cfg.Cluster), Ask: func(ctx context.Context) (s httpapi.Status, err error) {
		a, err := ownAgent(agentService, cfg.HTTP)
		if err == nil {
			_, err = a.ask(ctx, httpapi.PathStatus, &s)
		}
		return s, err
	}}
	engine, err := agent.OpenEngine(cfg)
	if err != nil {
		if cfg.Docker != (config.Docker{}) {
			return doctor.Configuration(err), nil
		}
		o.NoEngine = err
		nodeConfig.Detectors = append([]advertise.Detector{agent.Unusable("docker", err)}, nodeConfig.Detectors...)
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

func examineRegistrar(ctx context.Context, cfg *config.Config) (_ []doctor.Finding, err error) {
	if err := agent.CheckRegistrar(cfg); err != nil {
		return doctor.Configuration(err), nil
	}
	o := doctor.RegistrarOptions{Config: cfg, Rules: agent.RegistrarRules(cfg), Providers: aboutProviders(cfg, "")}
	if cfg.Registrar.Containers {
		if o.Engine, err = agent.OpenEngine(cfg); err != nil {
			return doctor.Configuration(err), nil
		}
		defer o.Engine.Close()
	}
	union, err := cfg.OpenRegistrar(discovery.Options{})
	if err != nil {
		return doctor.Configuration(err), nil
	}
	defer func() { err = errors.Join(err, union.Close()) }()
	o.Registries = union.Registries()
	cfg.HTTP = agent.RegistrarHTTP(cfg)
	o.Ask = func(ctx context.Context) (r host.Report, err error) {
		a, err := ownAgent(registrarService, cfg.HTTP)
		if err == nil {
			_, err = a.ask(ctx, host.PathRegistrar, &r)
		}
		return r, err
	}
	return doctor.RunRegistrar(ctx, o), nil
}

// ownAgent is the agent, or registrar, of a configuration, of which the token and the very
// certificate are known.
func ownAgent(of service, h config.HTTP) (apiClient, error) {
	addr, _, err := of.address(h.Addr)
	if err != nil {
		return apiClient{}, err
	}
	a := apiClient{service: of, addr: addr}
	if a.token, err = h.Token.Or(h.TokenFile); err != nil || !h.TLS.Enabled() {
		return a, err
	}
	own, err := tls.LoadX509KeyPair(h.TLS.CertFile, h.TLS.KeyFile)
	if err != nil {
		return apiClient{}, err
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

// aboutProviders says of the configured providers what only their packages know, of a
// node's cluster, or of a registrar where that is empty.
func aboutProviders(cfg *config.Config, cluster string) map[string]doctor.Provider {
	about := make(map[string]doctor.Provider)
	for name, section := range cfg.Provider {
		switch c := section.(type) {
		case *etcd.Config:
			about[name] = aboutEtcd(cluster, c)
		case *consul.Config:
			about[name] = aboutConsul(cluster, c)
		case *static.Config:
			about[name] = doctor.Provider{Voters: len(c.Peers) > 0 || c.File != ""}
		}
	}
	return about
}

func aboutEtcd(cluster string, c *etcd.Config) doctor.Provider {
	service := "service " + cluster
	if cluster == "" {
		service = "all services"
	}
	path := strings.TrimSuffix(cmp.Or(c.Prefix, etcd.DefaultPrefix), "/") + "/"
	about := doctor.Provider{TLS: c.TLS, Permission: fmt.Sprintf(
		"grant the user's role readwrite below the prefix: etcdctl role grant-permission ROLE --prefix=true readwrite %s; see providers/etcd/README.md#the-role-it-needs", path)}
	if c.Format != "" && c.Format != "muster" {
		about.Permission = fmt.Sprintf("grant the user's role readwrite for the part of %s in the tree of format %s, and below %s/ for mastership; see providers/etcd/README.md#the-role-it-needs",
			service, c.Format, strings.TrimSuffix(cmp.Or(c.AuthorityPrefix, etcd.DefaultPrefix), "/"))
	}
	secure, err := c.TLS.Client()
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
	about := doctor.Provider{TLS: c.TLS.Config, Permission: fmt.Sprintf(
		`give the token a policy with service %q, service "%s-master", key_prefix "%s/" and session_prefix "" to write and node_prefix "" to read; see providers/consul/README.md#what-the-token-may-do`,
		cluster, strings.ReplaceAll(prefix, "/", "-"), prefix)}
	if cluster == "" {
		about.Permission = `give the token a policy with service_prefix "" to write and node_prefix "" to read, or key_prefix of the tree to write where the format is one of keys; see providers/consul/README.md#what-the-token-may-do`
	}
	secure, err := c.TLS.Client()
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
		if f.Hint != "" {
			if _, err := fmt.Fprintf(w, "      %*s  hint: %s\n", width, "", cell(f.Hint)); err != nil {
				return err
			}
		}
	}
	return nil
}
