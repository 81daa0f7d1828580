package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/backoff"
	"github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/tlsfiles"
)

// Options are useful at zero.
type Options struct {
	// Logger takes the registry's records. Default: none are written.
	Logger *slog.Logger

	// PollInterval is how often a watch lists where the driver cannot watch, give
	// or take a fifth. It also bounds the wait between the retries of a failed
	// read. Default: 5 s.
	PollInterval time.Duration

	// CallTimeout bounds each attempt of a call, also where the driver ignores its context.
	// Default: 5 s.
	CallTimeout time.Duration

	// ResyncInterval is how often a watch lists although the driver's own watch is
	// well, give or take a fifth, so that a lost event is made up for.
	// Default: 60 s.
	ResyncInterval time.Duration
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.PollInterval <= 0 {
		o.PollInterval = 5 * time.Second
	}
	if o.CallTimeout <= 0 {
		o.CallTimeout = 5 * time.Second
	}
	if o.ResyncInterval <= 0 {
		o.ResyncInterval = 60 * time.Second
	}
}

// errClosed is returned by the methods of a Registry that was closed.
var errClosed = fmt.Errorf("%w: the registry is", ErrClosed)

// Registry is one provider in use. All methods are safe for concurrent use.
type Registry struct {
	name    string
	driver  driver.Driver
	options Options
	log     *slog.Logger
	stats   counters
	skipped skipLog

	alarms *alarm.Set

	tls atomic.Pointer[tlsfiles.State] // as the driver last reported it, nil if it follows no files

	hung atomic.Int64 // the calls that the driver has not returned from although they have ended

	closing context.Context // ends when Close is called
	close   context.CancelFunc

	mu       sync.Mutex // orders running.Add before Close's Wait
	running  sync.WaitGroup
	closeErr func() error
	watched  map[string]*follower // by query
	settled  map[string]bool      // the services of which another's instance was seen to pass
}

// New returns a registry over d, which it owns from then on. The name of the
// provider appears in errors and records. The files of a driver with TLS are watched
// until Close, and what becomes of them is logged.
func New(name string, d driver.Driver, o Options) *Registry {
	o.setDefaults()
	r := &Registry{name: name, driver: d, options: o, log: o.Logger.With("provider", name), watched: make(map[string]*follower), settled: make(map[string]bool)}
	r.alarms = alarm.New(r.log)
	r.closing, r.close = context.WithCancel(context.Background())
	r.closeErr = sync.OnceValue(r.closeDriver)
	if reporter, ok := d.(driver.TLSReporter); ok {
		r.watchTLS(reporter)
	}
	return r
}

// Name returns the name that the registry was made with.
func (r *Registry) Name() string { return r.name }

// Driver returns the driver, whose further abilities are found by type assertion.
// The registry owns it.
func (r *Registry) Driver() driver.Driver { return r.driver }

// List reads the set of instances that match q. It tries again after a failure,
// with full jitter, until it succeeds or ctx ends: without a deadline it waits for
// a provider that is down for as long as that takes. An error that no retry can
// fix is returned at once. On any error the set is unknown, and the snapshot says
// so too.
func (r *Registry) List(ctx context.Context, q Query) (Snapshot, error) {
	caller := ctx
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return Snapshot{Err: err}, err
	}
	defer end()
	wait := r.backoff()
	var last error
	for {
		_, s, err := r.read(ctx, q)
		if err == nil {
			return s, nil
		}
		if ctx.Err() == nil {
			if !driver.Retryable(err) {
				return Snapshot{Err: err}, err
			}
			last = err
			r.log.DebugContext(ctx, "read failed, will retry", "service", q.Service, "error", err)
			if wait.Wait(ctx) == nil {
				continue
			}
		}
		err = caller.Err()
		if err == nil {
			err = errClosed
		}
		if last != nil {
			// Both matter: that the caller gave up, and on what.
			err = fmt.Errorf("%w; last error: %w", err, last)
		}
		return Snapshot{Err: err}, err
	}
}

// read makes one attempt. It returns the driver's snapshot, which a watch goes on
// from, and what users see of it.
func (r *Registry) read(ctx context.Context, q Query) (driver.Snapshot, Snapshot, error) {
	if q.Service == "" {
		return driver.Snapshot{}, Snapshot{}, fmt.Errorf("%w: query without a service", driver.ErrInvalid)
	}
	attempt, cancel := context.WithTimeout(ctx, r.options.CallTimeout)
	defer cancel()
	at := time.Now()
	raw, err := call(attempt, r, func(ctx context.Context) (driver.Snapshot, error) { return r.driver.List(ctx, q) }, nil)
	if err != nil {
		return driver.Snapshot{}, Snapshot{}, r.failed(ctx, "list", err)
	}
	r.stats.called("list", nil)
	return raw, r.snapshot(q, raw, at), nil
}

// failed counts the error of one attempt, and says what was attempted. If the
// attempt ended because its caller gave up, the provider is not to blame.
func (r *Registry) failed(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		r.stats.called(op, nil)
		return ctx.Err()
	}
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, driver.ErrUnavailable) {
		// Only the bound of the attempt can have expired.
		err = fmt.Errorf("%w: no answer within %v", driver.ErrUnavailable, r.options.CallTimeout)
	}
	err = fmt.Errorf("provider %s: %s: %w", r.name, op, err)
	r.stats.called(op, err)
	return err
}

// CanRegister reports whether the driver publishes instances.
func (r *Registry) CanRegister() bool {
	_, ok := r.driver.(driver.Registrar)
	return ok
}

// Services makes one attempt, bounded by CallTimeout, to read the names of all services
// of which anything is registered, sorted. It returns ErrUnsupported where the
// driver does not know them.
func (r *Registry) Services(ctx context.Context) ([]string, error) {
	cataloger, ok := r.driver.(driver.Cataloger)
	if !ok {
		return nil, fmt.Errorf("provider %s: the names of all services: %w", r.name, driver.ErrUnsupported)
	}
	return attempt(ctx, r, "services", func(ctx context.Context) ([]string, error) {
		names, err := cataloger.Services(ctx)
		slices.Sort(names)
		return names, err
	}, nil)
}

// RecordKey names the record in which the provider keeps i, and is empty if that is for i
// alone. Of two instances with one record, one replaces the other.
func (r *Registry) RecordKey(i Instance) string {
	if keyer, ok := r.driver.(driver.Keyer); ok {
		return keyer.RecordKey(i)
	}
	return ""
}

// Review returns an error if some readers of the provider's records would not find i. It says
// which, why, and how to fix it.
func (r *Registry) Review(i Instance) error {
	if reviewer, ok := r.driver.(driver.Reviewer); ok {
		return reviewer.Review(i)
	}
	return nil
}

// Warning says what is wrong with the way to the provider although it works, and how to fix it.
// It is empty if nothing is known to be wrong.
func (r *Registry) Warning() string {
	if warner, ok := r.driver.(driver.Warner); ok {
		return warner.Warning()
	}
	return ""
}

// Reclaim makes one attempt to remove what sessions that are over have left behind, of whose
// instance own says true, and returns that. Where a provider keeps nothing of such sessions
// it does nothing.
func (r *Registry) Reclaim(ctx context.Context, own func(Instance) bool) ([]Instance, error) {
	reclaimer, ok := r.driver.(driver.Reclaimer)
	if !ok {
		return nil, nil
	}
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, r.options.CallTimeout)
	defer cancel()
	return call(ctx, r, func(ctx context.Context) ([]Instance, error) { return reclaimer.Reclaim(ctx, own) }, nil)
}

// Normalize returns i as readers of the provider see it once it is registered: i
// itself, unless the provider cannot keep all of it.
func (r *Registry) Normalize(i Instance) Instance {
	if normalizer, ok := r.driver.(driver.Normalizer); ok {
		return normalizer.Normalize(i)
	}
	return i
}

// OpenSession makes one attempt to open a session, bounded by CallTimeout. It
// returns ErrUnsupported where the driver publishes nothing. The caller
// renews and closes the session, the latter before the registry.
func (r *Registry) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	registrar, ok := r.driver.(driver.Registrar)
	if !ok {
		return nil, fmt.Errorf("provider %s: registration: %w", r.name, driver.ErrUnsupported)
	}
	return attempt(ctx, r, "open_session", func(ctx context.Context) (driver.Session, error) {
		return registrar.OpenSession(ctx, o)
	}, func(s driver.Session) { r.closeLate(s.Close) })
}

// OpenAuthority opens the authority that grants mastership, in one attempt bounded
// by CallTimeout. It returns ErrUnsupported where the driver has none. The
// caller closes the authority before the registry. Where o has no Logger, that of
// the registry is used.
func (r *Registry) OpenAuthority(ctx context.Context, o driver.AuthorityOptions) (driver.Authority, error) {
	authorizer, ok := r.driver.(driver.Authorizer)
	if !ok {
		return nil, fmt.Errorf("provider %s: mastership: %w", r.name, driver.ErrUnsupported)
	}
	if o.Logger == nil {
		o.Logger = r.log
	}
	return attempt(ctx, r, "open_authority", func(ctx context.Context) (driver.Authority, error) {
		return authorizer.OpenAuthority(ctx, o)
	}, func(a driver.Authority) { r.closeLate(a.Close) })
}

// attempt makes one call of the driver, bounded by CallTimeout. What it returns too late is
// handed to late.
func attempt[T any](ctx context.Context, r *Registry, op string, f func(context.Context) (T, error), late func(T)) (T, error) {
	var none T
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return none, err
	}
	defer end()
	bounded, cancel := context.WithTimeout(ctx, r.options.CallTimeout)
	defer cancel()
	v, err := call(bounded, r, f, late)
	if err != nil {
		return none, r.failed(ctx, op, err)
	}
	r.stats.called(op, nil)
	return v, nil
}

// maxHung is how many calls may hang in a driver that ignores its context. Beyond that it is
// not called: each of them costs a goroutine, which nothing can end.
const maxHung = 16

// call makes one call of the driver, and waits for it no longer than within.Grace after ctx
// has ended, whatever the driver does.
func call[T any](ctx context.Context, r *Registry, f func(context.Context) (T, error), late func(T)) (T, error) {
	if err := r.tooManyHang(); err != nil {
		var none T
		return none, err
	}
	defer r.hung.Add(1) // unless f has returned
	return within.CallLate(ctx, func(ctx context.Context) (T, error) {
		defer r.hung.Add(-1)
		return f(ctx)
	}, func(v T, err error) {
		if err == nil && late != nil {
			late(v)
		}
	})
}

// tooManyHang is the error of a call that is not made.
func (r *Registry) tooManyHang() error {
	if n := r.hung.Load(); n >= maxHung {
		return fmt.Errorf("%w: %d calls of the driver hang, which have ended", driver.ErrUnavailable, n)
	}
	return nil
}

// closeLate closes what was opened when nobody waited for it any more.
func (r *Registry) closeLate(closer func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.CallTimeout)
	defer cancel()
	if err := within.Do(ctx, closer); err != nil {
		r.log.Debug("not closed, and left to its ttl", "error", err)
	}
}

// TLS returns which certificate the provider is shown, and whether its files can be used
// as they are now; ok is false if no files are followed.
func (r *Registry) TLS() (state tlsfiles.State, ok bool) {
	if last := r.tls.Load(); last != nil {
		return *last, true
	}
	return state, false
}

// watchTLS looks at the files of the driver until Close.
func (r *Registry) watchTLS(reporter driver.TLSReporter) {
	state, ok := reporter.TLSState()
	if !ok {
		return
	}
	r.tls.Store(&state)
	r.running.Go(func() {
		tlsfiles.Watch(r.closing, r.log, func() tlsfiles.State {
			state, _ := reporter.TLSState()
			r.tls.Store(&state)
			return state
		})
	})
}

// Stats returns the counts so far.
func (r *Registry) Stats() Stats { return r.stats.load() }

// Close ends the running calls and watches, waits for them, and closes the
// driver. It is idempotent, and may be called from the body of a watch. A driver that ignores
// its context is not waited for, and its own Close for CallTimeout.
func (r *Registry) Close() error {
	r.mu.Lock()
	r.close()
	r.mu.Unlock()
	r.running.Wait()
	r.alarms.Close()
	return r.closeErr()
}

func (r *Registry) closeDriver() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), r.options.CallTimeout,
		fmt.Errorf("provider %s: close: %w: it has not returned within %v", r.name, driver.ErrUnavailable, r.options.CallTimeout))
	defer cancel()
	return within.Do(ctx, func(context.Context) error { return r.driver.Close() })
}

// begin returns a context that ends with ctx and with the registry, for work that
// Close waits for until end is called.
func (r *Registry) begin(ctx context.Context) (_ context.Context, end func(), _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing.Err() != nil {
		return nil, nil, errClosed
	}
	r.running.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	detach := context.AfterFunc(r.closing, cancel)
	return ctx, sync.OnceFunc(func() { detach(); cancel(); r.running.Done() }), nil
}

// backoff never makes a failing provider be read less often than a well one is
// polled, since the end of the failure is awaited.
func (r *Registry) backoff() *backoff.Backoff {
	return &backoff.Backoff{Max: r.options.PollInterval}
}
