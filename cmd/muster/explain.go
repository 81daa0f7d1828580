package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
)

// maxInspect bounds a file of --inspect, well above that of thousands of containers.
const maxInspect = 64 << 20

// maxUnknown bounds how many services of one container are reported singly whose address is
// not known.
const maxUnknown = 4

func newExplainCommand() *cobra.Command {
	var e explainer
	cmd := &cobra.Command{
		Use:   "explain --inspect FILE",
		Short: "Say what would be registered of containers, and why",
		Long: `Say what would be registered of the containers in the output of docker inspect, and why.
Neither an engine nor a registry is asked.

What would not be registered is printed on stderr, with the reason; ports that have the
same reason are one line. That is no failure: the status is 2 if a file is not the output
of docker inspect, and otherwise 0.

A port that is published on all addresses of its host is registered at --ip, else at
--host-ip, else at the address of this machine. If that is not known either, it is printed
with an empty address, and the reason on stderr. A registrar does not register it.`,
		Example: `  docker inspect web | muster registrar explain --inspect -
  docker inspect $(docker ps -q) > all.json && muster registrar explain --inspect all.json -o json
  muster registrar explain --inspect web.json --hostname host1 --ip 192.168.1.102 --tags prod,eu-1
  muster registrar explain --inspect sidecar.json --other main.json --internal`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(e.output, "table", "json"); err != nil {
				return err
			}
			if len(e.files) == 0 {
				return usageError(errors.New("--inspect: missing; name a file that docker inspect has printed, or - for stdin"))
			}
			e.in, e.out, e.err = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return e.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&e.files, "inspect", nil, "file that docker inspect has printed, or - for stdin; repeat it for more")
	flags.StringArrayVar(&e.others, "other", nil, "file with containers whose network those of --inspect use; repeat it for more")
	flags.StringVar(&e.rules.Hostname, "hostname", "", "first part of the ids (default this machine's name)")
	flags.StringVar(&e.rules.IP, "ip", "", "address of published ports (default the one that each is published on)")
	flags.StringVar(&e.rules.HostIP, "host-ip", "", "address of the host, for ports that are published on all (default this machine's)")
	flags.BoolVar(&e.rules.Internal, "internal", false, "register the containers' own addresses and ports")
	flags.BoolVar(&e.rules.Explicit, "explicit", false, "register only what has a SERVICE_NAME")
	flags.StringArrayVar(&e.rules.Tags, "tags", nil, "tags for all, between commas; each may be a template over the container")
	flags.BoolVar(&e.rules.MergeTags, "merge-tags", false, "add SERVICE_TAGS to SERVICE_<port>_TAGS")
	flags.StringVar(&e.rules.RequireLabel, "require-label", "", "register only containers with this label, as NAME or NAME=VALUE")
	flags.StringVar(&e.rules.IPFromLabel, "ip-from-label", "", "label whose value is the address")
	flags.IntVar(&e.rules.TTL, "ttl", 0, "seconds that a registration outlives its last renewal (0: the provider's default)")
	addOutputFlag(cmd, &e.output, "table", "json")
	return cmd
}

// explainer prints what rules come to.
type explainer struct {
	rules         grammar.Rules
	files, others []string
	output        string
	in            io.Reader
	out, err      io.Writer
}

func (e *explainer) run(ctx context.Context) error {
	host, err := e.here(ctx)
	if err != nil {
		return err
	}
	if err := e.rules.Validate(); err != nil {
		return usageError(asFlags(err))
	}
	containers, err := e.read("--inspect", e.files)
	if err != nil {
		return err
	}
	others, err := e.read("--other", e.others)
	if err != nil {
		return err
	}
	known := byName(append(others, containers...))
	services := []grammar.Service{} // never null
	for _, c := range containers {
		found, problems := e.rules.Services(c, known)
		services = append(services, found...)
		unknown := 0
		for _, problem := range problems {
			var missing *grammar.AddressError
			if errors.As(problem, &missing) {
				services = append(services, missing.Service)
				if unknown++; unknown > maxUnknown {
					continue // they lack the same
				}
			}
			e.report(problem)
		}
		if more := unknown - maxUnknown; more > 0 {
			e.report(fmt.Errorf("container %s: the address of %d more services is not known either", cmp.Or(c.ShortName(), c.ShortID()), more))
		}
	}
	if host.Addr != "" && slices.ContainsFunc(services, func(s grammar.Service) bool { return s.Address == e.rules.HostIP }) {
		fmt.Fprintf(e.err, "muster: the address of the host is taken to be this machine's, %s (%s); set --host-ip for another\n", e.rules.HostIP, host.Source)
	}
	return e.print(services)
}

// here fills in what is this machine's, and returns its address if that was needed. An
// address that cannot be found out is none.
func (e *explainer) here(ctx context.Context) (advertise.Address, error) {
	if e.rules.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return advertise.Address{}, fmt.Errorf("the name of this machine is not known: %w; set --hostname", err)
		}
		e.rules.Hostname = name
	}
	if e.rules.IP != "" || e.rules.HostIP != "" {
		return advertise.Address{}, nil
	}
	anywhere := netip.AddrPortFrom(netip.IPv6Unspecified(), 1) // the port is not looked at
	host, err := advertise.Resolve(ctx, "auto", anywhere, advertise.Options{})
	if err != nil {
		return advertise.Address{}, nil // told where it is missed
	}
	addr, err := netip.ParseAddrPort(host.Addr)
	if err != nil {
		return advertise.Address{}, err
	}
	e.rules.HostIP = addr.Addr().String()
	return host, nil
}

// read returns the containers in files. What is none among others is reported, and a
// file with nothing else is refused.
func (e *explainer) read(flag string, files []string) ([]engine.Container, error) {
	var all []engine.Container
	for _, file := range files {
		text, err := e.readFile(file)
		if err != nil {
			return nil, usageError(fmt.Errorf("%s: %q: cannot be read: %w", flag, file, err))
		}
		containers, err := engine.ParseInspect(text)
		switch {
		case err != nil && len(containers) == 0:
			return nil, usageError(fmt.Errorf("%s: %q: %w", flag, file, err))
		case err != nil:
			e.report(fmt.Errorf("%s: %q: %w", flag, file, err))
		}
		all = append(all, containers...)
	}
	return all, nil
}

func (e *explainer) readFile(file string) ([]byte, error) {
	in := e.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, reasonOfPath(err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInspect+1))
	if err == nil && len(text) > maxInspect {
		err = fmt.Errorf("it is larger than %d MiB; inspect fewer containers at once", maxInspect>>20)
	}
	return text, reasonOfPath(err)
}

// reasonOfPath is err without the path that it repeats.
func reasonOfPath(err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// byName finds containers by id, by the beginning of one, or by name.
func byName(all []engine.Container) func(id string) (engine.Container, bool) {
	const shortest = 12 // as people write ids
	return func(id string) (engine.Container, bool) {
		for _, c := range all {
			if id != "" && (c.ID == id || c.ShortName() == id || len(id) >= shortest && strings.HasPrefix(c.ID, id)) {
				return c, true
			}
		}
		return engine.Container{}, false
	}
}

// asFlags has errors about rules name the flags that set them.
func asFlags(err error) error {
	tree, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var errs []error
	for _, err := range tree.Unwrap() {
		var bad *driver.ConfigError
		if errors.As(err, &bad) {
			key, _, _ := strings.Cut(bad.Key[strings.LastIndex(bad.Key, ".")+1:], "[")
			err = &driver.ConfigError{Key: "--" + strings.ReplaceAll(key, "_", "-"), Value: bad.Value, Problem: bad.Problem, Hint: bad.Hint}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// report prints an error on lines of its own. What containers say cannot steer the
// terminal.
func (e *explainer) report(err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(e.err, "muster: "+cell(line))
	}
}

func (e *explainer) print(services []grammar.Service) error {
	if e.output == "json" {
		return printJSON(e.out, services)
	}
	t := newTable(e.out, "ID", "NAME", "ADDRESS", "PORT", "TAGS", "ATTRS", "TTL", "REASON")
	for _, s := range services {
		t.row(s.ID, s.Name, s.Address, strconv.Itoa(int(s.Port)), strings.Join(s.Tags, ","), pairs(s.Attrs), strconv.Itoa(s.TTL), s.Reason)
	}
	return t.flush()
}
