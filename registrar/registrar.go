package registrar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/watch"
)

// Config is that of a Registrar. Registry is mandatory; the rest is useful at
// zero.
type Config struct {
	// Registry is where instances are registered. The caller closes it after Stop.
	Registry *discovery.Registry

	// TTL is how long the registrations outlive the last renewal, and with it how
	// long a crashed process is still listed. The provider may grant more, and
	// then everything goes by what it granted. 0: the provider's default.
	TTL time.Duration

	// KeepOnStop has Stop renew the session a last time and leave the registrations to their
	// TTL, so that a successor that registers the same within it takes them over without a
	// gap.
	KeepOnStop bool

	// CallTimeout bounds each call of the session. A renewal is also bounded by a
	// third of the TTL. 0: 5 s.
	CallTimeout time.Duration

	// ContestedHint is what the log tells operators to do where somebody else registers
	// the same ids. Default: nothing.
	ContestedHint string

	// Logger takes the registrar's records. Default: none are written.
	Logger *slog.Logger
}

// ErrStopped is returned by what cannot come to pass after Stop.
var ErrStopped = errors.New("registrar stopped")

// Registrar keeps instances registered. All methods are safe for concurrent use.
type Registrar struct {
	config Config
	log    *slog.Logger
	// alarms are what an operator must know of, for as long as it lasts.
	alarms *alarm.Set

	hung atomic.Int64 // the calls that the driver has not returned from although they have ended

	off string // why nothing is registered at all; empty if it is

	running   context.Context // ends when Stop is called
	cancel    context.CancelFunc
	watchers  sync.WaitGroup
	notify    chan struct{} // there may be something to register or to deregister
	recovered chan struct{} // the provider answers again

	end ending

	changed watch.Value[struct{}] // stored with each change of what Status returns

	mu       sync.Mutex
	stopping bool
	stopped  bool
	entries  entries
	watching map[string]context.CancelFunc // by service
	session  SessionStatus
	expired  bool // the session is open and was not renewed within its TTL
	counters Counters
}

// New starts a Registrar, with nothing to register yet. It does not wait for the
// provider. It panics if c has no Registry. The caller stops it.
func New(c Config) *Registrar {
	if c.Registry == nil {
		panic("registrar: New without a Registry")
	}
	c.CallTimeout = cmp.Or(c.CallTimeout, 5*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Registrar{
		config:    c,
		log:       c.Logger.With("provider", c.Registry.Name()),
		notify:    make(chan struct{}, 1),
		recovered: make(chan struct{}, 1),
		end:       newEnding(),
		entries:   newEntries(),
		watching:  make(map[string]context.CancelFunc),
	}
	r.alarms = alarm.New(r.log)
	r.running, r.cancel = context.WithCancel(context.Background())
	if !c.Registry.CanRegister() {
		r.off = fmt.Sprintf("provider %s registers nothing", c.Registry.Name())
	}
	r.publish()
	if r.off != "" {
		r.end.session <- nil
	} else {
		go func() { r.end.session <- r.run(r.running) }()
	}
	return r
}

// Set replaces the desired state: these instances, and no others, are to be
// registered. It returns without waiting for the provider.
//
// Each instance passes Validate, and the pair of its Service and its InstanceID must be there
// only once. One that is wrong
// is not registered, also if an earlier form of it was; the others are. The error
// joins what is wrong, and Status shows it too. RegisteredAt is set by the
// Registrar to the time at which the instance first became desired. After Stop,
// Set changes nothing and returns ErrStopped.
//
// Of instances that the provider would keep in one record only one is registered: the one
// that stands there, or else the first by service and id. Status shows the conflict with
// all of them, which is no error of Set.
func (r *Registrar) Set(instances ...discovery.Instance) error {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return ErrStopped
	}
	var errs []error
	desired := make(map[key]bool, len(instances))
	for _, i := range instances {
		k := keyOf(i)
		err := Validate(i)
		if err == nil && desired[k] {
			err = fmt.Errorf("%w: instance %q of service %q is there twice", driver.ErrInvalid, i.InstanceID, i.Service)
		}
		if err != nil {
			errs = append(errs, err)
		}
		desired[k] = true
		e := r.entries.all[k]
		if e == nil {
			e = &entry{}
			r.entries.add(k, e)
		}
		r.want(e, i, err, now)
	}
	for k, e := range r.entries.all {
		if !desired[k] && e.wanted && !e.evict {
			e.unwant()
		}
		if e.forgotten() {
			r.forget(k)
		}
	}
	r.settleRecords()
	r.review()
	if r.off == "" {
		r.watchServices()
		signal(r.notify)
	}
	r.publish()
	return errors.Join(errs...)
}

// Evict takes away what others have registered and nobody will: what was left behind
// without a TTL, or by a process that is gone and with a TTL that still lasts. It
// returns without waiting for the provider; like all else it is tried until it is
// done, unless the Registrar is stopped before.
//
// A driver removes nothing that does not hang on its own session. So each is
// registered on it, as it is, and then deregistered. What is desired is left alone, and
// stays if Set names it before it is gone.
//
// Each instance is one that the provider lists, and has an InstanceID under which the
// provider would keep it: what is listed names nothing else that is taken away. The error
// joins what is wrong with others. After Stop, Evict changes nothing and returns ErrStopped.
func (r *Registrar) Evict(instances ...discovery.Instance) error {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return ErrStopped
	}
	var errs []error
	for _, i := range instances {
		if err := validate(i); err != nil {
			errs = append(errs, err)
			continue
		}
		if r.knows(i) {
			continue // desired, or about to go
		}
		if kept := r.config.Registry.Normalize(i); keyOf(kept) != keyOf(i) {
			errs = append(errs, fmt.Errorf("%w: instance %q of service %q would be taken away as %q, which may be another",
				driver.ErrInvalid, i.InstanceID, i.Service, kept.InstanceID))
			continue
		}
		e := &entry{}
		r.entries.add(keyOf(i), e)
		r.want(e, i, nil, now)
		e.evict = true
	}
	if r.off == "" {
		signal(r.notify)
	}
	r.publish()
	return errors.Join(errs...)
}

// knows reports whether i, as the provider lists it, is what it keeps of an instance that
// is desired or about to go: it may be listed under another id. It wants the lock held.
func (r *Registrar) knows(i discovery.Instance) bool {
	return r.entries.have(keyOf(i), r.config.Registry.RecordKey(i))
}

// want makes i the instance of e, which readers see as the provider lists it. It wants the lock
// held.
func (r *Registrar) want(e *entry, i discovery.Instance, invalid error, now time.Time) {
	first := e.version == 0
	if !e.want(i, invalid, now) {
		return
	}
	if !first {
		r.entries.unlist(e)
	}
	r.entries.list(e, r.config.Registry.Normalize(e.instance))
}

// Validate reports what keeps i from being registered, whatever the provider: no Service or
// no InstanceID, a name with white space or control characters, or an address that others
// cannot dial.
func Validate(i discovery.Instance) error {
	if err := validate(i); err != nil {
		return err
	}
	for _, name := range []struct{ of, name string }{{"service", i.Service}, {"instance id", i.InstanceID}, {"node id", i.NodeID}} {
		if err := driver.ValidateName(name.name); err != nil {
			return fmt.Errorf("%s: %w", name.of, err)
		}
	}
	return nil
}

func validate(i discovery.Instance) error {
	if err := i.Validate(); err != nil {
		return err
	}
	if i.InstanceID == "" {
		return fmt.Errorf("%w: instance at %s of service %q has no instance id, which tells it from its successor", driver.ErrInvalid, i.Addr, i.Service)
	}
	return nil
}

// signal wakes the receiver of c, once if it is busy.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
