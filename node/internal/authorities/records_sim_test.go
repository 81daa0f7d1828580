package authorities

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// sim runs actors, each in a goroutine of its own, of which only one moves at a time: from one
// operation of a store to the next. Which one, and what goes wrong, the seed decides.
type sim struct {
	rng     *rand.Rand
	calls   chan *call
	ended   chan *actor
	alive   int
	waiting []*call
	late    []func() // operations that are still on the way, whose sender has given up
	step    int
	quiet   bool // nothing goes wrong any more
}

type actor struct {
	*sim
	name string
	dead bool
}

// call is one operation of an actor that waits for its turn.
type call struct {
	actor  *actor
	do     func()
	answer chan error
}

func newSim(seed uint64) *sim {
	return &sim{rng: rand.New(rand.NewPCG(seed, 1)), calls: make(chan *call), ended: make(chan *actor)}
}

func (s *sim) start(name string, run func(*actor)) *actor {
	a := &actor{sim: s, name: name}
	s.alive++
	go func() {
		run(a)
		s.ended <- a
	}()
	return a
}

// operate waits for the turn of a, and carries do out unless something goes wrong.
func (a *actor) operate(do func()) error {
	if a.dead {
		return errDead
	}
	c := &call{a, do, make(chan error)}
	a.calls <- c
	return <-c.answer
}

var errDead = fmt.Errorf("%w: the node was killed", driver.ErrUnavailable)
var errLost = fmt.Errorf("%w: no answer", driver.ErrUnavailable)

// run lets the actors move until all have ended or steps are done. each is called between steps.
func (s *sim) run(steps int, each func()) {
	for limit := s.step + steps; s.alive > 0 && s.step < limit; s.step++ {
		s.settle()
		if len(s.waiting) == 0 {
			return
		}
		each()
		if len(s.late) > 0 && s.rng.IntN(6) == 0 {
			i := s.rng.IntN(len(s.late))
			s.late[i]()
			s.late = slices.Delete(s.late, i, i+1)
		}
		s.move()
	}
}

// settle waits until each actor waits or has ended.
func (s *sim) settle() {
	for len(s.waiting) < s.alive {
		select {
		case c := <-s.calls:
			s.waiting = append(s.waiting, c)
		case <-s.ended:
			s.alive--
		}
	}
}

// move carries out one operation.
func (s *sim) move() {
	i := s.rng.IntN(len(s.waiting))
	c := s.waiting[i]
	s.waiting = slices.Delete(s.waiting, i, i+1)
	fate := 100
	if !s.quiet {
		fate = s.rng.IntN(100)
	}
	var err error
	switch {
	case c.actor.dead || fate < 2:
		err = errLost // it never arrives
	case fate < 4:
		c.do()
		err = errLost
	case fate < 8:
		s.late = append(s.late, c.do)
		err = errLost
	default:
		c.do()
	}
	c.answer <- err
}

// kill ends an actor: what it has sent may still arrive.
func (s *sim) kill(a *actor) {
	a.dead = true
	for i, c := range s.waiting {
		if c.actor == a {
			if s.rng.IntN(2) == 0 {
				s.late = append(s.late, c.do)
			}
			s.waiting = slices.Delete(s.waiting, i, i+1)
			c.answer <- errDead
			return
		}
	}
}

// stop kills all, and waits until they have ended.
func (s *sim) stop(actors []*actor) {
	s.settle()
	for _, a := range actors {
		s.kill(a)
		s.settle()
	}
}

// table is one store. All of its operations are atomic.
type table struct {
	records  map[string]driver.Record
	revision driver.Revision
}

func newTable(revision driver.Revision) *table {
	return &table{make(map[string]driver.Record), revision}
}

func (t *table) set(key, value string, prev driver.Revision) (driver.Revision, error) {
	if t.records[key].Revision != prev {
		return 0, driver.ErrConflict
	}
	t.revision++
	t.records[key] = driver.Record{Key: key, Value: []byte(value), Revision: t.revision}
	return t.revision, nil
}

// way is how an actor gets to a table: a driver.Authority that is a driver.Store.
type way struct {
	driver.Authority
	actor *actor
	table *table
}

// through carries do out on the table, and returns its error or that of the way.
func (w way) through(do func() error) error {
	var outcome error
	if err := w.actor.operate(func() { outcome = do() }); err != nil {
		return err
	}
	return outcome
}

func (w way) Get(_ context.Context, key string) (r driver.Record, err error) {
	err = w.through(func() error {
		found, ok := w.table.records[key]
		if !ok {
			return driver.ErrNotFound
		}
		r = found
		return nil
	})
	return r, err
}

func (w way) Set(_ context.Context, key string, value []byte, prev driver.Revision) (revision driver.Revision, err error) {
	text := string(value)
	err = w.through(func() (err error) {
		written, err := w.table.set(key, text, prev)
		revision = written
		return err
	})
	return revision, err
}

func (w way) Delete(_ context.Context, key string, prev driver.Revision) error {
	return w.through(func() error {
		switch r, ok := w.table.records[key]; {
		case !ok:
			return driver.ErrNotFound
		case r.Revision != prev:
			return driver.ErrConflict
		}
		w.table.revision++
		delete(w.table.records, key)
		return nil
	})
}

func (w way) Records(_ context.Context, prefix string) (all []driver.Record, err error) {
	err = w.through(func() error {
		all = nil
		for key, r := range w.table.records {
			if strings.HasPrefix(key, prefix) {
				all = append(all, r)
			}
		}
		slices.SortFunc(all, func(a, b driver.Record) int { return strings.Compare(a.Key, b.Key) })
		return nil
	})
	return all, err
}
