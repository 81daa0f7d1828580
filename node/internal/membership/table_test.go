package membership

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A record counts as alive for a moment after its end, in which it may be heard that it left;
// and keeps its predecessors hidden for longer than that, if it was ever seen alive.
func TestHereAndHolds(t *testing.T) {
	end := time.Unix(1_700_000_000, 0)
	at := func(d time.Duration) time.Time { return end.Add(d) }
	const moment, grace = time.Millisecond, 50 * time.Millisecond
	for _, v := range []struct {
		says        string
		r           record
		after       time.Duration
		here, holds bool
	}{
		{"it lives", record{live: true}, time.Hour, true, true},
		{"it was never seen alive", record{}, 0, false, false},
		{"it ended just now", record{goneAt: end}, 0, true, true},
		{"the reason may still come", record{goneAt: end}, grace - moment, true, true},
		{"no reason came", record{goneAt: end}, grace, false, true},
		{"a predecessor may still be found dead", record{goneAt: end}, supersededHold - moment, false, true},
		{"its end is long ago", record{goneAt: end}, supersededHold, false, false},
		{"it said that it leaves, and lives", record{live: true, left: true, leftAt: end}, 0, false, true},
		{"it said so long ago, and lives", record{live: true, left: true, leftAt: end}, supersededHold, false, false},
		{"it said so, and ended", record{left: true, leftAt: end, goneAt: at(time.Second)}, supersededHold, false, false},
		{"it ended, and then said so", record{left: true, leftAt: at(time.Second), goneAt: end}, supersededHold, false, false},
	} {
		here, wake := v.r.here(at(v.after))
		if here != v.here || v.r.holds(at(v.after)) != v.holds {
			t.Errorf("%s: here %v, holds %v; want %v, %v", v.says, here, v.r.holds(at(v.after)), v.here, v.holds)
		}
		if ends := !v.r.live && !v.r.left && !v.r.goneAt.IsZero(); ends != (wake == end.Add(grace)) || !ends && !wake.IsZero() {
			t.Errorf("%s: it ceases to count at %v", v.says, wake)
		}
	}
}

// Of those that are gone the last ones are kept, for a while; those that live are kept
// however many they are.
func TestForget(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	table := newTable(self{})
	add := func(n int, r *record) {
		r.id = identity{fmt.Sprintf("n%05d", n), fmt.Sprintf("%012d", n), 1}
		r.name = memberName(r.id.nodeID, r.id.instanceID)
		table.add(r)
	}
	for n := range 10 {
		add(n, &record{live: true})
	}
	for n := range 4096 {
		add(100+n, &record{goneAt: now.Add(time.Duration(n) * time.Millisecond)})
	}
	table.forget(now.Add(time.Minute))
	if len(table.records) != 10+4096 {
		t.Errorf("%d records are kept, want all", len(table.records))
	}
	add(10_000, &record{goneAt: now.Add(time.Minute)})
	table.forget(now.Add(time.Minute))
	if _, first := table.instances["n00100"]; len(table.records) != 10+4096 || first {
		t.Errorf("%d records are kept, and the first that went is: %v", len(table.records), first)
	}
	table.forget(now.Add(time.Minute + departedKept))
	if len(table.records) != 11 {
		t.Errorf("%d records are kept, want those that live and the last", len(table.records))
	}
	table.forget(now.Add(time.Minute + departedKept + 1))
	if len(table.records) != 10 {
		t.Errorf("%d records are kept, want those that live", len(table.records))
	}
}

// Those that left within the last minute are named, the latest first, and not all of a crowd.
func TestLeavers(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	table := newTable(self{})
	var want []string
	for n := range 70 {
		id := identity{fmt.Sprintf("n%02d", n), fmt.Sprintf("%012d", n), 1}
		r := &record{name: memberName(id.nodeID, id.instanceID), id: id, left: true, leftAt: now.Add(-time.Duration(n) * time.Second)}
		if n == 3 {
			r.left = false
		}
		table.add(r)
		if n < 60 && n != 3 {
			want = append(want, r.name)
		}
	}
	if got := table.leavers(now); !slices.Equal(got, want) {
		t.Errorf("%d leavers %q, want %d %q", len(got), got, len(want), want)
	}
	for _, r := range table.records {
		r.left, r.leftAt = true, now
	}
	if got := table.leavers(now); len(got) != 64 {
		t.Errorf("%d leavers of 70, want 64", len(got))
	}
}
