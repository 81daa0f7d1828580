package share

import (
	"slices"

	"github.com/musterhq/muster/internal/clock"
)

// band is a part of a total: limit of so many, until then.
type band struct {
	limit, of int
	until     clock.Instant
}

// in returns the band in units of another total, rounded down and up. Both numbers are MaxTotal
// at most, so that the product of two has room.
func (b band) in(total int) (floor, ceil int) {
	if b.limit <= 0 || b.of <= 0 {
		return 0, 0
	}
	floor = b.limit * total / b.of
	if ceil = floor; floor*b.of < b.limit*total {
		ceil++
	}
	return floor, ceil
}

// above reports whether b is a greater part than c, or an equal one with a higher limit.
func (b band) above(c band) bool {
	x, y := b.limit*max(c.of, 1), c.limit*max(b.of, 1)
	return x > y || x == y && b.limit > c.limit
}

// bands are the parts that a holder may have at one time: each was granted, and is not over. Where
// the latest is smaller than one before it, that one still counts for what was begun under it.
type bands []band

// expire drops what is over.
func (b *bands) expire(now clock.Instant) {
	*b = slices.DeleteFunc(*b, func(x band) bool { return !now.Before(x.until) })
}

// clamp notes that no more than n will be in use, whatever was granted.
func (b *bands) clamp(n int) {
	for i := range *b {
		(*b)[i].limit = min((*b)[i].limit, n)
	}
	b.simplify()
}

// push adds what was granted.
func (b *bands) push(x band) {
	*b = append(*b, x)
	b.simplify()
}

// simplify drops the bands beside which another one is larger in all respects.
func (b *bands) simplify() {
	var kept bands
	for i, x := range *b {
		covered := slices.ContainsFunc(kept, func(y band) bool { return y.covers(x) }) ||
			slices.ContainsFunc((*b)[i+1:], func(y band) bool { return y.covers(x) })
		if !covered && x.limit > 0 {
			kept = append(kept, x)
		}
	}
	*b = kept
}

func (b band) covers(c band) bool {
	return b.limit >= c.limit && !b.until.Before(c.until) && b.limit*max(c.of, 1) >= c.limit*max(b.of, 1)
}

// top returns the highest limit.
func (b bands) top() (limit int) {
	for _, x := range b {
		limit = max(limit, x.limit)
	}
	return limit
}

// part returns the largest part.
func (b bands) part() (largest band) {
	for _, x := range b {
		if x.above(largest) {
			largest = x
		}
	}
	return largest
}

// until returns when the last band ends.
func (b bands) until() (last clock.Instant) {
	for _, x := range b {
		last = max(last, x.until)
	}
	return last
}
