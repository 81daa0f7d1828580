package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/agent/doctor"
	"github.com/musterhq/muster/agent/support"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/node/httpapi"
	"github.com/musterhq/muster/registrar/host"
	"github.com/musterhq/muster/secret"
)

// doctorTimeout bounds the checks of muster doctor within muster support.
const doctorTimeout = 30 * time.Second

func newSupportCommand() *cobra.Command {
	flags := askFlags{service: agentService}
	var out string
	cmd := &cobra.Command{
		Use:   "support",
		Short: "Write one archive with all that a report of a bug needs",
		Long: `Write an archive (tar, gzip) with what a report of a bug needs: the version, the system
and its clock, the configuration in effect, the environment variables, what muster doctor
finds, the version of the container engine, and the last of the journal; and of the agent or
registrar its status, members, master, voters, metrics, and the last of its history.

It can be made while the agent hangs or does not run, and while the configuration is wrong:
each part is bounded in time, and if one is missing, the archive says why. With --agent and
-c, the agent that --agent names is asked. If the file is wrong, the agent is asked that
would be asked without it. The files are listed with their sizes, on standard error if the
archive goes to standard output.

Passwords, tokens and keys are redacted, also in URLs. Addresses, names of nodes and
services, and metadata are not: look at the archive before you publish it.

Only its owner may read the file. Nothing is overwritten.`,
		Example: `  muster support -c muster.yaml
  muster support -c muster.yaml -O /tmp/incident.tar.gz
  muster support -c muster.yaml --agent 127.0.0.1:7990
  muster support --agent https://10.0.0.5:7980 --ca-file ca.pem --token-file token
  docker exec orders-1 /muster support -c /etc/muster/muster.yaml -O - > support.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return writeSupport(cmd, flags, out)
		},
	}
	flags.addTo(cmd)
	cmd.Flags().StringVarP(&out, "file", "O", "", "file to write, - for standard output (default muster-support-HOST-TIME.tar.gz)")
	_ = cmd.MarkFlagFilename("file", "gz")
	return cmd
}

func writeSupport(cmd *cobra.Command, flags askFlags, out string) error {
	now := time.Now().UTC()
	hostname, _ := os.Hostname()
	directory := fmt.Sprintf("muster-support-%s-%s", fileName(cmp.Or(hostname, "host")), now.Format("20060102T150405Z"))
	out = cmp.Or(out, directory+".tar.gz")
	if out != "-" {
		if err := support.CheckFree(out); err != nil {
			return notWritten(out, err)
		}
		if info, err := os.Stat(filepath.Dir(out)); err != nil || !info.IsDir() {
			return notWritten(out, cmp.Or(err, fmt.Errorf("%s is no directory", filepath.Dir(out))))
		}
	}
	s, err := newSupport(flags)
	if err != nil {
		return err
	}
	entries := support.Collect(cmd.Context(), s.items(), support.NewScrubber(s.secrets...))
	if err := cmd.Context().Err(); err != nil {
		return err
	}
	list := cmd.OutOrStdout()
	if out == "-" {
		list = cmd.ErrOrStderr()
		if err := support.Write(cmd.OutOrStdout(), directory, now, entries); err != nil {
			return err
		}
	} else if err := support.WriteFile(out, directory, now, entries); err != nil {
		return notWritten(out, err)
	}
	t := newTable(list, "FILE", "BYTES", "MISSING")
	for _, e := range entries {
		t.row(e.Name, strconv.Itoa(e.Bytes), e.Error)
	}
	if err := t.flush(); err != nil || out == "-" {
		return err
	}
	_, err = fmt.Fprintf(list, "\nwrote %s; look at it before you publish it\n", out)
	return err
}

// notWritten explains that there is no archive.
func notWritten(name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return usageError(fmt.Errorf("--file: %q: it exists; name another file", name))
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return usageError(fmt.Errorf("--file: %q: cannot be written: %w; name a file in a directory that exists", name, err))
}

// fileName is a name with what may stand in that of a file.
func fileName(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, name)
}

// supporter knows what is asked of what.
type supporter struct {
	file string // of the configuration, empty if none is named
	// cfg is the configuration, or wrong says why there is none.
	cfg   *config.Config
	wrong error
	// agent is asked; or unusable says why it cannot be.
	agent    apiClient
	unusable error
	// secrets are all that are known.
	secrets []secret.String
	environ []string
}

// newSupport finds out what there is to ask. Its error is one of the command line.
func newSupport(flags askFlags) (*supporter, error) {
	s := &supporter{file: cmp.Or(flags.file, os.Getenv(fileVariable))}
	var err error
	if s.environ, s.secrets, err = config.ShowEnviron(nil); err != nil {
		s.environ = []string{"error: " + err.Error()}
	}
	if s.cfg, s.wrong = config.Load(config.Options{Path: s.file, Purpose: config.ForAny}); s.wrong == nil {
		s.secrets = append(s.secrets, s.cfg.Secrets()...)
		if s.cfg.Purpose() == config.ForRegistrar {
			flags.service = registrarService
		}
	} else if s.file == "" {
		s.wrong = fmt.Errorf("no file is named with -c or %s, and the environment is no configuration: %w", fileVariable, s.wrong)
	}
	if s.agent, s.unusable = flags.agentToReport(); s.unusable == nil {
		s.secrets = append(s.secrets, s.agent.token)
	} else if flags.addr != "" {
		return nil, s.unusable
	}
	return s, nil
}

// agentToReport is the agent to ask: --agent, also beside -c, which names what is reported of the
// configuration. Where the file is wrong, it is the one that would be asked without it, since it
// may run with an earlier version of the file.
func (f askFlags) agentToReport() (apiClient, error) {
	if f.addr != "" {
		f.file = ""
	}
	a, err := f.agent()
	if err == nil || f.addr != "" {
		return a, err
	}
	f.file = ""
	if other, wrong := f.named(); wrong == nil {
		return other, nil
	}
	return a, err
}

// items are all that goes into the archive.
func (s *supporter) items() []support.Item {
	items := []support.Item{
		{Name: "version.json", Collect: func(context.Context) ([]byte, error) { return indented(readVersion()) }},
		{Name: "build.txt", Collect: buildInfo},
		{Name: "system.json", Collect: func(context.Context) ([]byte, error) { return indented(support.ReadSystem()) }},
		{Name: "environment.txt", Collect: func(context.Context) ([]byte, error) { return lines(s.environ), nil }},
		{Name: "config.yaml", Collect: s.config},
		{Name: "doctor.json", Collect: s.doctor, Timeout: doctorTimeout + 5*time.Second},
		{Name: "engine.json", Collect: s.engine},
		{Name: "journal.txt", Collect: journal},
	}
	answers := []struct{ name, path, accept string }{
		{"status.json", httpapi.PathStatus, ""}, {"view.json", httpapi.PathView, ""}, {"members.json", httpapi.PathMembers, ""},
		{"master.json", httpapi.PathMaster, ""}, {"voters.json", httpapi.PathVoters, ""},
		{"ready.txt", httpapi.PathReady, "text/plain"}, {"metrics.txt", httpapi.PathMetrics, "text/plain"}, {"history.jsonl", httpapi.PathHistory, "application/jsonl"},
		{"upgrades.json", httpapi.PathUpgrades, ""}, {"jobs.json", httpapi.PathJobs, ""},
	}
	if s.agent.name == registrarService.name {
		answers = append(answers[5:7:7], struct{ name, path, accept string }{"registrar.json", host.PathRegistrar, ""})
	}
	for _, a := range answers {
		items = append(items, support.Item{Name: a.name, Collect: func(ctx context.Context) ([]byte, error) { return s.ask(ctx, a.path, a.accept) }})
	}
	return items
}

// ask has the answer of the agent, as it came.
func (s *supporter) ask(ctx context.Context, path, accept string) ([]byte, error) {
	if s.unusable != nil {
		return nil, s.unusable
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	body, err := s.agent.fetch(ctx, http.MethodGet, path, cmp.Or(accept, "application/json"))
	var indent bytes.Buffer
	if err == nil && accept == "" && json.Indent(&indent, body, "", "  ") == nil {
		return indent.Bytes(), nil
	}
	return body, err
}

// config is the configuration in effect, or what is wrong with it.
func (s *supporter) config(context.Context) ([]byte, error) {
	if s.wrong != nil {
		return nil, s.wrong
	}
	var text bytes.Buffer
	err := s.cfg.WriteYAML(&text)
	return text.Bytes(), err
}

// doctor is what muster doctor finds.
func (s *supporter) doctor(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	var found []doctor.Finding
	switch {
	case s.wrong != nil:
		found = doctor.Configuration(s.wrong)
	default:
		// A configuration of its own: the checks change it.
		cfg, err := config.Load(config.Options{Path: s.file, Purpose: config.ForAny})
		if err == nil && cfg.Purpose() == config.ForRegistrar {
			found, err = examineRegistrar(ctx, cfg)
		} else if err == nil {
			found, err = examineNode(ctx, cfg)
		}
		if err != nil {
			return nil, err
		}
	}
	return indented(found)
}

// engine is what the container engine says of itself, and nothing of its containers.
func (s *supporter) engine(ctx context.Context) ([]byte, error) {
	if s.wrong != nil {
		return nil, s.wrong
	}
	client, err := agent.OpenEngine(s.cfg)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	info, err := client.Info(ctx)
	if err != nil {
		return nil, err
	}
	return indented(map[string]any{"host": client.Host(), "version": info.Version, "rootless": info.Rootless, "swarm_address": info.SwarmAddress})
}

// journalLines is how many lines of the journal are kept.
const journalLines = 5000

// journal is the last that the units of the packages logged. An agent keeps no log of its own.
func journal(ctx context.Context) ([]byte, error) {
	const hint = "an agent logs to its standard error: add the last of that, as docker logs --tail 5000 CONTAINER or journalctl -u UNIT -n 5000 prints it"
	journalctl, err := exec.LookPath("journalctl")
	if err != nil {
		return nil, fmt.Errorf("no journal of systemd is here; %s", hint)
	}
	cmd := exec.CommandContext(ctx, journalctl, "--no-pager", "-q", "-o", "short-iso-precise", "-n", strconv.Itoa(journalLines), "-u", "muster.service", "-u", "muster-registrar.service")
	cmd.WaitDelay = time.Second
	text, err := cmd.Output()
	if err == nil && len(bytes.TrimSpace(text)) == 0 {
		err = fmt.Errorf("the journal has nothing of muster.service and muster-registrar.service; %s", hint)
	}
	return text, err
}

// buildInfo is what Go knows of this program: its modules and how it was built.
func buildInfo(context.Context) ([]byte, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, errors.New("this program does not know how it was built")
	}
	return []byte(info.String()), nil
}

func indented(v any) ([]byte, error) {
	var text bytes.Buffer
	err := printJSON(&text, v)
	return text.Bytes(), err
}

func lines(all []string) []byte {
	var text bytes.Buffer
	for _, line := range all {
		_, _ = io.WriteString(&text, line+"\n")
	}
	return text.Bytes()
}
