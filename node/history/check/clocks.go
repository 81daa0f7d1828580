package check

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/musterhq/muster/node/history"
)

const (
	// rate is by how much one clock may run faster than another, where each runs at the right rate
	// within 1 %, as mastership assumes.
	rate = 1.01 / 0.99
	// rounding is more than what is lost to floating-point numbers.
	rounding = int64(time.Microsecond)
	// maxSteps bounds how many clocks a moment is followed over.
	maxSteps = 2
	// maxNext bounds from how many clocks a next one is taken: a cluster has fewer hosts.
	maxNext = 256
)

// link says that moment From of one clock was not later than moment To of another.
type link struct{ from, to int64 }

type direction struct{ from, to string }

// links are those from one clock to another, in the order of from.
type links struct {
	all []link
	// soonest[k] is of the first k+1 links the least to - rate*from, and latest[k] of those from k
	// on the least to - from/rate: what a moment after, or before, them can be at the latest.
	soonest, latest []float64
}

// clocks relates the boot clocks of the instances.
type clocks struct {
	names []string
	known map[direction]*links
	// next are the clocks that a link leads to, and near those that one leads to or comes from.
	next, near map[string][]string
	// odd are the pairs that contradict each other, in both directions.
	odd map[direction]bool
}

// relate finds out what the records say about the clocks.
func relate(all []*Instance, masterships []*Mastership) *clocks {
	c := &clocks{known: make(map[direction]*links), next: make(map[string][]string), near: make(map[string][]string), odd: make(map[direction]bool)}
	names := make(map[string]bool)
	clockOf := make(map[string]string)
	for _, i := range all {
		names[i.Clock] = true
		clockOf[i.ID] = i.Clock
	}
	c.names = slices.Sorted(maps.Keys(names))
	begun := make(map[claim]*Mastership)
	for _, m := range masterships {
		if k := (claim{m.ID, m.Term}); !m.Partial && begun[k] == nil {
			begun[k] = m
		}
	}
	for _, i := range all {
		named := make(map[claim]bool)
		for _, r := range i.Records {
			switch {
			case r.Kind == history.Heard && r.Peer != nil:
				if clockOf[r.Peer.InstanceID] == r.Peer.Clock {
					c.add(r.Peer.Clock, i.Clock, r.Peer.BootNS, r.BootNS)
				}
			case r.Kind == history.View && r.View != nil && r.View.Master != nil:
				// A node records that it is active before it announces that.
				k := claim{r.View.Master.InstanceID, r.View.Master.Term}
				if m := begun[k]; m != nil && !named[k] {
					named[k] = true
					c.add(m.Clock, i.Clock, m.Begin, r.BootNS)
				}
			}
		}
	}
	for d, l := range c.known {
		l.sort()
		c.next[d.from] = append(c.next[d.from], d.to)
		c.near[d.from], c.near[d.to] = append(c.near[d.from], d.to), append(c.near[d.to], d.from)
	}
	for d := range c.known {
		if c.contradict(d.from, d.to) {
			c.odd[d], c.odd[direction{d.to, d.from}] = true, true
		}
	}
	for name, next := range c.next {
		slices.Sort(next)
		c.next[name] = next[:min(len(next), maxNext)]
	}
	return c
}

// claim is a mastership, by its holder and term.
type claim struct {
	instance string
	term     uint64
}

func (c *clocks) add(from, to string, a, b int64) {
	if from == to {
		return
	}
	d := direction{from, to}
	if c.known[d] == nil {
		c.known[d] = new(links)
	}
	c.known[d].all = append(c.known[d].all, link{a, b})
}

func (l *links) sort() {
	slices.SortFunc(l.all, func(a, b link) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	l.soonest, l.latest = make([]float64, len(l.all)), make([]float64, len(l.all))
	least := math.Inf(1)
	for k, x := range l.all {
		least = min(least, float64(x.to)-rate*float64(x.from))
		l.soonest[k] = least
	}
	least = math.Inf(1)
	for k, x := range slices.Backward(l.all) {
		least = min(least, float64(x.to)-float64(x.from)/rate)
		l.latest[k] = least
	}
}

// at returns the moment of the other clock that t was not later than.
func (l *links) at(t int64) int64 {
	k, _ := slices.BinarySearchFunc(l.all, t, func(x link, t int64) int { return cmp.Compare(x.from, t) })
	bound := math.Inf(1)
	if k < len(l.all) { // t is before these
		bound = l.latest[k] + float64(t)/rate
	}
	if k > 0 { // and after those
		bound = min(bound, l.soonest[k-1]+rate*float64(t))
	}
	if bound >= math.MaxInt64-float64(rounding)*2 {
		return Forever
	}
	return max(int64(bound), math.MinInt64/2) + rounding
}

// bound returns a moment of the clock to that t of the clock from was not later than, Forever if
// nothing is known.
func (c *clocks) bound(from, to string, t int64) int64 { return c.boundIn(from, to, t, maxSteps) }

func (c *clocks) boundIn(from, to string, t int64, steps int) int64 {
	if from == to || t == Forever {
		return t
	}
	least := int64(Forever)
	if l := c.known[direction{from, to}]; l != nil {
		least = l.at(t)
	}
	if steps == 1 {
		return least
	}
	for _, over := range c.next[from] {
		if over != to {
			least = min(least, c.boundIn(over, to, c.known[direction{from, over}].at(t), steps-1))
		}
	}
	return least
}

// contradict reports whether what two clocks say of each other cannot be: a moment of one would be
// before itself. A reading was forged then, or a clock ran at a wrong rate.
func (c *clocks) contradict(a, b string) bool {
	there, back := c.known[direction{a, b}], c.known[direction{b, a}]
	if there == nil || back == nil {
		return false
	}
	for _, x := range there.all {
		if back.at(there.at(x.from)) < x.from {
			return true
		}
	}
	return false
}
