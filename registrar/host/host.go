package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/registrar"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/registrar/check"
	"github.com/musterhq/muster/registrar/declared"
	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/grammar"
	"github.com/musterhq/muster/registrar/internal/watcher"
)

// Config is that of a Registrar. Registries and Rules.Hostname are mandatory.
type Config struct {
	// Registries are where all is registered. The caller closes them after Stop.
	Registries []*discovery.Registry

	// Engine has the containers. Nil: none are registered. The caller closes it after
	// Stop.
	Engine engine.Engine
	// Rules say what is registered of them. Their Hostname and addresses count for
	// Services, too.
	//
	// Where neither IP nor HostIP is set, the address of this host is found as by
	// node.advertise: auto, and again on a timer.
	Rules grammar.Rules
	// Deregister is DeregisterAlways unless set.
	Deregister Deregister
	// Resync is how often all containers are inspected although no event says so. 0: a
	// minute.
	Resync time.Duration

	// Services are no containers. Each passes its Validate.
	Services []declared.Service

	// TTL is how long registrations outlive the process. 0: each provider's default.
	TTL time.Duration
	// Cleanup takes away what containers that are gone have left behind, and what a registrar
	// of this host has that was killed.
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
	config Config
	log    *slog.Logger

	// alarms are what an operator must know of, for as long as it lasts.
	alarms *alarm.Set

	watcher  *watcher.Watcher // nil without an engine
	checks   *check.Runner
	targets  []*target
	notified chan struct{}
	cancel   context.CancelFunc
	running  sync.WaitGroup
	stopOnce sync.Once
	stopErr  error // set before deregistered is closed
	// deregistered is closed when each provider is done with, and stopped when all has ended.
	deregistered, stopped chan struct{}

	mu      sync.Mutex
	hostIP  string
	hostSrc string
	hostErr error // why that is not known
	desired []Desired
}

// target is one provider.
type target struct {
	registry *discovery.Registry
	*registrar.Registrar

	mu         sync.Mutex
	desired    map[[2]string]bool   // what readers see of what is desired, by service and id
	evicted    map[[2]string]bool   // true: it has come back, and is left alone
	kept       []discovery.Instance // of those that the last search saw
	evictions  uint64
	err        error // of the clean-up
	reclaimErr error // of that of sessions that are over
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
	r := &Registrar{config: c, log: c.Logger, alarms: alarm.New(c.Logger), notified: make(chan struct{}, 1), deregistered: make(chan struct{}), stopped: make(chan struct{}), hostIP: c.Rules.HostIP}
	if c.Engine != nil {
		r.watcher = watcher.New(watcher.Config{
			Engine: c.Engine, KeepFailed: c.Deregister == DeregisterOnSuccess, Resync: c.Resync, Logger: c.Logger,
			Services: func(c engine.Container, other func(string) (engine.Container, bool)) ([]grammar.Service, []error) {
				return r.rules().Services(c, other)
			},
		})
	}
	r.checks = check.NewRunner(c.Services, r.address, c.Logger)
	for _, registry := range c.Registries {
		r.targets = append(r.targets, &target{
			registry: registry,
			Registrar: registrar.New(registrar.Config{
				Registry: registry, TTL: c.TTL, KeepOnStop: c.KeepOnStop, ContestedHint: hintOfName(c.Rules.Hostname), Logger: c.Logger,
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
		for range r.checks.Changes(ctx) {
			r.notify()
		}
	})
	if r.config.Rules.IP == "" && r.config.Rules.HostIP == "" {
		r.running.Go(func() { r.findAddress(ctx) })
	}
	if r.config.Cleanup {
		for _, o := range r.targets {
			r.running.Go(func() { r.reclaim(ctx, o) })
		}
	}
	if r.watcher != nil {
		r.running.Go(func() { r.watcher.Run(ctx) })
		r.running.Go(func() {
			for range r.watcher.Watch(ctx) {
				r.notify()
			}
		})
		if r.config.Cleanup {
			for _, o := range r.targets {
				r.running.Go(func() { r.cleanUp(ctx, o) })
			}
		}
	}
	r.running.Go(func() {
		for {
			select {
			case <-r.notified:
				r.apply()
			case <-ctx.Done():
				return
			}
		}
	})
}

// Stop deregisters everything, or leaves it where that was asked for, and joins what the
// Registrar has started. It returns when that is done or ctx ends (after
// registrar.StopTimeout where it has no deadline); an engine or a provider that ignores its
// context is then left behind. Further calls block until the first has ended everything,
// and return what it found, or until their own context ends.
func (r *Registrar) Stop(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, registrar.StopTimeout)
		defer cancel()
	}
	r.stopOnce.Do(func() {
		r.cancel()
		errs := make([]error, len(r.targets))
		var stopping sync.WaitGroup
		for i, o := range r.targets {
			stopping.Go(func() { errs[i] = o.Stop(ctx) })
		}
		go func() {
			defer close(r.stopped)
			stopping.Wait()
			r.stopErr = errors.Join(errs...)
			close(r.deregistered)
			r.running.Wait()
			r.alarms.Close()
		}()
	})
	err := within.Done(ctx, r.stopped)
	if err == nil {
		return r.stopErr
	}
	err = fmt.Errorf("registrar: stopped before all had ended: %w", err)
	// What is known of each provider is reported too, which its registrar finds soon after ctx
	// has ended.
	if within.Done(ctx, r.deregistered) == nil {
		err = errors.Join(r.stopErr, err)
	}
	return err
}

// hintOfName is what to do about somebody who registers under the name of this host.
func hintOfName(hostname string) string {
	return fmt.Sprintf("if another host has the name %s, or another registrar runs on this one, give each a registrar.hostname of its own", hostname)
}

// hintOfKept is the same where it may also be a node, whose id in some formats is like that
// of a container.
func hintOfKept(hostname string) string {
	return hintOfName(hostname) + "; if it is a node of this host, name its cluster in the registrar's configuration"
}

func (r *Registrar) notify() {
	select {
	case r.notified <- struct{}{}:
	default:
	}
}

// rules are those of now.
func (r *Registrar) rules() grammar.Rules {
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
	o := r.config.Advertise
	o.Hint = cmp.Or(o.Hint, "set registrar.ip or detect.host_ip, or give the registrar the network of the host")
	for found, err := range advertise.Watch(ctx, "auto", anywhere, o) {
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
			r.alarms.Raise(hostAddressUnknown, "", "error", err, "hint", "set registrar.ip or detect.host_ip")
		default:
			r.alarms.Clear(hostAddressUnknown, "", "ip", ip)
		}
		if changed && ip != "" {
			r.log.Info("the address of this host", "ip", ip, "source", found.Source)
		}
		if changed && r.watcher != nil {
			r.watcher.Resync()
		}
		r.notify()
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
	for _, o := range r.targets {
		shown := make(map[[2]string]bool)
		for _, d := range desired {
			o.addShown(shown, d.Instance)
		}
		o.mu.Lock()
		o.desired = shown
		o.mu.Unlock()
		// What is wrong is in the status, and an engine's container is named by its watcher.
		_ = o.Set(instances...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.desired = desired
	if len(problems) > 0 {
		r.alarms.Raise(notAll, "", "error", strings.Join(problems, "; "))
	} else {
		r.alarms.Clear(notAll, "")
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
			if err := registrar.Validate(d.Instance); err != nil {
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
			d.Err = &driver.ConfigError{Key: "services", Value: s.Service.Name + " " + s.Service.Address, Problem: "the address of this host is not known", Hint: "set registrar.ip or detect.host_ip, or write HOST:PORT"}
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

// isDesired reports whether i is what the readers of o see of something that is to be
// registered.
func (o *target) isDesired(i discovery.Instance) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.desired[keyOf(i)]
}

func keyOf(i discovery.Instance) [2]string { return [2]string{i.Service, i.Key()} }

// addShown adds the keys under which the readers of o see i: a provider may write another id
// than it is given.
func (o *target) addShown(keys map[[2]string]bool, i discovery.Instance) {
	keys[keyOf(i)] = true
	shown := o.registry.Normalize(i)
	shown.Service = i.Service
	keys[keyOf(shown)] = true
}

// declared are the keys under which the readers of o see the services of the configuration,
// registered by now or not.
func (r *Registrar) declared(o *target) map[[2]string]bool {
	keys := make(map[[2]string]bool)
	for _, s := range r.config.Services {
		o.addShown(keys, s.Instance(r.config.Rules.Hostname, r.address()))
	}
	return keys
}
