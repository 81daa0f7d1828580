package call

import (
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/musterhq/muster/node"
)

// Policy says which member of a pool gets a call.
type Policy int

const (
	// LeastPending takes two members at random, and of these the one to which fewer calls of this
	// node are pending.
	LeastPending Policy = iota
	// RoundRobin takes one after the other.
	RoundRobin
	// Nearest takes this node if it is one of them, or else one of its zone by LeastPending, if
	// there is any.
	Nearest
	// ByKey takes the same member for the same key: see WithKey. The key stays with the node id,
	// also over a restart. Of N members each has about 1/N of the keys, and where one comes or goes
	// no key moves but those that it gets or had.
	ByKey
)

// Pool says between which members calls are spread.
type Pool struct {
	// Among chooses members. Nil: all. It is called often, does not block, and gives the same
	// answer for the same member.
	Among func(node.Member) bool
	// Policy is LeastPending by default.
	Policy Policy
}

// WithKey returns a context whose calls to a pool with ByKey go to the member of that key. Without
// it the key is "".
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, keyKey{}, key)
}

type keyKey struct{}

// poolTries is to how many members more a call is sent that were all overloaded.
const poolTries = 2

// avoidFor is for how long a member is called last that was not ready, or not reachable.
const avoidFor = time.Second

// callTag begins the tags by which a member announces its services.
const callTag = "call:"

// Pool returns the way to the members that serve the service of a call, have announced that, and
// are in view: each call is sent to one of them. What provably has not run is sent to another one,
// each once, and what was refused because of overload to two others at most, within a tenth of all
// calls. With Idempotent, what may have run is sent to another one, too. Where no member serves the
// service, the call ends with ErrNotReady at once.
//
// Members announce their services as tags that begin with "call:". A stream is opened at one of
// them; if that refuses it, Recv returns the error.
func (m *Mesh) Pool(p Pool) grpc.ClientConnInterface {
	return counted{&pool{mesh: m, Pool: p, members: make(map[string]candidates)}, m}
}

type pool struct {
	mesh *Mesh
	Pool
	turn atomic.Uint64

	mu      sync.Mutex
	members map[string]candidates // by service
}

// candidates are the members that serve a service in one view.
type candidates struct {
	seq     uint64
	members []node.Member
}

func (p *pool) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	ctx, cancel := p.mesh.bound(ctx)
	defer cancel()
	return p.spread(ctx, method, func(to *peer) outcome { return to.invoke(ctx, method, args, reply, options) })
}

func (p *pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	var opened grpc.ClientStream
	err := p.spread(ctx, method, func(to *peer) (o outcome) {
		opened, o = to.stream(ctx, desc, method, options)
		return o
	})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// spread makes a call with one attempt, or several.
func (p *pool) spread(ctx context.Context, method string, try func(*peer) outcome) error {
	s := spreading{idempotent: isIdempotent(ctx), rules: p.mesh.rules}
	key, _ := ctx.Value(keyKey{}).(string)
	p.mesh.budget.earn()
	for {
		to := p.pick(serviceOf(method), key, s.tried)
		if to == nil {
			return wrap(method, s.exhausted(), s.ran)
		}
		o := try(to)
		if o.verdict == notRun && ended(ctx) == nil { // else the member may be well
			to.avoidUntil.Store(time.Now().Add(avoidFor).UnixNano())
		}
		if again := s.ended(o, to.to.InstanceID); !again || ended(ctx) != nil || errors.Is(o.err, ErrOverloaded) && !p.mesh.budget.spend() {
			return wrap(method, o.err, s.ran)
		}
	}
}

// spreading is one call to a pool: when it is sent again.
type spreading struct {
	idempotent bool
	rules      rules

	tried      []string // instances
	overloaded int
	ran        bool
	last       error
}

// ended says how the attempt at an instance ended, and reports whether the call is to be sent to
// another one.
func (s *spreading) ended(o outcome, instance string) (again bool) {
	s.tried, s.last = append(s.tried, instance), o.err
	switch o.verdict {
	case notRun:
		return true
	case mayHaveRun:
		s.ran = true
		return s.idempotent || !s.rules.once
	case refused:
		switch {
		case errors.Is(o.err, ErrOverloaded):
			s.overloaded++
			return s.overloaded <= poolTries
		case errors.Is(o.err, ErrNoHandler):
			return s.overloaded <= poolTries // a member may lack what another one has
		}
		return false // it was refused before it was sent
	}
	return false
}

// exhausted is the error where there is no other member.
func (s *spreading) exhausted() error {
	if s.last == nil {
		return &Error{Err: ErrNotReady, detail: "no member in view has announced that it serves this"}
	}
	return s.last
}

// pick returns the member that gets the call next, nil if there is none.
func (p *pool) pick(service, key string, tried []string) *peer {
	var ready, avoided []*peer
	now := time.Now().UnixNano()
	for _, member := range p.serving(service) {
		if slices.Contains(tried, member.InstanceID) {
			continue
		}
		switch to, err := p.mesh.peer(member.InstanceID); {
		case err != nil:
		case to.avoidUntil.Load() > now:
			avoided = append(avoided, to)
		default:
			ready = append(ready, to)
		}
	}
	if len(ready) == 0 {
		ready = avoided
	}
	if len(ready) == 0 {
		return nil
	}
	switch p.Policy {
	case RoundRobin:
		return ready[(p.turn.Add(1)-1)%uint64(len(ready))]
	case ByKey:
		return slices.MaxFunc(ready, func(a, b *peer) int { return rank(key, a.to.NodeID, b.to.NodeID) })
	case Nearest:
		ready = p.nearest(ready)
	}
	return leastPending(ready)
}

// rank compares two nodes as the one for a key: by a hash of both, as rendezvous hashing does.
func rank(key, a, b string) int {
	x, y := score(key, a), score(key, b)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return strings.Compare(a, b)
}

// score is the same on all nodes, and must stay so.
func score(key, id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // which never fails
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(key))
	x := h.Sum64() // whose upper bits say little of the last bytes: mix, as splitmix64 does
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func leastPending(among []*peer) *peer {
	a := among[rand.IntN(len(among))]
	b := among[rand.IntN(len(among))]
	if b.pending.Load() < a.pending.Load() {
		return b
	}
	return a
}

// nearest returns this node, or else those of its zone, or else all.
func (p *pool) nearest(among []*peer) []*peer {
	self := p.mesh.node.View().Self()
	var zone []*peer
	for i, to := range among {
		if to.to.InstanceID == self.InstanceID {
			return among[i : i+1]
		}
		if self.Zone != "" && to.zone == self.Zone {
			zone = append(zone, to)
		}
	}
	if len(zone) > 0 {
		return zone
	}
	return among
}

// serving returns the members of the pool that have announced a service.
func (p *pool) serving(service string) []node.Member {
	view := p.mesh.node.View()
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.members[service]; ok && c.seq == view.Seq {
		return c.members
	}
	c := candidates{seq: view.Seq}
	for _, member := range view.Members {
		if slices.Contains(member.Tags, callTag+service) && (p.Among == nil || p.Among(member)) {
			c.members = append(c.members, member)
		}
	}
	p.members[service] = c
	return c.members
}

// announced returns tags with those of services instead of those that were there.
func announced(tags, services []string) []string {
	tags = slices.DeleteFunc(tags, func(tag string) bool { return strings.HasPrefix(tag, callTag) })
	slices.Sort(services)
	for _, s := range services {
		if !isTool(s) {
			tags = append(tags, callTag+s)
		}
	}
	return tags
}

// budget bounds how many calls are sent again because of overload: a tenth of all, and some to
// begin with.
type budget struct {
	tenths atomic.Int64
}

const (
	budgetStart = 100 // tenths
	budgetMost  = 1000
)

func (b *budget) earn() {
	if b.tenths.Load() < budgetMost {
		b.tenths.Add(1)
	}
}

// spend reports whether one more call may be sent again.
func (b *budget) spend() bool {
	if b.tenths.Add(-10) >= 0 {
		return true
	}
	b.tenths.Add(10)
	return false
}
