package authorities

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/race"
)

var oneSeed = flag.Uint64("seed", 0, "run the model of moving records for this seed alone")

// access is what a client did to a key, and what it learned.
type access struct {
	key           string
	read          bool
	was, becomes  string // of a write; "" is no record
	seen          string // of a read
	done, unknown bool   // of a write
}

// register is one key: a write over what is there is carried out, and a read sees the last.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		now, a := state.(string), input.(access)
		switch {
		case a.read:
			return a.seen == now, now
		case a.unknown && a.was == now: // at the end of the history it does not matter
			return true, a.becomes
		case a.unknown:
			return true, now
		case a.done:
			return a.was == now, a.becomes
		}
		return true, now
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, _ any) string {
		a := input.(access)
		if a.read {
			return fmt.Sprintf("read %q", a.seen)
		}
		return fmt.Sprintf("write %q over %q: done %v, unknown %v", a.becomes, a.was, a.done, a.unknown)
	},
}

// history is one random move of records from a to b, and what clients saw meanwhile.
type history struct {
	*sim
	rules   rules
	a, b    *table
	written int
	seen    []porcupine.Operation
	finish  bool // nodes of b alone are there, and the records are to move
	copied  bool // b had all records once
	foreign bool // b had a record before the move
	actors  []*actor
}

var modelKeys = []string{"x", "y"}

// open is what an actor with these stores uses.
func (h *history) open(act *actor, names ...string) *Records {
	stores := make([]Named, len(names))
	for i, name := range names {
		t := h.a
		if name == "b" {
			t = h.b
		}
		stores[i] = Named{name, way{actor: act, table: t}}
	}
	r := NewRecords(true, stores...)
	r.rules = h.rules
	return r
}

// client is a node that reads and writes, until it is killed.
func (h *history) client(number int, names ...string) {
	h.actors = append(h.actors, h.start(fmt.Sprint(names, number), func(act *actor) {
		r := h.open(act, names...)
		for !act.dead {
			h.access(act, r, number)
		}
	}))
}

// access is a read of a key and perhaps a write over what was read. Between the steps of sim
// only one actor moves, so that h needs no lock.
func (h *history) access(act *actor, r *Records, number int) {
	key := modelKeys[act.rng.IntN(len(modelKeys))]
	kind := act.rng.IntN(3)
	begin := act.step
	got, err := r.Get(context.Background(), key)
	switch {
	case err == nil, errors.Is(err, driver.ErrNotFound):
		h.note(number, begin, act.step, access{key: key, read: true, seen: string(got.Value)})
	default:
		if !act.dead && errors.Is(err, ErrElsewhere) {
			_ = act.operate(func() {})
		}
		return
	}
	begin = act.step
	write := access{key: key, was: string(got.Value)}
	switch {
	case kind == 0:
		return
	case kind == 1 && got.Revision != 0:
		err = r.Delete(context.Background(), key, got.Revision)
	default:
		h.written++
		write.becomes = fmt.Sprint("v", h.written)
		_, err = r.Set(context.Background(), key, []byte(write.becomes), got.Revision)
	}
	end := act.step
	switch {
	case err == nil:
		write.done = true
	case errors.Is(err, driver.ErrConflict), errors.Is(err, driver.ErrNotFound):
	default:
		write.unknown, end = true, math.MaxInt32
	}
	h.note(number, begin, end, write)
}

func (h *history) note(client, begin, end int, a access) {
	// What begins in the step in which another one ends may have begun before it.
	h.seen = append(h.seen, porcupine.Operation{ClientId: client, Input: a, Call: int64(2 * begin), Return: int64(2*end + 1)})
}

// mirrors is a node of both that moves the records.
func (h *history) mirrors(names ...string) {
	h.actors = append(h.actors, h.start("mirror", func(act *actor) {
		r := h.open(act, names...)
		for !act.dead {
			destination := ""
			if h.finish && act.rng.IntN(2) == 0 {
				destination = "b"
			}
			move, _ := r.Mirror(context.Background(), destination)
			h.copied = h.copied || move.Mirrored && move.To == "b"
		}
	}))
}

const foreign = "it was there before"

// runHistory returns what is wrong with the history of a seed.
func runHistory(seed uint64, rules rules) error {
	h := &history{sim: newSim(seed), rules: rules, a: newTable(0), b: newTable(driver.Revision(seed % 3))}
	order := []string{"a", "b"}
	_, _ = h.a.set("seed", "s", 0) // so that a node that names them in another order finds out
	if seed%2 == 0 {
		_, _ = h.b.set("x", foreign, 0) // and nobody may lose it
		h.foreign = true
	} else if seed%4 == 1 {
		order = []string{"b", "a"}
	}
	for i := range 2 {
		h.client(i, "a")
	}
	h.run(h.rng.IntN(40), func() {})
	h.mirrors("a", "b")
	h.client(2, order...)
	h.run(h.rng.IntN(120), h.accident)
	h.mirrors("a", "b")
	h.run(h.rng.IntN(120), h.accident)
	for !h.copied { // which the operator waits for
		h.run(20, h.accident)
	}
	h.finish = true
	h.client(3, "b")
	h.run(200+h.rng.IntN(200), h.accident)
	h.stop(h.actors)
	return h.end()
}

// accident kills an actor now and then, and another takes its place.
func (h *history) accident() {
	if h.rng.IntN(60) > 0 {
		return
	}
	i := h.rng.IntN(len(h.actors))
	if victim := h.actors[i]; !victim.dead && victim.name == "mirror" {
		h.kill(victim)
		h.mirrors("a", "b")
	}
}

// end lets the move come to its end, and checks what there is then.
func (h *history) end() error {
	h.quiet, h.finish = true, true
	var moved error
	last := h.start("last", func(act *actor) {
		both, alone := h.open(act, "a", "b"), h.open(act, "b")
		for range 20 {
			var move Move
			if move, moved = both.Mirror(context.Background(), "b"); move.From == "b" {
				moved = nil // whether or not a is its mirror already
				break
			}
		}
		for range 2 {
			for _, key := range modelKeys {
				begin := act.step
				got, err := alone.Get(context.Background(), key)
				if err != nil && !errors.Is(err, driver.ErrNotFound) {
					moved = errors.Join(moved, err)
				}
				h.note(9, begin, act.step, access{key: key, read: true, seen: string(got.Value)})
			}
			_ = act.operate(func() { // what was late arrives at last
				for _, do := range h.late {
					do()
				}
				h.late = nil
			})
		}
	})
	h.run(10_000, func() {})
	h.stop([]*actor{last})
	if moved != nil {
		return fmt.Errorf("the records do not move in the end: %w", moved)
	}
	if h.foreign != (string(h.b.records["x"].Value) == foreign) {
		return fmt.Errorf("a record that was not mirrored is %q", h.b.records["x"].Value)
	}
	for _, key := range modelKeys {
		var of []porcupine.Operation
		for _, o := range h.seen {
			if o.Input.(access).key == key {
				of = append(of, o)
			}
		}
		slices.SortStableFunc(of, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
		if got := porcupine.CheckOperationsTimeout(register, of, 20*time.Second); got == porcupine.Illegal {
			text := ""
			for _, o := range of {
				text += fmt.Sprintf("\n%d: %d to %d: %s", o.ClientId, o.Call, o.Return, register.DescribeOperation(o.Input, nil))
			}
			return fmt.Errorf("key %s is not linearizable:%s", key, text)
		}
	}
	return nil
}

// Whatever goes wrong while the records move, no write is lost, none comes back, and what was
// at the second store before is left alone.
func TestModelOfMovingRecords(t *testing.T) {
	if *oneSeed != 0 {
		if err := runHistory(*oneSeed, soundRules()); err != nil {
			t.Fatal(err)
		}
		return
	}
	if race.Enabled {
		t.Skip("one goroutine at a time, so that there are no races: it runs without the detector")
	}
	n := uint64(2000)
	if testing.Short() {
		n = 300
	}
	for seed := range n {
		if err := runHistory(seed+1, soundRules()); err != nil {
			t.Fatalf("seed %d: %v", seed+1, err)
		}
	}
}

// The model notices where a rule is broken on which the proof rests.
func TestModelOfMovingRecordsNoticesBrokenRules(t *testing.T) {
	if race.Enabled {
		t.Skip("one goroutine at a time, so that there are no races: it runs without the detector")
	}
	for name, test := range map[string]struct {
		break_ func(*rules)
		from   uint64 // where the search begins, to be short
	}{
		"no second look at the marker": {func(r *rules) { r.verify = false }, 0},
		"equal records not touched":    {func(r *rules) { r.touch = false }, 740},
		"round not looked at":          {func(r *rules) { r.checkRound = false }, 15_900},
		"no tombstones":                {func(r *rules) { r.entomb = false }, 190},
		"no pass after the seal":       {func(r *rules) { r.lastPass = false }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := soundRules()
			test.break_(&broken)
			for seed := test.from; seed < test.from+40_000; seed++ {
				if err := runHistory(seed+1, broken); err != nil {
					t.Logf("noticed at seed %d", seed+1)
					return
				}
			}
			t.Error("no history showed it")
		})
	}
}
