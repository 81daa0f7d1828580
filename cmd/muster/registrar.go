package main

import (
	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/config"
)

// registrarGCPercent trades processor time, of which a registrar needs next to none, for
// memory, which it takes from those that it shares a host with.
const registrarGCPercent = 25

func newRegistrarCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "registrar",
		Short: "Register the containers and services of this host",
		Long: `Keep the containers of this host registered, and the services of the configuration that
are no containers, with every configured provider that accepts registrations. What is
registered, where and why is served over HTTP, at /v1/registrar.

The labels and the environment of a container say what is registered of it, in the
SERVICE_* grammar of gliderlabs/registrator. muster registrar explain shows it.

On SIGTERM or an interrupt the registrar renews its registrations a last time. One that
starts within the TTL takes them over without a gap; otherwise they expire. If
registrar.on_exit is deregister, it removes them at once. A second signal ends it at once.

On SIGHUP it reads its configuration again, and applies log.level and the token of the API.
If another key has changed, it ends with status 3, so that its supervisor starts it again.`,
		Example: `  muster registrar -c muster.yaml
  MUSTER_PROVIDER_ETCD_ENDPOINTS=http://127.0.0.1:2379 muster registrar --registrar-cleanup
  docker inspect web | muster registrar explain --inspect -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfigFor(cmd, file, config.ForRegistrar)
			if err != nil {
				return err
			}
			saveMemory(registrarGCPercent)
			o := agent.Options{
				Load: func() (*config.Config, error) { return loadConfigFor(cmd, file, config.ForRegistrar) },
				Logs: cmd.ErrOrStderr(),
			}
			defer reloadOnHangup(&o)()
			return agent.RunRegistrar(cmd.Context(), cfg, o)
		},
	}
	addConfigFlags(cmd, &file, registrarFlags...)
	cmd.AddCommand(newRegistrarDoctorCommand(), newExplainCommand(), newRegistrarStatusCommand(), newHealthCommand(registrarService, config.ForRegistrar))
	return cmd
}

var registrarFlags = []string{
	"docker-host", "detect-host-ip", "http-addr", "log-level", "log-format",
	"registrar-hostname", "registrar-containers", "registrar-ip", "registrar-internal", "registrar-explicit", "registrar-require-label",
	"registrar-ip-from-label", "registrar-tags", "registrar-merge-tags", "registrar-ttl", "registrar-resync", "registrar-cleanup",
	"registrar-deregister", "registrar-on-exit",
}
