package check

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// trusted is how far the wall clocks of two hosts may be apart and still be shown: what one node
// says of a mastership is heard by the others within that, as a rule.
const trusted = 5 * time.Second

// walls turns readings of boot clocks into times for people: a reading and an offset, which is one
// for each boot clock, so that nothing is out of order where a wall clock was set.
type walls struct {
	offset map[string]int64 // of the wall clock from the boot clock
	notes  []string
}

// alignWalls takes the offsets from the times on record. Where the clocks of two hosts are further
// apart than what they heard from each other allows, or than it makes likely, the one with fewer
// records is put right.
func alignWalls(all []*Instance, c *clocks) *walls {
	w := &walls{offset: make(map[string]int64)}
	records := make(map[string]int)
	nodes := make(map[string]string)
	samples := make(map[string][]int64)
	for _, i := range all {
		records[i.Clock] += len(i.Records)
		nodes[i.Clock] = i.Node
		for _, r := range i.Records {
			if !r.Time.IsZero() {
				samples[i.Clock] = append(samples[i.Clock], r.Time.UnixNano()-r.BootNS)
			}
		}
	}
	reference := ""
	for _, name := range c.names {
		if s := samples[name]; len(s) > 0 {
			slices.Sort(s)
			w.offset[name] = s[len(s)/2]
		}
		if reference == "" || records[name] > records[reference] {
			reference = name
		}
	}
	done := map[string]bool{reference: true}
	for queue := []string{reference}; len(queue) > 0; queue = queue[1:] {
		base := queue[0]
		for _, name := range slices.Sorted(slices.Values(c.near[base])) {
			if done[name] {
				continue
			}
			done[name], queue = true, append(queue, name)
			low, high := c.offsets(base, name)
			apart := w.apart(base, name, low, high)
			w.offset[name] += apart
			if d := time.Duration(apart).Abs(); d > 0 {
				w.notes = append(w.notes, fmt.Sprintf("the wall clocks of %s and %s differ by about %v; times are shown by that of %s",
					nodes[base], nodes[name], d.Round(time.Second), nodes[base]))
			}
		}
	}
	return w
}

// offsets returns what to subtract from a reading of base to have that of name at the same moment,
// at the least and at the most, by what was heard, whatever the clocks' rates. One may be
// infinite.
func (c *clocks) offsets(base, name string) (low, high float64) {
	low, high = math.Inf(-1), math.Inf(1)
	if l := c.known[direction{base, name}]; l != nil {
		for _, x := range l.all { // base's from was not later than name's to
			low = max(low, float64(x.from)-float64(x.to))
		}
	}
	if l := c.known[direction{name, base}]; l != nil {
		for _, x := range l.all {
			high = min(high, float64(x.to)-float64(x.from))
		}
	}
	return low, high
}

// apart returns what to add to the offset of name. low and high bound the difference of the boot
// clocks, so that the wall clock of name is right if its offset is that of base and a difference
// between them.
func (w *walls) apart(base, name string, low, high float64) int64 {
	difference := float64(w.offset[name]) - float64(w.offset[base])
	likely := low // what is heard is heard soon
	switch {
	case math.IsInf(low, 0):
		likely = high
	case !math.IsInf(high, 0):
		likely = (low + high) / 2
	}
	if math.Abs(difference-likely) <= float64(trusted) {
		return 0
	}
	return int64(likely - difference)
}

// Wall is the time of a reading of an instance's boot clock, for people: the wall clocks of hosts
// may be wrong, and then it is as well.
func (r *Report) Wall(i *Instance, t int64) time.Time {
	if t == Forever {
		return time.Unix(0, math.MaxInt64)
	}
	return time.Unix(0, saturate(r.wall.offset[i.Clock], t)).UTC()
}

// saturate adds without an overflow.
func saturate(a, b int64) int64 {
	switch sum := a + b; {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	default:
		return sum
	}
}
