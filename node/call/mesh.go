package call

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/musterhq/muster/node"
)

// DefaultTimeout bounds calls whose context has no deadline, unless Options.Timeout says otherwise.
const DefaultTimeout = 5 * time.Second

// drainTimeout is how long handlers have to return when the node leaves, at most. Those of the
// master have had the drain timeout of its mastership before.
const drainTimeout = time.Second

// errStopped is that of calls after the node has ended, or the mesh was closed.
var errStopped = fmt.Errorf("%w: %w", ErrLeft, node.ErrStopped)

// Options of a Mesh. The zero value is useful.
type Options struct {
	// Timeout bounds each call whose context has no deadline, but for those that are streams.
	// 0: DefaultTimeout.
	Timeout time.Duration

	// Limit bounds the calls that this node works on at a time, of all services together but for
	// those that have a limit of their own in Limits, by the name of the service.
	Limit  Limit
	Limits map[string]Limit

	// Forward are the services that other programs serve, by name. With any, all messages of
	// services of this program are those of protobuf.
	Forward map[string]Forward

	// Caps puts methods under a Cap: the name of one for a service, or for one method, as
	// /SERVICE/METHOD. A call waits for a place once the Limit has let it in, and until its
	// deadline; the handler's context ends if the place is lost.
	Caps map[string]string

	// CapLease is after how long all is free that a master, or a node that is gone, has been
	// granted of a Cap, and for how long at most a lowered total is exceeded. Places outlive a
	// master that is gone by half of it. It is one for all nodes. 0: DefaultCapLease; 1 s at least,
	// 5 min at most.
	CapLease time.Duration

	// Server are further options of the server of gRPC, as for interceptors (with
	// grpc.ChainUnaryInterceptor and grpc.ChainStreamInterceptor) and stats handlers. Credentials
	// are those of the one port.
	Server []grpc.ServerOption

	// Client are further options of the connections, as for interceptors and stats handlers.
	Client []grpc.DialOption

	// Logger takes a record of each handler that panics. Default: none is written.
	Logger *slog.Logger
}

// Mesh is a node that calls, and is called by, the members of its cluster. All methods are safe for
// concurrent use, but for RegisterService, which comes before Start.
type Mesh struct {
	node    *node.Node
	options Options
	log     *slog.Logger
	rules   rules
	server  *grpc.Server
	running *gate // handlers
	made    counts
	served  counts
	limits  limits
	budget  budget // of what pools send again
	caps    caps

	ctx    context.Context // ends with Close, or with the node
	cancel context.CancelFunc
	wg     sync.WaitGroup

	master reign
	news   news // of views

	mu      sync.RWMutex
	started bool
	peers   map[string]*peer // by instance id; nil once all is over
}

// Open returns the mesh of a node, which calls at once, and is called once it is started. It does
// not block. The caller closes it; it also ends with the node.
//
// Functions of OnLeave that were given to the node after Open are called while the mesh still
// serves, and those before it once it does not. All of them can call others.
func Open(n *node.Node, o Options) (*Mesh, error) {
	if o.Timeout < 0 {
		return nil, fmt.Errorf("call: timeout %v: want more than 0", o.Timeout)
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.CapLease == 0 {
		o.CapLease = DefaultCapLease
	}
	if o.CapLease < minCapLease || o.CapLease > maxCapLease {
		return nil, fmt.Errorf("call: cap lease %v: want %v to %v", o.CapLease, minCapLease, maxCapLease)
	}
	for method, name := range o.Caps {
		if method == "" || !isCapName(name) {
			return nil, fmt.Errorf("call: cap %q of %q: want a method, and letters, digits, dots, dashes and underscores", name, method)
		}
	}
	limits, err := newLimits(o)
	if err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Mesh{node: n, options: o, log: o.Logger.With("node_id", n.ID()), rules: rulesInForce(), running: newGate(), limits: limits, peers: make(map[string]*peer)}
	m.budget.tenths.Store(budgetStart)
	m.ctx, m.cancel = context.WithCancel(context.Background())
	credentials := newLinked(n.Status().TLS != nil)
	m.options.Client = append([]grpc.DialOption{grpc.WithTransportCredentials(credentials)}, o.Client...)
	server := []grpc.ServerOption{
		grpc.Creds(credentials),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(m.serveUnary),
		grpc.ChainStreamInterceptor(m.serveStream),
		grpc.UnknownServiceHandler(m.serveUnknown),
	}
	if len(o.Forward) > 0 {
		server = append(server, grpc.ForceServerCodecV2(codec{}))
	}
	m.server = grpc.NewServer(append(server, o.Server...)...)
	m.serveCaps()
	if err := m.addForwards(); err != nil {
		m.cancel()
		return nil, err
	}
	n.OnLeave(m.drain)
	m.wg.Go(m.follow)
	return m, nil
}

// RegisterService adds the handlers of a service: generated code calls it. It panics after Start,
// and if there is a service of that name already.
func (m *Mesh) RegisterService(d *grpc.ServiceDesc, handlers any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started {
		panic("call: RegisterService " + d.ServiceName + " after Start")
	}
	if _, ok := m.server.GetServiceInfo()[d.ServiceName]; ok {
		panic("call: RegisterService " + d.ServiceName + " twice")
	}
	m.server.RegisterService(d, handlers)
}

// GetServiceInfo returns the services that were registered, for those that tell about the others:
// reflection.Register(mesh) works, with that package of gRPC.
func (m *Mesh) GetServiceInfo() map[string]grpc.ServiceInfo { return m.server.GetServiceInfo() }

// Start has the mesh serve the calls of members, announces its services to them, and returns. Until
// then calls to this node end with ErrNotReady. It is called once.
func (m *Mesh) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started {
		return fmt.Errorf("call: the mesh was started already")
	}
	listener, err := m.node.Listen(protocol)
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	services := slices.Collect(maps.Keys(m.server.GetServiceInfo()))
	if err := m.node.Update(func(d *node.Details) { d.Tags = announced(d.Tags, services) }); err != nil {
		listener.Close()
		return fmt.Errorf("call: announce the services: %w", err)
	}
	m.started = true
	m.wg.Go(func() { _ = m.server.Serve(listener) }) // until Stop, or the node's end
	m.wg.Go(m.beMaster)
	return nil
}

// Close ends all calls, of others to this node and of this node to others, and the contexts of
// handlers. It returns when all goroutines have ended, but for those of handlers. It is idempotent.
// A node that leaves needs no Close, which gives handlers no time to return.
func (m *Mesh) Close() {
	_ = m.node.Update(func(d *node.Details) { d.Tags = announced(d.Tags, nil) }) // as far as it runs
	m.leaveCaps(m.ctx)
	m.cancel()
	m.wg.Wait()
}

// drain lets handlers return when the node leaves, and refuses further calls.
func (m *Mesh) drain(ctx context.Context) {
	m.running.shut()
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	m.running.wait(ctx)
	m.leaveCaps(ctx)
}

// follow closes the connections to members that depart, until the node ends or the mesh is closed,
// and then all.
func (m *Mesh) follow() {
	for v := range m.node.Views(m.ctx) {
		m.sweep(v)
		m.news.wake()
	}
	m.cancel()
	m.running.shut()
	m.mu.Lock()
	peers := m.peers
	m.peers = nil
	m.mu.Unlock()
	for _, p := range peers {
		p.close(errStopped)
	}
	m.server.Stop()
}

func (m *Mesh) sweep(v node.View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, p := range m.peers {
		if _, ok := byInstance(v, id); !ok && m.rules.instance {
			p.close(ErrLeft)
			delete(m.peers, id)
		}
	}
}

// peer returns the connection to an instance that is a member now.
func (m *Mesh) peer(instance string) (*peer, error) {
	m.mu.RLock()
	p := m.peers[instance]
	m.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.peers == nil {
		return nil, errStopped
	}
	if p := m.peers[instance]; p != nil {
		return p, nil
	}
	// With the lock held: a view without the member comes to sweep after this, or is the one here.
	member, ok := byInstance(m.node.View(), instance)
	if !ok {
		return nil, ErrLeft
	}
	p, err := newPeer(m.node, member, m.options.Client)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	p.byAddress = !m.rules.instance
	m.peers[instance] = p
	return p, nil
}

func byInstance(v node.View, instance string) (node.Member, bool) {
	i := slices.IndexFunc(v.Members, func(m node.Member) bool { return m.InstanceID == instance })
	if i < 0 {
		return node.Member{}, false
	}
	return v.Members[i], true
}

func byID(v node.View, id string) (node.Member, bool) {
	i := slices.IndexFunc(v.Members, func(m node.Member) bool { return m.NodeID == id })
	if i < 0 {
		return node.Member{}, false
	}
	return v.Members[i], true
}

// news wakes all who wait, as often as something changes.
type news struct {
	mu      sync.Mutex
	changed chan struct{}
}

// next is closed by the next wake.
func (n *news) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	return n.changed
}

func (n *news) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}
