package registrar

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/musterhq/muster/discovery"
)

// contest is what is known of somebody else who registers the same as an entry, or takes it away,
// and does so again each time that it is put back.
type contest struct {
	undone int       // repairs that somebody has undone
	row    int       // of these, one soon after the other
	at     time.Time // of the last

	rival    string              // the address that stood in its place
	occupant *discovery.Instance // of another service, which stood there when it was asked for last
	unlooked bool                // it was not asked for since readers did not see the registration

	yielding  bool // the registration is left to the rival, until the next call
	yieldedAt time.Time
}

const (
	// contestedFrom is how many repairs are undone before it is held for a contest, and
	// no accident, nor a predecessor that is about to end.
	contestedFrom = 3
	// yieldFrom is how many are undone before one of the two yields, so that both know of it.
	yieldFrom = contestedFrom + 3
	// hopelessFrom is how many are undone before it is left to a rival that never yields.
	hopelessFrom = 10
	// yieldFor is how long a registration is left to the rival until it is tried once
	// whether that is still alive: what others leave behind may have no TTL.
	yieldFor = 5 * time.Minute
	// contestQuiet is how long after the last repair that was undone it is over. A rival
	// that yields tries again before that.
	contestQuiet = yieldFor + time.Minute
)

// noteUndone records that somebody has undone a registration: rival is the address that
// stands in its place, if one does. Between two who undo each other lie two waits at most.
func (c *contest) noteUndone(now time.Time, rival string) {
	if !c.goesOn(now) {
		c.undone = 0
	}
	if now.Sub(c.at) > 4*maxRetry {
		c.row = 0
	}
	c.undone++
	c.row++
	c.at, c.rival = now, rival
}

// occupied records what stands in the place of the registration: a live one of somebody else,
// so that it is a contest however seldom readers have seen it.
func (c *contest) occupied(now time.Time, by discovery.Instance) {
	c.occupant = &by
	c.rival = fmt.Sprintf("%s as service %s", by.Addr, by.Service)
	c.undone, c.at = max(c.undone, 1), now
}

// goesOn reports whether it is not over. A rival that yields tries again after yieldFor,
// and is not gone before.
func (c *contest) goesOn(now time.Time) bool {
	if c.rival == "" {
		return now.Sub(c.at) <= 4*maxRetry
	}
	return c.yielding || now.Sub(c.at) <= contestQuiet
}

// established reports whether somebody undoes each repair, and it was no accident.
func (c *contest) established(now time.Time) bool {
	return (c.undone >= contestedFrom || c.undone > 0 && c.occupant != nil) && c.goesOn(now)
}

// mustYield reports whether the registration is left to rival, which readers see in its
// place, for now: two that replace each other without end serve nobody. Both see the
// two forms, and of these the lower one stays. A rival that does not keep to that is left
// alone in the end.
func (c *contest) mustYield(now time.Time, want, rival discovery.Instance) bool {
	again := !c.yieldedAt.IsZero() && now.Sub(c.yieldedAt) < 2*yieldFor // it is still there
	return again || c.row >= hopelessFrom || c.undone >= yieldFrom && rank(rival) < rank(want)
}

// rank orders the forms of an instance as all that see them do.
func rank(i discovery.Instance) string {
	i.RegisteredAt = time.Time{}
	i.Tags = tagSet(i.Tags)
	text, err := json.Marshal(i)
	if err != nil {
		return i.Addr
	}
	return i.Addr + " " + string(text)
}
