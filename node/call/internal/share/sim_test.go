package share

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/clock"
)

// The simulation: nodes that come and go, each with a clock of its own, an authority whose masters
// do not always know that they are deposed, and a store. Requests and answers are late, lost,
// doubled and overtake each other. Time is a number of milliseconds. What there is at all nodes
// together is counted after each event.
type sim struct {
	scenario
	rng    *rand.Rand
	params Params
	pace   int // of faults
	now    int
	events eventHeap
	serial int
	nodes  []*simNode

	record Record
	found  bool
	rev    int
	totals []simTotal // what the total has been, and since when

	master  int // the node that the authority names
	term    driver.Term
	leaseTo int

	seen     map[string]int
	err      error
	admits   []int // of the last step, to notice changes
	changes  int
	measured bool
	used     int // of all moments in which it was measured
	moments  int
}

// scenario is what a history is made of.
type scenario struct {
	seed  uint64
	rules rules
	// deletes has the record deleted now and then, and set again.
	deletes bool
	// calm has no faults: it is about who gets what.
	calm bool
	// short ends the history when the faults end.
	short bool
}

type simTotal struct{ since, total int }

type simNode struct {
	id       int
	life     int
	up       bool
	pausedTo int
	offset   time.Duration
	rate     float64

	term      driver.Term // of the mastership that it believes in
	deadline  int
	divider   *Divider
	storeCall int
	cutStore  int         // until when it does not reach the store
	cut       map[int]int // until when it does not reach a node

	holder   *Holder
	call     int // the request that is waited for
	believes int // which node it takes for the master
	stays    int // until when it does so whatever it learns
	works    []simWork
	waiting  int
	mode     int // how busy it is
	served   int
}

// simWork is a place in use.
type simWork struct {
	end   int
	lost  bool
	until clock.Instant // from then on it is nobody's fault that it goes on
}

type event struct {
	at, order int
	f         func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].order < h[j].order
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

const (
	simNodes = 4
	simStep  = 10
	simGrant = 600 // of the authority
	simQuiet = 9000
	simOne   = simQuiet + 8000 // until then one node is busy
	simAll   = simOne + 4000   // and then all are
)

// window is after how long what an old total has allowed is over.
func (s *sim) window() int {
	return int((s.params.Lease+s.params.Fresh)/time.Millisecond*100/99) + 2
}

func simulate(sc scenario) (*sim, error) {
	s := &sim{scenario: sc, rng: rand.New(rand.NewPCG(sc.seed, 66)), master: -1, seen: map[string]int{}}
	s.pace = 300 + s.rng.IntN(3500)
	s.params = Divide(1500 * time.Millisecond)
	if !s.calm && s.rng.IntN(2) == 0 {
		s.params = Params{Lease: time.Duration(300+s.rng.IntN(900)) * time.Millisecond, Fresh: time.Duration(300+s.rng.IntN(1500)) * time.Millisecond}
	}
	if !s.calm && s.rng.IntN(5) == 0 {
		s.params = Params{Lease: time.Duration(2+s.rng.IntN(2)) * time.Second, Fresh: 300 * time.Millisecond}
	}
	for i := range simNodes {
		n := &simNode{id: i, rate: 1 + (s.rng.Float64()-0.5)/50, offset: time.Duration(s.rng.IntN(1e9)) * 1e3}
		n.cut = make(map[int]int)
		s.nodes = append(s.nodes, n)
		s.boot(n)
	}
	s.set(1 + s.rng.IntN(12))
	if !s.calm {
		s.after(s.rng.IntN(300), s.fault)
		s.after(s.rng.IntN(500), s.operate)
	}
	s.after(simQuiet, s.calmDown)
	s.after(simOne, s.allBusy)
	s.after(simAll, s.atEnd)
	for len(s.events) > 0 && s.err == nil {
		e := heap.Pop(&s.events).(event)
		if e.at > simAll || s.short && e.at >= simQuiet {
			return s, nil
		}
		s.now = e.at
		e.f()
		s.check()
	}
	return s, s.err
}

func (s *sim) after(d int, f func()) {
	s.serial++
	heap.Push(&s.events, event{s.now + d, s.serial, f})
}

// on runs f on an instance after d: not while it stands still, and not if it has crashed.
func (s *sim) on(n *simNode, d int, f func()) {
	life := n.life
	var g func()
	g = func() {
		switch {
		case n.life != life || !n.up:
		case n.pausedTo > s.now:
			s.after(n.pausedTo-s.now+s.rng.IntN(3), g)
		default:
			f()
		}
	}
	s.after(d, g)
}

func (s *sim) wrong(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at %d: "+format, append([]any{s.now}, args...)...)
	}
}

func (s *sim) quiet() bool { return s.calm || s.now >= simQuiet }

// clock is what a node's clock says.
func (s *sim) clock(n *simNode) clock.Instant {
	return clock.Instant(n.offset + time.Duration(float64(s.now)*n.rate*1e6))
}

func (s *sim) delay() int {
	if !s.quiet() && s.rng.IntN(8) == 0 {
		return s.rng.IntN(3 * int(s.params.Lease/time.Millisecond))
	}
	return 1 + s.rng.IntN(4)
}

func (s *sim) boot(n *simNode) {
	s.serial++
	n.up, n.holder = true, NewHolder(fmt.Sprint("h", s.serial), s.params)
	n.holder.rules = s.rules
	n.believes = s.master
	if !s.quiet() || s.now == 0 {
		n.mode = s.rng.IntN(4)
	}
	s.step(n)
}

func (s *sim) crash(n *simNode) {
	n.life++
	n.up, n.term, n.divider, n.storeCall, n.call, n.works, n.waiting = false, 0, nil, 0, 0, nil, 0
	n.holder = nil
}

func (s *sim) fault() {
	if s.quiet() {
		return
	}
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if s.master >= 0 && s.rng.IntN(2) == 0 {
		n = s.nodes[s.master]
	}
	switch s.rng.IntN(9) {
	case 6, 7:
		// The master is cut off from the store, and from some nodes, and another one follows.
		s.seen["cut off"]++
		n.cutStore = s.now + s.rng.IntN(2500)
		for i := range s.nodes {
			if s.rng.IntN(2) == 0 {
				n.cut[i] = s.now + s.rng.IntN(1500)
			}
		}
		s.after(s.rng.IntN(400), func() { s.leaseTo = min(s.leaseTo, s.now) })
		// Some go on asking it, and change over one by one, and back.
		for _, other := range s.nodes {
			if s.rng.IntN(2) == 0 {
				other.believes, other.stays = n.id, s.now+s.rng.IntN(3000)
			}
		}
	case 8:
		s.seen["all change"]++
		for _, n := range s.nodes {
			n.mode = s.rng.IntN(4)
			if s.rng.IntN(2) == 0 {
				n.believes = s.rng.IntN(simNodes)
			}
		}
	case 0:
		if n.up {
			s.seen["crash"]++
			s.crash(n)
			s.after(s.rng.IntN(2000), func() { s.boot(n) })
		}
	case 1, 2:
		s.seen["pause"]++
		n.pausedTo = s.now + s.rng.IntN(3000)
	case 3:
		s.seen["deposed"]++ // and does not know it
		s.leaseTo = s.now
	case 4:
		s.seen["busy and idle"]++
		n.mode = s.rng.IntN(4)
	case 5:
		if n.up && n.holder != nil && !n.holder.closed {
			s.seen["closed"]++
			n.holder.Close()
			s.on(n, s.rng.IntN(1000), func() { s.crash(n); s.boot(n) })
		}
	}
	s.after(s.rng.IntN(s.pace), s.fault)
}

// operate changes the total now and then.
func (s *sim) operate() {
	if s.quiet() {
		return
	}
	if s.deletes && s.rng.IntN(3) == 0 {
		s.seen["deleted"]++
		s.found, s.record = false, Record{}
		s.rev++
	}
	s.seen["set"]++
	s.set(s.rng.IntN(13))
	s.after(s.rng.IntN(3000), s.operate)
}

func (s *sim) set(total int) {
	s.rev++
	s.found, s.record.Total = true, total
	s.totals = append(s.totals, simTotal{s.now, total})
}

// calmDown ends all faults. One node is busy from now on.
func (s *sim) calmDown() {
	s.set(1 + s.rng.IntN(12))
	for i, n := range s.nodes {
		n.pausedTo = 0
		n.mode = 0
		if n.up && n.holder.closed {
			s.crash(n)
		}
		if !n.up {
			s.boot(n)
		}
		if i == int(s.seed%simNodes) {
			n.mode = 3
		}
	}
}

func (s *sim) allBusy() {
	total := s.record.Total
	n := s.nodes[s.seed%simNodes]
	if has := n.holder.admit; has != total {
		s.wrong("one node is busy alone, and may have %d of %d", has, total)
	}
	for _, n := range s.nodes {
		n.mode, n.served = 3, 0
	}
	s.measured = true
}

// atEnd checks that busy nodes have fair shares.
func (s *sim) atEnd() {
	total := s.record.Total
	for _, n := range s.nodes {
		fair := total / simNodes
		if n.holder.admit < fair-slack(fair) || total < simNodes && n.served == 0 {
			s.wrong("node %d has %d of %d, and has served %d", n.id, n.holder.admit, total, n.served)
		}
	}
	if used := float64(s.used) / float64(s.moments*total); used < 0.8 {
		s.wrong("all are busy, and %.2f of %d are in use", used, total)
	}
	if total >= simNodes && s.changes > 12 {
		s.wrong("shares have changed %d times while all were busy", s.changes)
	}
}

// step is what a node does all the time.
func (s *sim) step(n *simNode) {
	s.on(n, simStep, func() {
		s.elect(n)
		s.read(n)
		s.nudge(n)
		s.work(n)
		s.step(n)
	})
}

// elect is the node's part in the election.
func (s *sim) elect(n *simNode) {
	if n.term != 0 && s.now >= n.deadline {
		n.term, n.divider = 0, nil
	}
	sent := s.now
	switch {
	case n.term != 0 && s.master == n.id && s.term == n.term && s.now < s.leaseTo:
		s.leaseTo, n.deadline = s.now+simGrant, sent+s.believed(n)
	case n.term == 0 && s.now >= s.leaseTo:
		s.term++
		s.seen["master"]++
		s.master, s.leaseTo, n.term, n.deadline = n.id, s.now+simGrant, s.term, sent+s.believed(n)
		s.serial++
		n.divider = NewDivider(Reign{
			Token: fmt.Sprint("t", s.serial), Term: n.term, InstanceID: s.instance(n), Params: s.params,
		}, n.term == 1)
		n.divider.rules = s.rules
		n.storeCall = 0
	}
	if s.now < n.stays && !s.quiet() {
		return
	}
	if s.rng.IntN(30) == 0 {
		n.believes = s.master
	} else if !s.quiet() && s.rng.IntN(60) == 0 {
		n.believes = s.rng.IntN(simNodes)
	}
}

// believed is for how long a node counts on its mastership: for much longer than it has it, often.
func (s *sim) believed(n *simNode) int {
	if n.id%2 == 0 && !s.quiet() {
		return 8 * simGrant
	}
	return simGrant
}

func (s *sim) instance(n *simNode) string { return fmt.Sprint(n.id, ".", n.life) }

// read has the master read its record.
func (s *sim) read(n *simNode) {
	d := n.divider
	if d == nil || n.storeCall != 0 || s.clock(n).Before(d.ReadAt(s.clock(n))) {
		return
	}
	sent := s.clock(n)
	s.store(n, func() func() {
		r, found, rev := s.record, s.found, s.rev
		return func() {
			if next, write := d.Read(r, found, sent, s.clock(n)); write {
				s.claim(n, d, next, rev)
			}
		}
	})
}

func (s *sim) claim(n *simNode, d *Divider, next Record, rev int) {
	sent := s.clock(n)
	s.store(n, func() func() {
		if rev != s.rev {
			return func() {}
		}
		s.rev++
		s.record = next
		return func() { d.Wrote(next, sent, s.clock(n)) }
	})
}

// store makes a call of the store: the request, the answer, or both may be late or lost.
func (s *sim) store(n *simNode, serve func() (answer func())) {
	s.serial++
	id := s.serial
	n.storeCall = id
	d := n.divider
	lost := !s.quiet() && s.rng.IntN(20) == 0
	s.after(s.delay(), func() {
		if s.now < n.cutStore && !s.quiet() {
			return
		}
		answer := serve()
		if lost {
			s.seen["lost answer of the store"]++
			return
		}
		s.on(n, s.delay(), func() {
			if n.storeCall == id && n.divider == d {
				n.storeCall = 0
				answer()
			}
		})
	})
	s.on(n, 200, func() {
		if n.storeCall == id {
			n.storeCall = 0
		}
	})
}

func (s *sim) nudge(n *simNode) {
	if n.divider == nil {
		return
	}
	for _, peer := range n.divider.Nudge(s.clock(n)) {
		for _, to := range s.nodes {
			if s.instance(to) == peer && to.up {
				s.on(to, s.delay(), func() { to.holder.Nudge() })
			}
		}
	}
}

// work is what wants places, and has them.
func (s *sim) work(n *simNode) {
	now, h := s.clock(n), n.holder
	s.lose(n)
	n.works = slices.DeleteFunc(n.works, func(w simWork) bool {
		if s.now < w.end {
			return false
		}
		h.Put(now, w.lost)
		return true
	})
	switch n.mode {
	case 0:
		n.waiting = 0
	case 1:
		if s.rng.IntN(10) == 0 {
			n.waiting = min(n.waiting+1, 3)
		}
	case 2:
		n.waiting = max(n.waiting, s.rng.IntN(5))
	case 3:
		n.waiting = 15 + s.rng.IntN(10)
	}
	for n.waiting > 0 && h.Take(now) {
		n.waiting--
		n.served++
		took := 5 + s.rng.IntN(150)
		if !s.quiet() && s.rng.IntN(10) == 0 {
			took = s.rng.IntN(4000)
		}
		n.works = append(n.works, simWork{end: s.now + took})
	}
	h.Wait(now, n.waiting)
	if at, ok := h.Due(now); ok && !now.Before(at) && n.believes >= 0 {
		s.ask(n)
	}
}

// lose ends what has no place any more: what began last.
func (s *sim) lose(n *simNode) {
	until, now := clock.Instant(0), s.clock(n)
	for _, b := range n.holder.bands {
		if !now.Before(b.until.Add(-n.holder.grace)) {
			until = max(until, b.until)
		}
	}
	k := n.holder.Excess(now)
	if k == 0 {
		return
	}
	s.seen["lost place"]++
	if s.calm || s.now > simQuiet+5000 {
		s.wrong("node %d lost a place though nothing went wrong", n.id)
	}
	n.holder.Lose(k)
	for i := len(n.works) - 1; i >= 0 && k > 0; i-- {
		if !n.works[i].lost {
			n.works[i].lost, n.works[i].until = true, until
			n.works[i].end = min(n.works[i].end, s.now+s.rng.IntN(200))
			k--
		}
	}
}

// ask sends a request.
func (s *sim) ask(n *simNode) {
	q := n.holder.Send(s.clock(n))
	s.serial++
	id := s.serial
	n.call = id
	to := s.nodes[n.believes]
	life := to.life
	h := n.holder
	from := s.instance(n)
	sentAt := s.now
	deliver := func() {
		if s.quiet() && sentAt < simQuiet && !s.calm {
			return // of one that is dead, perhaps: it would claim something for a while
		}
		if to.life != life || s.now < to.cut[n.id] && !s.quiet() {
			return
		}
		s.on(to, 0, func() {
			if to.divider == nil {
				return
			}
			a, v := to.divider.Ask(from, q, s.clock(to))
			switch v {
			case Granted:
				s.seen["granted"]++
			case Late:
				s.seen["late"]++
				return
			case Over:
				s.seen["over"]++
				return
			default:
				return
			}
			if !s.quiet() && s.rng.IntN(15) == 0 {
				s.seen["lost answer"]++
				return
			}
			take := func() {
				if h == n.holder {
					s.lose(n)
				}
				h.Answered(a, s.clock(n))
				if !h.out && n.call == id {
					n.call = 0
				}
			}
			s.on(n, s.delay(), take)
			if !s.quiet() && s.rng.IntN(10) == 0 {
				s.seen["doubled answer"]++
				s.on(n, s.delay(), take)
			}
		})
	}
	if s.quiet() || s.rng.IntN(20) > 0 {
		s.after(s.delay(), deliver)
	}
	if !s.quiet() && s.rng.IntN(10) == 0 {
		s.seen["doubled request"]++
		s.after(s.delay(), deliver)
	}
	s.on(n, int(h.Timeout()/time.Millisecond), func() {
		if n.call == id {
			n.call = 0
			h.Failed(s.clock(n))
		}
	})
}

// check counts what all nodes may have in use, and have.
func (s *sim) check() {
	shares, using := 0, 0
	var admits []int
	for _, n := range s.nodes {
		if n.holder == nil {
			continue
		}
		// What has lost its place has a moment to end.
		b := slices.Clone(n.holder.bands)
		b.expire(s.clock(n).Add(time.Microsecond))
		shares += b.top()
		if !s.rules.end {
			using += n.holder.live
		} else {
			using += min(n.holder.live, b.top())
		}
		for _, w := range n.works {
			if w.lost && s.clock(n).Add(time.Microsecond).Before(w.until) {
				using++
			}
		}
		admits = append(admits, n.holder.admit)
	}
	limit := 0
	for i, t := range s.totals {
		if i+1 == len(s.totals) || s.totals[i+1].since >= s.now-s.window() {
			limit = max(limit, t.total)
		}
	}
	if shares > limit || using > limit {
		s.wrong("P66: %d in use and %d in shares, of %d", using, shares, limit)
	}
	if s.measured && s.now > simOne+2000 {
		if !slices.Equal(admits, s.admits) {
			s.changes++
		}
		s.used += using
		s.moments++
	}
	s.admits = admits
}
