package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/latest"
	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/link"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/node/membership"
	"github.com/musterhq/muster/registrar/advertise"
)

// Node is a running member. All methods are safe for concurrent use.
type Node struct {
	cfg        Config
	log        *slog.Logger
	instanceID string
	started    clock.Instant
	advertised advertise.Address
	explained  latest.Value[advertise.Explanation]
	reach      latest.Value[Reach]
	toldReady  atomic.Bool // Status has said so

	providers []*provider // the first is one that grants mastership

	link      *link.Link
	tls       *driver.LiveTLS // nil without TLS
	members   *membership.Membership
	authority driver.Authority
	elector   *mastership.Elector
	formation mastership.Formation
	history   *history.Writer // nil: none is kept
	unwritten sync.Once       // tells of a history that cannot be written

	peers latest.Value[discovery.UnionSnapshot]
	view  latest.Value[View]
	kick  chan struct{} // wakes reconcile; holds one wake-up

	ctx    context.Context // ends when the node does
	cancel context.CancelFunc
	wg     sync.WaitGroup

	draining  chan struct{} // closed when Leave begins
	leaveOnce sync.Once
	done      chan struct{} // closed when everything has ended
	mu        sync.Mutex
	err       error // why the node ended by itself
}

// Start starts a node and returns as soon as it listens and runs, whether or not
// its provider or any peer can be reached; ctx bounds only the start. An error
// says which setting is wrong, and then nothing is left running.
func Start(ctx context.Context, cfg Config) (_ *Node, err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg:        cfg,
		log:        cfg.Logger,
		instanceID: newInstanceID(),
		started:    clock.Now(),
		providers:  cfg.providers(),
		formation:  mastership.Formation{Mode: cfg.Bootstrap.Mode, Expect: cfg.Bootstrap.Expect},
		kick:       make(chan struct{}, 1),
		draining:   make(chan struct{}),
		done:       make(chan struct{}),
	}
	if cfg.History != nil {
		n.history = history.NewWriter(cfg.History, cfg.NodeID, n.instanceID)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			_ = n.close(ctx)
		}
	}()

	if err := n.listen(ctx); err != nil {
		return nil, err
	}
	if err := n.elect(ctx); err != nil {
		return nil, err
	}
	if err := n.join(); err != nil {
		return nil, err
	}
	if err := n.register(); err != nil {
		return nil, err
	}
	n.record(history.Record{Kind: history.Start, Cluster: cfg.Cluster, Addr: n.advertised.Addr})
	n.run()
	n.log.Info("node started",
		"cluster", cfg.Cluster, "node_id", cfg.NodeID, "instance_id", n.instanceID,
		"addr", n.advertised.Addr, "source", n.advertised.Source, "provider", strings.Join(names(n.registries()), ","))
	return n, nil
}

// listen opens the one port and works out the address that others dial.
func (n *Node) listen(ctx context.Context) error {
	linkConfig := link.Config{Bind: n.cfg.Bind, Cluster: n.cfg.Cluster, Logger: n.log, Dial: n.cfg.dial}
	if n.cfg.TLS.Enabled() {
		live, err := n.cfg.TLS.Live(n.cfg.TLS.MutualConfig)
		if err != nil {
			return err
		}
		n.tls, linkConfig.CurrentTLS = live, live.Config
	}
	var err error
	if n.link, err = link.Listen(linkConfig); err != nil {
		return fmt.Errorf("node.bind: %w", err)
	}
	return n.findAddress(ctx)
}

// join starts the membership layer, which knows no peer yet.
func (n *Node) join() (err error) {
	addr, err := netip.ParseAddrPort(n.advertised.Addr)
	if err != nil {
		return &driver.ConfigError{Key: "node.advertise", Value: n.cfg.Advertise, Problem: err.Error()}
	}
	transport, err := n.link.Transport(addr)
	if err != nil {
		return err
	}
	n.members, err = membership.Start(membership.Config{
		Cluster:    n.cfg.Cluster,
		NodeID:     n.cfg.NodeID,
		InstanceID: n.instanceID,
		Addr:       addr,
		Details: membership.Details{
			Zone:     n.cfg.Zone,
			Tags:     n.cfg.Tags,
			Meta:     n.cfg.Meta,
			AppAddrs: n.cfg.AppAddrs,
			Version:  n.cfg.Version,
			Voter:    cmp.Or(n.cfg.Voter, n.advertised.Name),

			Authorities: n.grantors(),
		},
		Transport:  transport,
		Network:    n.link,
		Single:     n.cfg.Bootstrap.Mode == Single,
		OnMessage:  n.learn,
		LocalState: n.tell,
		MergeState: n.learn,
		Logger:     n.log,
	})
	return err
}

// elect makes the elector, which stands for mastership when it runs.
func (n *Node) elect(ctx context.Context) (err error) {
	self := driver.Holder{
		NodeID:     n.cfg.NodeID,
		InstanceID: n.instanceID,
		Addr:       n.advertised.Addr,
		AppAddrs:   n.cfg.AppAddrs,
	}
	if err := n.openAuthority(ctx, self); err != nil {
		return err
	}
	n.elector, err = mastership.New(mastership.Config{
		Authority:        n.authority,
		Holder:           self,
		Clock:            clock.Now,
		DrainTimeout:     n.cfg.Mastership.DrainTimeout,
		TTL:              n.cfg.Mastership.TTL,
		AnnounceInterval: announceInterval,
		Observer:         n.recordMastership,
		Logger:           n.log,
	})
	return err
}

// run starts what goes on for the life of the node.
func (n *Node) run() {
	n.wg.Go(func() { _ = n.elector.Run(n.ctx) })
	n.wg.Go(n.discover)
	n.wg.Go(n.announce)
	n.wg.Go(n.followAddress)
	if !n.cfg.mute {
		n.wg.Go(n.answerReach)
	}
	n.wg.Go(n.askReach)
	n.wg.Go(n.reconcile)
	if n.tls != nil {
		n.wg.Go(func() { n.tls.Watch(n.ctx, n.log.With("use", "nodes")) })
	}
	n.wg.Go(func() {
		for range n.members.Watch(n.ctx) {
			n.wake()
		}
	})
	n.wg.Go(func() {
		for range n.elector.Watch(n.ctx) {
			n.wake()
		}
	})
	n.wg.Go(func() {
		select {
		case <-n.members.Done():
			if err := n.members.Err(); err != nil {
				n.end(err)
			}
		case <-n.ctx.Done():
		}
	})
}

// ID returns the node id.
func (n *Node) ID() string { return n.cfg.NodeID }

// InstanceID returns the random id of this start of the node.
func (n *Node) InstanceID() string { return n.instanceID }

// Cluster returns the name of the cluster.
func (n *Node) Cluster() string { return n.cfg.Cluster }

// Addr returns the HOST:PORT that the others dial.
func (n *Node) Addr() string { return n.advertised.Addr }

// View returns the cluster as this node sees it now. It does not block.
func (n *Node) View() View {
	view, _ := n.view.Load()
	return view
}

// Members returns the live members, this node among them, by node id. It does not
// block. The caller does not change what it gets.
func (n *Node) Members() []membership.Member { return n.View().Members }

// Master returns the master that this node knows of, and false if there is none.
// It does not block. Only [Node.Check] on the master itself is proof.
func (n *Node) Master() (Master, bool) {
	if m := n.View().Master; m != nil {
		return *m, true
	}
	return Master{}, false
}

// Views yields the view now and the newest one after each change, until ctx or the
// node ends. A listener that is slow misses views, but never the last.
func (n *Node) Views(ctx context.Context) iter.Seq[View] {
	return func(yield func(View) bool) {
		ctx, stop := n.bind(ctx)
		defer stop()
		for view := range n.view.Watch(ctx) {
			if !yield(view) {
				return
			}
		}
	}
}

// Events yields what has changed, in order, until ctx or the node ends. It starts
// from nothing: the first events tell of the members and the master that there are.
// A listener that is slow gets the difference between the views that it saw, so that
// a member that came and went meanwhile is not mentioned.
func (n *Node) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		last := View{Majority: true} // so that only its absence is news
		for view := range n.Views(ctx) {
			for _, event := range diff(last, view) {
				if !yield(event) {
					return
				}
			}
			last = view
		}
	}
}

// IsMaster reports whether this node is master at this moment. It compares clocks
// and does not block.
func (n *Node) IsMaster() bool { return n.elector.IsMaster() }

// Check returns the proof that this node is master at this moment, or an error: a
// [*NotMasterError] that names the master, a [*NoQuorumError], or [ErrNoMaster]. It
// does not block. Keep the token and ask it again right before each effect.
func (n *Node) Check() (mastership.Token, error) { return n.elector.Check() }

// WhileMaster runs fn each time that this node is master, with a context that ends
// when it no longer is and the term to attach to all outside effects, and blocks
// until ctx or the node ends or fn fails. An fn that returns nil is not run again before the
// next term: one that works for as long as the node is master returns when its context
// ends. See [mastership.Elector.WhileMaster].
func (n *Node) WhileMaster(ctx context.Context, fn func(ctx context.Context, term Term) error) error {
	ctx, stop := n.bind(ctx)
	defer stop()
	return n.elector.WhileMaster(ctx, fn)
}

// Resign gives mastership up in good order, if this node holds it, and lets another
// have it. It blocks until that is done or ctx ends. The node stands again later.
func (n *Node) Resign(ctx context.Context) error { return n.elector.Resign(ctx) }

// Done is closed when the node has ended: by Leave, or by itself, and then Err
// says why.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err returns why the node ended by itself, such as [ErrDuplicateNodeID], and nil
// while it runs and after Leave.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// bind returns a context that ends with ctx and with the node.
func (n *Node) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func (n *Node) wake() {
	select {
	case n.kick <- struct{}{}:
	default: // one is pending, and it will see what we have seen
	}
}

func newInstanceID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // crypto/rand never fails
	return hex.EncodeToString(id[:])
}

// withDefaults returns the configuration with its defaults filled in, or all that
// is wrong with it.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	invalid := func(key, value, problem string) {
		errs = append(errs, &driver.ConfigError{Key: key, Value: value, Problem: problem})
	}
	if c.Cluster == "" {
		invalid("cluster", "", "missing; name the cluster that the node belongs to")
	}
	errs = append(errs, c.checkProviders())
	if c.NodeID == "" {
		host, err := os.Hostname()
		if err != nil {
			invalid("node.id", "", fmt.Sprintf("cannot be defaulted to the host name (%v); name the node", err))
		}
		c.NodeID = host
	}
	if c.Bind == "" {
		c.Bind = DefaultBind
	}
	switch c.Bootstrap.Mode {
	case "":
		c.Bootstrap.Mode = Auto
	case Auto, JoinOnly, Single:
	default:
		invalid("bootstrap.mode", string(c.Bootstrap.Mode), "want auto, join-only or single")
	}
	if c.Bootstrap.Expect < 0 {
		invalid("bootstrap.expect", fmt.Sprint(c.Bootstrap.Expect), "want the number of members, or 0 where it is not known")
	}
	if c.Mastership.TTL < 0 {
		invalid("mastership.ttl", c.Mastership.TTL.String(), "want a duration, or 0s for the provider's default")
	}
	if c.Mastership.DrainTimeout == 0 {
		c.Mastership.DrainTimeout = time.Second
	}
	if c.DataDir == "" {
		dir, err := DefaultDataDir(c.Cluster, c.NodeID)
		if err != nil {
			invalid("node.data_dir", "", err.Error())
		}
		c.DataDir = dir
	}
	if c.HostIP != "" {
		if ip, err := netip.ParseAddr(c.HostIP); err != nil || ip.IsUnspecified() {
			invalid("detect.host_ip", c.HostIP, "want the IP address at which others reach this host, as 10.0.0.5")
		}
	}
	if c.addressGrace == 0 {
		c.addressGrace = addressGrace
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}
