package share

import (
	"cmp"
	"slices"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// turnLength is how long a node keeps what it has where there are fewer places than nodes that want
// one: they take turns.
const turnLength = 300 * time.Millisecond

// claimant is one holder, as the total is divided.
type claimant struct {
	id     string
	demand int
	// since is since when it has had something, if has, or else has waited for something.
	has   bool
	since clock.Instant
}

// divide returns how much of the total each claimant is to have. They are in the order of their
// ids.
//
// Where there is enough for all, each has what it demands, and all the rest evenly: it can serve
// what comes without asking, and goes on while there is no master. Where there is not, each that
// demands something has one, and what remains is divided in proportion to what they demand still,
// by the largest remainder. Where there is not even one for each, they take turns.
func divide(total int, all []claimant, now clock.Instant) []int {
	to := make([]int, len(all))
	if len(all) == 0 || total <= 0 {
		return to
	}
	demand, busy := 0, []int(nil)
	for i, c := range all {
		if c.demand > 0 {
			demand += c.demand // MaxTotal at most
			busy = append(busy, i)
		}
	}
	switch {
	case demand <= total:
		spare := total - demand
		for i, c := range all {
			to[i] = c.demand + spare/len(all)
			if i < spare%len(all) {
				to[i]++
			}
		}
	case total < len(busy):
		slices.SortStableFunc(busy, func(i, j int) int { return compareTurns(all[i], all[j], now) })
		for _, i := range busy[:total] {
			to[i] = 1
		}
	default:
		rest, beyond := total-len(busy), demand-len(busy)
		type remainder struct{ i, of int }
		var remainders []remainder
		left := rest
		for _, i := range busy {
			want := (all[i].demand - 1) * rest // MaxTotal squared at most
			to[i] = 1 + want/beyond
			left -= want / beyond
			remainders = append(remainders, remainder{i, want % beyond})
		}
		slices.SortStableFunc(remainders, func(a, b remainder) int { return cmp.Compare(b.of, a.of) })
		for _, r := range remainders[:left] {
			to[r.i]++
		}
	}
	return to
}

// compareTurns orders those that take turns: first those that have theirs, then those that wait,
// the longest first, and then those whose turn is over.
func compareTurns(a, b claimant, now clock.Instant) int {
	return cmp.Or(cmp.Compare(a.turn(now), b.turn(now)), cmp.Compare(a.since, b.since))
}

func (c claimant) turn(now clock.Instant) int {
	switch {
	case c.has && now.Before(c.since.Add(turnLength)):
		return 0
	case !c.has:
		return 1
	}
	return 2
}

// slack is by how much a busy holder may differ from what it should have before another one has to
// give something back because of that: shares do not move with each call.
func slack(target int) int { return max(1, target/8) }
