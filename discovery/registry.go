package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/backoff"
)

// Options are useful at zero.
type Options struct {
	// Logger takes the registry's records. Default: none are written.
	Logger *slog.Logger

	// PollInterval is how often a watch lists where the driver cannot watch, give
	// or take a fifth. It also bounds the wait between the retries of a failed
	// read. Default: 5 s.
	PollInterval time.Duration

	// CallTimeout bounds each attempt of a call. Default: 5 s.
	CallTimeout time.Duration

	// ResyncInterval is how often a watch lists although the driver's own watch is
	// well, give or take a fifth, so that no lost event is lost for ever.
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

// ErrClosed is returned by the methods of a Registry that was closed.
var ErrClosed = fmt.Errorf("%w: the registry is closed", driver.ErrInvalid)

// Registry is one provider in use. All methods are safe for concurrent use.
type Registry struct {
	name    string
	driver  driver.Driver
	options Options
	log     *slog.Logger
	stats   counters
	skipped skipLog

	tls *driver.LiveTLS // of the driver, nil where it follows no files

	closing context.Context // ends when Close is called
	close   context.CancelFunc

	mu       sync.Mutex // orders running.Add before Close's Wait
	running  sync.WaitGroup
	closeErr func() error
	watched  map[string]*follower // by query
}

// New returns a registry over d, which it owns from then on. The name of the
// provider appears in errors and records. The files of a driver with TLS are watched
// until Close, and what becomes of them is logged.
func New(name string, d driver.Driver, o Options) *Registry {
	o.setDefaults()
	r := &Registry{name: name, driver: d, options: o, log: o.Logger.With("provider", name), watched: make(map[string]*follower)}
	r.closing, r.close = context.WithCancel(context.Background())
	r.closeErr = sync.OnceValue(d.Close)
	if secured, ok := d.(driver.Secured); ok {
		if live := secured.LiveTLS(); live != nil && live.Follows() {
			r.tls = live
			r.running.Go(func() { live.Watch(r.closing, r.log) })
		}
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
// mend is returned at once. On any error the set is unknown, and the snapshot says
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
			err = ErrClosed
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
	raw, err := r.driver.List(attempt, q)
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
		// Only the bound of the attempt can have run out.
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
// of which anything is registered, sorted. It returns driver.ErrUnsupported where the
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
	})
}

// Reduce returns i as readers of the provider see it once it is registered: i
// itself, unless the provider cannot keep all of it.
func (r *Registry) Reduce(i Instance) Instance {
	if reducer, ok := r.driver.(driver.Reducer); ok {
		return reducer.Reduce(i)
	}
	return i
}

// OpenSession makes one attempt to open a session, bounded by CallTimeout. It
// returns driver.ErrUnsupported where the driver publishes nothing. The caller
// renews and closes the session, the latter before the registry.
func (r *Registry) OpenSession(ctx context.Context, o driver.SessionOptions) (driver.Session, error) {
	registrar, ok := r.driver.(driver.Registrar)
	if !ok {
		return nil, fmt.Errorf("provider %s: registration: %w", r.name, driver.ErrUnsupported)
	}
	return attempt(ctx, r, "open_session", func(ctx context.Context) (driver.Session, error) {
		return registrar.OpenSession(ctx, o)
	})
}

// OpenAuthority opens the authority that grants mastership, in one attempt bounded
// by CallTimeout. It returns driver.ErrUnsupported where the driver has none. The
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
	})
}

func attempt[T any](ctx context.Context, r *Registry, op string, call func(context.Context) (T, error)) (T, error) {
	var none T
	ctx, end, err := r.begin(ctx)
	if err != nil {
		return none, err
	}
	defer end()
	bounded, cancel := context.WithTimeout(ctx, r.options.CallTimeout)
	defer cancel()
	v, err := call(bounded)
	if err != nil {
		return none, r.failed(ctx, op, err)
	}
	r.stats.called(op, nil)
	return v, nil
}

// TLS returns which certificate the provider is shown, and whether its files can be used
// as they are now; ok is false where no files are followed.
func (r *Registry) TLS() (state driver.TLSState, ok bool) {
	if r.tls == nil {
		return state, false
	}
	return r.tls.State(), true
}

// Stats returns the counts so far.
func (r *Registry) Stats() Stats { return r.stats.load() }

// Close ends the running calls and watches, waits for them, and closes the
// driver. It is idempotent, and may be called from the body of a watch.
func (r *Registry) Close() error {
	r.mu.Lock()
	r.close()
	r.mu.Unlock()
	r.running.Wait()
	return r.closeErr()
}

// begin returns a context that ends with ctx and with the registry, for work that
// Close waits for until end is called.
func (r *Registry) begin(ctx context.Context) (_ context.Context, end func(), _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing.Err() != nil {
		return nil, nil, ErrClosed
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
