package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
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
	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/watch"
	"github.com/musterhq/muster/internal/within"
	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/internal/authorities"
	"github.com/musterhq/muster/node/internal/link"
	"github.com/musterhq/muster/node/internal/membership"
	"github.com/musterhq/muster/node/internal/reachability"
	"github.com/musterhq/muster/node/mastership"
	"github.com/musterhq/muster/registrar/advertise"
	"github.com/musterhq/muster/tlsfiles"
)

// Node is a running member. All methods are safe for concurrent use.
type Node struct {
	cfg        Config
	log        *slog.Logger
	instanceID string
	started    clock.Instant

	layers
	knowledge
	lifecycle
}

// layers are what a node is made of, from the port up. They are set by Start and do not
// change: goroutines of the lower ones that call up wait for running.
type layers struct {
	running chan struct{} // closed when all layers are there

	link      *link.Link
	port      port
	tls       *tlsfiles.Files // nil without TLS
	providers []*provider     // the first is one that grants mastership
	members   *membership.Membership
	prober    *reachability.Prober

	authority driver.Authority
	// authorities are what authority is made of.
	authorities []authorities.Named
	store       *store
	elector     *mastership.Elector
	formation   mastership.Formation

	// alarms are what an operator must know of, for as long as it lasts.
	alarms  *alarm.Set
	history *history.Writer // nil: none is kept
	heard   heard
}

// knowledge is what a node has found out, which reconcile puts together. All of it but
// the advertised address, which Start sets, may be read and written at any time.
type knowledge struct {
	advertised advertise.Address
	explained  watch.Value[advertise.Explanation]
	peers      watch.Value[discovery.UnionSnapshot]
	view       watch.Value[View]
	wasReady   atomic.Bool            // reconcile has found it ready
	elsewhere  atomic.Pointer[string] // why the records are not where this node is granted mastership
	move       watch.Value[authorities.Move]
	readers    viewReaders
	detailed   detailed
	changed    chan struct{} // has reconcile run again; holds one element
}

// lifecycle is how a node ends: by Leave, or by itself.
type lifecycle struct {
	ctx    context.Context // ends when the node does
	cancel context.CancelFunc
	wg     sync.WaitGroup

	abstentions abstentions
	farewells   farewells

	draining  chan struct{} // closed when Leave begins
	leaveOnce sync.Once
	leaveErr  error         // of the steps of leaving; set before done is closed
	done      chan struct{} // closed when everything has ended
	mu        sync.Mutex
	err       error // why the node ended by itself
}

// Start starts a node and returns as soon as it listens and runs, whether or not
// its provider or any peer can be reached; ctx bounds only the start. An error
// says which setting is wrong, and then nothing is left running.
func Start(ctx context.Context, cfg Config) (_ *Node, err error) {
	if cfg.Alone {
		if cfg, err = cfg.alone(); err != nil {
			return nil, err
		}
	}
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg:        cfg,
		log:        cfg.Logger.With("node_id", cfg.NodeID),
		instanceID: newInstanceID(),
		started:    clock.Now(),
		layers: layers{
			running:   make(chan struct{}),
			providers: cfg.providers(),
			formation: mastership.Formation{Mode: cfg.Bootstrap.Mode, Expect: cfg.Bootstrap.Expect},
		},
		knowledge: knowledge{changed: make(chan struct{}, 1), detailed: detailed{details: cfg.details()}},
		lifecycle: lifecycle{draining: make(chan struct{}), done: make(chan struct{})},
	}
	n.alarms = alarm.New(n.log)
	if cfg.History != nil {
		n.history = history.NewWriter(cfg.History, cfg.NodeID, n.instanceID, clock.ID())
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
		"cluster", cfg.Cluster, "instance_id", n.instanceID,
		"addr", n.advertised.Addr, "source", n.advertised.Source, "provider", strings.Join(names(n.registries()), ","))
	return n, nil
}

// listen opens the one port and works out the address that others dial.
func (n *Node) listen(ctx context.Context) error {
	linkConfig := link.Config{
		Bind: n.cfg.Bind, Cluster: n.cfg.Cluster, NodeID: n.cfg.NodeID, InstanceID: n.instanceID,
		VerifyNodeID: n.cfg.VerifyNodeID,
		Logger:       n.log, Dial: n.cfg.dial, HungUp: n.hungUp,
	}
	if n.cfg.TLS.Enabled() {
		live, err := tlsfiles.Follow(n.cfg.TLS, n.cfg.mutual)
		if err != nil {
			return err
		}
		n.tls, linkConfig.CurrentTLS = live, live.Current
	}
	var err error
	if n.link, err = link.Listen(linkConfig); err != nil {
		return fmt.Errorf("node.bind: %w", err)
	}
	return n.findAddress(ctx)
}

// mutual is the TLS between nodes, of what its files hold.
func (c Config) mutual(files tlsfiles.Contents) (*tls.Config, error) {
	if c.VerifyNodeID {
		return files.MutualFor(c.NodeID)
	}
	return files.Mutual()
}

// hungUp is called when another node has ended a gossip connection, as when its process
// died. It is no reason to consider the node failed.
func (n *Node) hungUp(instanceID string) {
	select {
	case <-n.running:
		n.elector.Doubt(instanceID)
	default:
	}
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
		Details:    n.gossiped(n.detailed.details, cmp.Or(n.cfg.Voter, n.advertised.Name)),
		Transport:  transport,
		Network:    n.link,
		Single:     n.cfg.Bootstrap.Mode == Single,
		Departed:   n.link.Disconnect,
		OnMessage:  n.learn,
		LocalState: n.localState,
		MergeState: func(state []byte) { n.learn("", state) },
		Logger:     n.log,

		SuspicionMult: n.cfg.suspicionMult,
	})
	return err
}

// elect makes the elector, which is a candidate when it runs.
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
	n.store = n.openStore()
	interval := announceInterval
	if _, ok := n.authority.(driver.Suspecter); ok {
		// Others look at the authority rarely for as long as this node announces itself, and
		// are to notice soon when it does not: each renewal is announced.
		interval = 0
	}
	n.elector, err = mastership.New(mastership.Config{
		Authority:        n.authority,
		Holder:           self,
		DrainTimeout:     n.cfg.Mastership.DrainTimeout,
		TTL:              n.cfg.Mastership.TTL,
		Announced:        true,
		AnnounceInterval: interval,
		Observer:         n.recordMastership,
		Logger:           n.cfg.Logger, // it adds the ids of the holder
	})
	return err
}

// run starts what goes on for the life of the node.
func (n *Node) run() {
	n.prober = n.newProber()
	close(n.running)
	n.wg.Go(func() { _ = n.elector.Run(n.ctx) })
	n.wg.Go(n.discover)
	n.wg.Go(n.announce)
	n.wg.Go(func() { n.store.prompts.run(n.ctx, n.prompt) })
	n.wg.Go(n.followRecords)
	n.wg.Go(n.followAddress)
	if !n.cfg.mute {
		n.wg.Go(func() { n.prober.Answer(n.ctx) })
	}
	n.wg.Go(func() { n.prober.Run(n.ctx) })
	n.wg.Go(n.reconcile)
	if n.tls != nil {
		n.wg.Go(func() { n.tls.Watch(n.ctx, n.log.With("use", "nodes")) })
	}
	n.wg.Go(func() {
		for range n.members.Watch(n.ctx) {
			n.notify()
		}
	})
	n.wg.Go(func() {
		for range n.elector.Watch(n.ctx) {
			n.notify()
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
func (n *Node) Members() []Member { return n.View().Members }

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
// from nothing: the first events are about the members and the master that there are.
// A listener that is slow gets the difference between the views that it saw, so that
// a member that came and went meanwhile is not mentioned. A member that has been
// updated says what has changed; that all of them know the cluster is one event.
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
// [*NotMasterError] that names the master, a [*NoQuorumError], or [ErrNoMaster], which
// is [ErrNoAuthority] where nothing ever grants this node mastership. It does not block.
// Keep the token and ask it again right before each effect.
func (n *Node) Check() (mastership.Token, error) {
	token, err := n.elector.Check()
	if never := n.noAuthority(); never != nil && err != nil && !errors.Is(err, mastership.ErrNotMaster) {
		err = never
	}
	return token, err
}

// noAuthority is the ErrNoAuthority that says why no provider grants this node mastership,
// nil if one does.
func (n *Node) noAuthority() error {
	if a, none := n.authority.(noAuthority); none {
		return a.reason
	}
	return nil
}

// WhileMaster runs fn each time that this node is master, with a context that ends
// when it no longer is and the term to attach to all outside effects. It blocks
// until ctx ends, and returns its cause; until the node ends, and returns [ErrStopped];
// or until fn fails, and returns its error: then the node releases mastership, so
// that another gets it, unless [mastership.KeepOnError] is among the options. If no provider
// grants mastership it returns [ErrNoAuthority] at once; a node that is not eligible waits
// like any other. An fn that returns nil is not run again before the next term: one that
// works for as long as the node is master returns when its context ends. See
// [mastership.Elector.WhileMaster].
func (n *Node) WhileMaster(ctx context.Context, fn func(ctx context.Context, term Term) error, options ...mastership.WhileMasterOption) error {
	if err := n.noAuthority(); err != nil {
		return err
	}
	return n.elector.WhileMaster(ctx, fn, options...)
}

// Grants yields the grant that this node uses, now and after each change, each renewal among
// them, until ctx or the node ends: for those who act on its behalf in another process. A listener
// that is slow misses some, but never the last. See [mastership.Elector.Grants].
func (n *Node) Grants(ctx context.Context) iter.Seq[mastership.ActiveGrant] {
	return n.elector.Grants(ctx)
}

// Resign gives mastership up in good order, if this node is master, and lets another
// node have it. It blocks until that is done or ctx ends. The node is a candidate again later.
func (n *Node) Resign(ctx context.Context) error { return n.elector.Resign(ctx) }

// DrainTimeout is how long the functions of WhileMaster have to return when mastership is given up:
// that of the configuration, or the default.
func (n *Node) DrainTimeout() time.Duration { return n.cfg.Mastership.DrainTimeout }

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
	return within.Both(ctx, n.ctx)
}

func (n *Node) notify() {
	select {
	case n.changed <- struct{}{}:
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
	invalid := func(key, value, problem, hint string) {
		errs = append(errs, &driver.ConfigError{Key: key, Value: value, Problem: problem, Hint: hint})
	}
	if c.Cluster == "" {
		invalid("cluster", "", "missing", "name the cluster that the node belongs to")
	}
	errs = append(errs, c.checkProviders())
	if c.NodeID == "" {
		host, err := os.Hostname()
		if err != nil {
			invalid("node.id", "", fmt.Sprintf("cannot be defaulted to the host name (%v)", err), "name the node")
		}
		c.NodeID = host
	}
	if !link.ValidNodeID(c.NodeID) {
		invalid("node.id", c.NodeID, fmt.Sprintf("want at most %d bytes of valid UTF-8 without control characters", link.MaxNodeID), "")
	}
	if c.VerifyNodeID && !c.TLS.Enabled() {
		invalid("tls.verify_node_id", "true", "there is no TLS between nodes", "configure TLS, or leave it out")
	}
	if c.Bind == "" {
		c.Bind = DefaultBind
	}
	switch c.Bootstrap.Mode {
	case "":
		c.Bootstrap.Mode = Auto
	case Auto, JoinOnly, Single:
	default:
		invalid("bootstrap.mode", string(c.Bootstrap.Mode), "want auto, join-only or single", "")
	}
	if c.Bootstrap.Expect < 0 {
		invalid("bootstrap.expect", fmt.Sprint(c.Bootstrap.Expect), "want the number of members, or 0 where it is not known", "")
	}
	if c.Mastership.TTL < 0 {
		invalid("mastership.ttl", c.Mastership.TTL.String(), "want a duration, or 0s for the provider's default", "")
	}
	if c.Mastership.DrainTimeout == 0 {
		c.Mastership.DrainTimeout = time.Second
	}
	if c.DataDir == "" {
		dir, err := DefaultDataDir(c.Cluster, c.NodeID)
		if err != nil {
			invalid("node.data_dir", "", err.Error(), "")
		}
		c.DataDir = dir
	}
	if c.HostIP != "" {
		if ip, err := netip.ParseAddr(c.HostIP); err != nil || ip.IsUnspecified() {
			invalid("detect.host_ip", c.HostIP, "want the IP address at which others reach this host, as 10.0.0.5", "")
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
