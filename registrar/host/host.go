package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/check"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/registrar/docker"
)

// Config is that of a Registrar. Registries and Rules.Hostname are mandatory.
type Config struct {
	// Registries are where all is registered. The caller closes them after Stop.
	Registries []*discovery.Registry

	// Engine has the containers. Nil: none are registered. The caller closes it after
	// Stop.
	Engine docker.Engine
	// Rules say what is registered of them. Their Hostname and addresses count for
	// Services, too.
	//
	// Where neither IP nor HostIP is set, the address of this host is found as by
	// node.advertise: auto, and again on a timer.
	Rules docker.Rules
	// Deregister is docker.Always unless set.
	Deregister docker.Deregister
	// Resync is how often all containers are inspected although no event says so. 0: a
	// minute.
	Resync time.Duration

	// Services are no containers. Each passes its Validate.
	Services []declared.Service

	// TTL is how long registrations outlive the process. 0: each provider's default.
	TTL time.Duration
	// Cleanup takes away what containers that are gone have left behind.
	Cleanup bool
	// Spared are services that Cleanup leaves alone, such as the cluster of a node on
	// this host.
	Spared []string
	// KeepOnStop leaves the registrations to their TTL when Stop is called.
	KeepOnStop bool

	// Advertise holds the seams by which the address of this host is found.
	Advertise advertise.Options

	// Logger takes the records. Default: none are written.
	Logger *slog.Logger
}

// Registrar keeps what runs on a host registered. All methods are safe for concurrent
// use.
type Registrar struct {
	config   Config
	log      *slog.Logger
	watcher  *docker.Watcher // nil without an engine
	checks   *check.Runner
	outlets  []*outlet
	kick     chan struct{}
	cancel   context.CancelFunc
	running  sync.WaitGroup
	stopOnce sync.Once
	stopErr  error

	mu      sync.Mutex
	hostIP  string
	hostSrc string
	hostErr error // why that is not known
	desired []Desired
	told    string // the newest problem that was logged
}

// outlet is one provider.
type outlet struct {
	registry *discovery.Registry
	*registrar.Registrar

	mu        sync.Mutex
	evicted   map[[2]string]bool   // true: it has come back, and is left alone
	kept      []discovery.Instance // of those that the last search saw
	evictions uint64
	err       error // of the clean-up
}

// Desired is one service that is to be registered, or would be if nothing were wrong.
type Desired struct {
	Instance discovery.Instance
	// Source says what it is of: a container or the configuration.
	Source string
	// Reason says why it is registered, and how its address was chosen.
	Reason string
	// Err is why it is not. Nil if it is.
	Err error
}

// Start starts a Registrar. It waits neither for the engine nor for a provider. The
// error joins what is wrong with c, as *driver.ConfigError values.
func Start(c Config) (*Registrar, error) {
	if err := c.Rules.Validate(); err != nil {
		return nil, err
	}
	if len(c.Registries) == 0 {
		return nil, fmt.Errorf("%w: a registrar without a provider", driver.ErrInvalid)
	}
	c.Resync = cmp.Or(c.Resync, time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Registrar{config: c, log: c.Logger, kick: make(chan struct{}, 1), hostIP: c.Rules.HostIP}
	if c.Engine != nil {
		r.watcher = docker.NewWatcher(docker.WatcherConfig{
			Engine: c.Engine, Deregister: c.Deregister, Resync: c.Resync, Logger: c.Logger,
			Services: func(c docker.Container, other func(string) (docker.Container, bool)) ([]docker.Service, []error) {
				return r.rules().Services(c, other)
			},
		})
	}
	r.checks = check.NewRunner(c.Services, r.address, c.Logger)
	for _, registry := range c.Registries {
		r.outlets = append(r.outlets, &outlet{
			registry: registry,
			Registrar: registrar.New(registrar.Config{
				Registry: registry, TTL: c.TTL, KeepOnStop: c.KeepOnStop, ContestedMend: mendOfName(c.Rules.Hostname), Logger: c.Logger,
			}),
			evicted: make(map[[2]string]bool),
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.start(ctx)
	return r, nil
}

func (r *Registrar) start(ctx context.Context) {
	r.running.Go(func() { r.checks.Run(ctx) })
	r.running.Go(func() {
		for range r.checks.Changed().Watch(ctx) {
			r.wake()
		}
	})
	if r.config.Rules.IP == "" && r.config.Rules.HostIP == "" {
		r.running.Go(func() { r.findAddress(ctx) })
	}
	if r.watcher != nil {
		r.running.Go(func() { r.watcher.Run(ctx) })
		r.running.Go(func() {
			for range r.watcher.Watch(ctx) {
				r.wake()
			}
		})
		if r.config.Cleanup {
			for _, o := range r.outlets {
				r.running.Go(func() { r.cleanUp(ctx, o) })
			}
		}
	}
	r.running.Go(func() {
		for {
			select {
			case <-r.kick:
				r.apply()
			case <-ctx.Done():
				return
			}
		}
	})
}

// Stop deregisters everything, or leaves it where that was asked for, and joins what the
// Registrar has started. It returns when that is done or ctx ends, as
// registrar.Registrar.Stop does. It is idempotent.
func (r *Registrar) Stop(ctx context.Context) error {
	r.stopOnce.Do(func() {
		r.cancel()
		errs := make([]error, len(r.outlets))
		var stopping sync.WaitGroup
		for i, o := range r.outlets {
			stopping.Go(func() { errs[i] = o.Stop(ctx) })
		}
		stopping.Wait()
		r.running.Wait()
		r.stopErr = errors.Join(errs...)
	})
	return r.stopErr
}

// mendOfName is what to do about somebody who registers under the name of this host.
func mendOfName(hostname string) string {
	return fmt.Sprintf("if another host has the name %s, or another registrar runs on this one, give each a registrar.hostname of its own", hostname)
}

// mendOfKept is the same where it may also be a node, whose id in some formats is like that
// of a container.
func mendOfKept(hostname string) string {
	return mendOfName(hostname) + "; if it is a node of this host, name its cluster in the registrar's configuration"
}

func (r *Registrar) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// rules are those of now.
func (r *Registrar) rules() docker.Rules {
	rules := r.config.Rules
	r.mu.Lock()
	defer r.mu.Unlock()
	rules.HostIP = r.hostIP
	return rules
}

// address is that of this host, empty if it is not known.
func (r *Registrar) address() string {
	rules := r.rules()
	return cmp.Or(rules.IP, rules.HostIP)
}

// findAddress keeps the address of this host up to date.
func (r *Registrar) findAddress(ctx context.Context) {
	anywhere := netip.AddrPortFrom(netip.IPv6Unspecified(), 1) // the port is not looked at
	for found, err := range advertise.Watch(ctx, "auto", anywhere, r.config.Advertise) {
		ip := ""
		if addr, parseErr := netip.ParseAddrPort(found.Addr); parseErr == nil {
			ip = addr.Addr().String()
		}
		r.mu.Lock()
		changed := r.hostIP != ip
		r.hostIP, r.hostSrc, r.hostErr = ip, found.Source, nil
		if ip == "" {
			r.hostErr = err
		}
		r.mu.Unlock()
		switch {
		case ip == "":
			r.log.Warn("the address of this host is not known; set registrar.ip or detect.host_ip", "error", err)
		case changed:
			r.log.Info("the address of this host", "ip", ip, "source", found.Source)
		}
		if changed && r.watcher != nil {
			r.watcher.Resync()
		}
		r.wake()
	}
}

// apply makes what was found out the desired state of every provider.
func (r *Registrar) apply() {
	desired := r.collect()
	var instances []discovery.Instance
	var problems []string
	for _, d := range desired {
		if d.Err != nil {
			problems = append(problems, d.Err.Error())
			continue
		}
		instances = append(instances, d.Instance)
	}
	for _, o := range r.outlets {
		// What is wrong is in the status, and an engine's container is named by its watcher.
		_ = o.Set(instances...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.desired = desired
	if told := strings.Join(problems, "; "); told != r.told {
		r.told = told
		if told != "" {
			r.log.Warn("not all is registered", "error", told)
		}
	}
}

// collect returns what is to be registered. A service of the configuration goes before
// one of a container with the same name and id.
func (r *Registrar) collect() []Desired {
	var all []Desired
	taken := make(map[[2]string]string)
	add := func(d Desired) {
		key := [2]string{d.Instance.Service, d.Instance.InstanceID}
		if other, twice := taken[key]; twice {
			d.Err = fmt.Errorf("%w: service %s with id %s of %s is that of %s; give one of them another id", driver.ErrConflict, key[0], key[1], d.Source, other)
		} else if d.Err == nil {
			taken[key] = d.Source
			if err := d.Instance.Validate(); err != nil {
				d.Err = fmt.Errorf("%s: %w", d.Source, err)
			}
		}
		all = append(all, d)
	}
	ip := r.address()
	for _, s := range r.checks.Status() {
		if !s.Up {
			continue
		}
		d := Desired{Instance: s.Service.Instance(r.config.Rules.Hostname, ip), Source: "configuration", Reason: "it has no check"}
		if s.Service.Check.Enabled() {
			d.Reason = "its check passes"
		}
		if ip == "" && strings.HasPrefix(s.Service.Address, ":") {
			d.Err = &driver.ConfigError{Key: "services", Value: s.Service.Name + " " + s.Service.Address, Problem: "the address of this host is not known; set registrar.ip or detect.host_ip, or write HOST:PORT"}
		}
		add(d)
	}
	if r.watcher == nil {
		return all
	}
	for _, c := range r.watcher.View().Containers {
		for _, s := range c.Services {
			d := Desired{Instance: s.Instance(r.config.Rules.Hostname), Source: "container " + c.Name, Reason: s.Reason}
			if c.Kept != "" {
				d.Reason = c.Kept + ", and registrar.deregister is on-success"
			}
			add(d)
		}
	}
	return all
}

// containerNames are those of containers that run or are kept. It is false as long as not
// all are known.
func (r *Registrar) containerNames() (map[string]bool, bool) {
	v := r.watcher.View()
	names := make(map[string]bool, len(v.Containers))
	for _, c := range v.Containers {
		names[c.Name] = true
	}
	return names, v.Complete()
}

// isDesired reports whether i is what the readers of o see of something that is to be
// registered. A provider may write another id than it is given.
func (r *Registrar) isDesired(o *outlet, i discovery.Instance) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.desired, func(d Desired) bool {
		if d.Instance.Service != i.Service {
			return false
		}
		return d.Instance.Key() == i.Key() || o.registry.Reduce(d.Instance).Key() == i.Key()
	})
}

// isDeclared reports whether i is what the readers of o see of a service of the
// configuration, registered by now or not.
func (r *Registrar) isDeclared(o *outlet, i discovery.Instance) bool {
	hostname, ip := r.config.Rules.Hostname, r.address()
	return slices.ContainsFunc(r.config.Services, func(s declared.Service) bool {
		return s.Name == i.Service && (s.Key(hostname) == i.Key() || o.registry.Reduce(s.Instance(hostname, ip)).Key() == i.Key())
	})
}
