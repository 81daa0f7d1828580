package voter

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
	"github.com/musterhq/muster/internal/watch"
	"github.com/musterhq/muster/providers/static/internal/votelease"
)

// The default and the bounds of Config.TTL.
const (
	DefaultTTL = 900 * time.Millisecond
	MinTTL     = 250 * time.Millisecond
	MaxTTL     = time.Minute
)

// maxHeartbeat bounds the heartbeat timeout, so that a long TTL does not make the first election
// slow.
const maxHeartbeat = time.Second

// Config is what New needs.
type Config struct {
	// Cluster is the name of the cluster.
	Cluster string
	// Self is the entry of this node in the list, or its own address if that is not known yet.
	Self string
	// Identify looks for that entry. It is called regularly, as a name of the list may come to be
	// this node's. Nil if Self is certain. The error says what is wrong with what was found, if
	// anything was. It may block until its context ends.
	Identify func(context.Context) (entry string, err error)
	// IdentifyEvery is how often. Default: 10 s.
	IdentifyEvery time.Duration
	// Voters reads the list, whose entries are distinct. It is called every few seconds. If it
	// fails, the last good list stays in use.
	Voters func() ([]string, error)
	// TTL is how long a vote lease, and with it a grant, lasts. Default: DefaultTTL.
	TTL time.Duration
	// DataDir is the directory of a voter. A node that does not vote needs none.
	DataDir string
	// FoundPatience is for how long a cluster that is not founded is nothing to warn of: voters
	// that are started one after the other wait for one another. Default: a minute.
	FoundPatience time.Duration
	// Network reaches the voters.
	Network driver.Network
	// Logger is not nil.
	Logger *slog.Logger

	// heartbeat is Raft's heartbeat timeout: how long voters miss their leader before they look for
	// another. They elect none before their leases to the old one have ended, so it is a little
	// shorter than the TTL: both end at about the same time.
	heartbeat time.Duration
	// WrapStable, if set, wraps the store of terms and votes. Tests break the disk with it.
	WrapStable func(raft.StableStore) raft.StableStore
}

// Hooks are what the authority adds to a voter.
type Hooks struct {
	// Handle adds the handlers of requests of other nodes.
	Handle func(*http.ServeMux)
	// Tick is called by the life cycle whenever something may have changed, and after nextTick,
	// while the voter takes part in Raft and its disk is healthy.
	Tick func(*Member)
	// NextTick returns after how long tick is to be called at the latest.
	NextTick func() time.Duration
}

// Voter is this node's place among the voters: whether it is one, its part in Raft, and what it
// knows of the others. A node that is not listed has one too, without a part in Raft.
type Voter struct {
	cfg        Config
	Leases     *votelease.Table
	peerClient *peerClient
	listener   net.Listener
	server     *http.Server
	Hooks

	tasks  *tasks
	self   selfEntry
	voters electorate
	disk   directory

	// member is nil while this node has no part in Raft. Only the goroutine of the life cycle
	// stores it.
	member atomic.Pointer[Member]
	// changes is stored to whenever the status or the warnings may have changed, and wakeup makes
	// the life cycle take its next step at once.
	changes watch.Value[struct{}]
	wakeup  chan struct{}
	// configured is when it last changed Raft's configuration. It is the life cycle's alone.
	configured clock.Instant

	mu sync.Mutex
	// Why this node has no part in Raft: what an operator should fix, and what the founding of the
	// cluster waits for.
	voterProblem, foundProblem string
	// unfounded is since when there is a foundProblem.
	unfounded clock.Instant
	// allowedUntil is until when an operator has this voter found a cluster.
	allowedUntil clock.Instant
}

// New reads the list and opens the directory. start starts it.
func New(cfg Config) (*Voter, error) {
	if cfg.FoundPatience == 0 {
		cfg.FoundPatience = time.Minute
	}
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.TTL < MinTTL || cfg.TTL > MaxTTL {
		return nil, fmt.Errorf("%w: mastership.ttl: %v: the static list wants %v to %v", driver.ErrInvalid, cfg.TTL, MinTTL, MaxTTL)
	}
	cfg.heartbeat = min(cfg.TTL*2/3, maxHeartbeat)
	v := &Voter{
		cfg:        cfg,
		Leases:     votelease.NewTable(clock.Now),
		peerClient: newPeerClient(cfg.Cluster, cfg.Network),
		tasks:      newTasks(),
		disk:       directory{path: cfg.DataDir, phase: phaseObserver},
		wakeup:     make(chan struct{}, 1),
	}
	v.self.entry.Store(&cfg.Self)
	v.changes.Store(struct{}{})
	if err := v.readList(); err != nil {
		return nil, err
	}
	if v.Listed() || v.disk.exists() {
		if err := v.openDisk(); err != nil {
			return nil, err
		}
	}
	var err error
	if v.listener, err = cfg.Network.Listen(voterProtocol); err != nil {
		_ = v.disk.close()
		return nil, err
	}
	return v, nil
}

// Start starts the life cycle, and answers other nodes.
func (v *Voter) Start(h Hooks) {
	v.Hooks = h
	v.server = v.newServer(h)
	v.tasks.spawn(func() { _ = v.server.Serve(v.listener) })
	v.tasks.spawn(v.runLifecycle)
	if v.cfg.Identify != nil {
		v.tasks.spawn(v.identify)
	}
}

// Member returns this node's part in Raft, or nil while it has none.
func (v *Voter) Member() *Member { return v.member.Load() }

// TTL is how long a vote lease lasts.
func (v *Voter) TTL() time.Duration { return v.cfg.TTL }

// Heartbeat is how long the voters miss their leader before they look for another.
func (v *Voter) Heartbeat() time.Duration { return v.cfg.heartbeat }

// Context returns the context that ends with close.
func (v *Voter) Context() context.Context { return v.tasks.ctx }

// WatchChanges yields after each change of what the voter reports, until ctx ends. Changes that
// come while the loop is busy are yielded once.
func (v *Voter) WatchChanges(ctx context.Context) iter.Seq[struct{}] { return v.changes.Watch(ctx) }

// Call makes one request to another node. The error wraps driver.ErrUnavailable if it may or may
// not have been carried out.
func (v *Voter) Call(ctx context.Context, addr, path string, in, out any) error {
	return v.peerClient.call(ctx, addr, path, in, out)
}

// StopSpawning has spawn report false.
func (v *Voter) StopSpawning() { v.tasks.close() }

// Close stops the voter and joins its goroutines.
func (v *Voter) Close() error {
	v.tasks.end(func() { _ = v.server.Close() })
	if m := v.member.Swap(nil); m != nil {
		m.stop()
	}
	v.peerClient.close()
	return v.disk.close()
}

// Spawn runs f on a goroutine that Close joins. It reports false after Close.
func (v *Voter) Spawn(f func()) bool { return v.tasks.spawn(f) }

// notify wakes the loops of watchChanges, and the life cycle.
func (v *Voter) notify() {
	v.changes.Store(struct{}{})
	select {
	case v.wakeup <- struct{}{}:
	default:
	}
}

// GiveBack notes that this node gives mastership term back, as m, or removes its claim. It does not
// block. One call is made at a time.
func (v *Voter) GiveBack(m *Member, term driver.Term) {
	m.givenBack.Store(max(m.givenBack.Load(), uint64(term)))
	v.noteReleased(m, term)
}

func (v *Voter) noteReleased(m *Member, term driver.Term) {
	if m.release(term) {
		v.notify()
	}
}

var ErrClosed = fmt.Errorf("the authority is %w", driver.ErrClosed)

// Running returns the member, or why there is none.
func (v *Voter) Running() (*Member, error) {
	m := v.member.Load()
	if m == nil {
		return nil, fmt.Errorf("%w: %s", driver.ErrUnavailable, v.WaitingFor())
	}
	if err := m.Err(); err != nil {
		return nil, fmt.Errorf("%w: %v", driver.ErrUnavailable, v.disk.unwritable(err))
	}
	return m, nil
}

// requestTimeout bounds one request to another node. A lease that takes longer to get is of no use.
func (v *Voter) requestTimeout() time.Duration { return max(v.cfg.heartbeat, 300*time.Millisecond) }
