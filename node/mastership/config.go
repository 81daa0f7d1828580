package mastership

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// Config is what an Elector needs. Authority and Holder are mandatory; the rest is
// useful at zero.
type Config struct {
	// Authority grants mastership. The caller closes it after Run has returned.
	Authority driver.Authority

	// Holder is this node. InstanceID must be new at each start.
	Holder Holder

	// TTL is how long a grant is expected to be valid, 0 if that is not known. It
	// is only checked: what counts is the validity of each grant. A TTL that leaves
	// no room for two failed renewals is refused.
	TTL time.Duration

	// DrainTimeout bounds how long the functions of WhileMaster have to return
	// when mastership is given up in good order. When it is given up since
	// renewals fail, they have that much before the hard deadline, but not more
	// than a quarter of the validity. Default: 1 s.
	DrainTimeout time.Duration

	// IsolationGrace is how long a master may go without seeing a majority before
	// it gives up. It should be longer than it takes to notice that a member is
	// alive after all. Default: 10 s.
	IsolationGrace time.Duration

	// PollInterval is how often the authority is observed afresh, since a watch is
	// only eventual; a twelfth as often while gossip vouches for the master.
	// Default: 5 s.
	PollInterval time.Duration

	// CallTimeout bounds one call of Acquire and Release. A renewal has a fifth of
	// the grant's validity. Default: 2 s.
	CallTimeout time.Duration

	// ResignCooldown is how long this node leaves mastership to the others after
	// Resign. Default: 3 s.
	ResignCooldown time.Duration

	// Announced says that the nodes of the cluster announce their masterships to one
	// another: what Announcements of each yields is given to Learn of the others. Then a
	// node is named master once it has announced that it is, and not when it was granted
	// mastership, which it may yet refuse. Default: the authority alone names.
	Announced bool

	// AnnounceInterval is how often Announcements yields a mastership that goes
	// on. 0: at each renewal.
	AnnounceInterval time.Duration

	// Observer is called at each beginning, renewal and end of this node's mastership,
	// by the election itself: one that blocks stops renewals. It is called before a beginning
	// and a renewal count, and after an end is visible everywhere. Default: none.
	Observer func(Event)

	// Clock returns the time since an arbitrary moment, such as the start of the host. It
	// never goes back, runs at the true rate within 1 %, and counts while the machine is
	// suspended; time.Since does not on every system. Default: the boot clock of the host,
	// which all of its processes share.
	Clock func() time.Duration

	// Logger takes one record for each beginning and end of mastership, and at
	// debug level one for each renewal. The package comment names their
	// attributes. Default: none are written.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: mastership: %s", driver.ErrInvalid, fmt.Sprintf(format, args...)))
	}
	if c.Authority == nil {
		bad("no authority")
	}
	if c.Holder.InstanceID == "" {
		bad("the holder has no instance id")
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"ttl", &c.TTL, 0},
		{"drain timeout", &c.DrainTimeout, time.Second},
		{"isolation grace", &c.IsolationGrace, 10 * time.Second},
		{"poll interval", &c.PollInterval, 5 * time.Second},
		{"call timeout", &c.CallTimeout, 2 * time.Second},
		{"resign cooldown", &c.ResignCooldown, 3 * time.Second},
		{"announce interval", &c.AnnounceInterval, 0},
	} {
		switch {
		case *d.value < 0:
			bad("%s is %v; it cannot be negative", d.name, *d.value)
		case *d.value == 0:
			*d.value = d.zero
		}
	}
	if c.TTL > 0 {
		if _, err := planFor(c.TTL, c.DrainTimeout); err != nil {
			errs = append(errs, fmt.Errorf("mastership: %w", err))
		}
	}
	if c.Observer == nil {
		c.Observer = func(Event) {}
	}
	if c.Clock == nil {
		c.Clock = func() time.Duration { return time.Duration(clock.Now()) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}
