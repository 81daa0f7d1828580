package grants

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/musterhq/muster/discovery/driver"
)

// The keys of a cluster, below its prefix.
const (
	MasterKey = "master" // who is master: a Master, with which the store may keep more
	TermKey   = "term"   // the last term granted
	IDKey     = "id"     // the cluster id
)

// Keys returns all of them.
func Keys() []string { return []string{MasterKey, TermKey, IDKey} }

// Master is the value of MasterKey.
type Master struct {
	driver.Holder
	Term driver.Term `json:"term"`
}

// State is what the keys of a cluster hold. The zero value is that of a cluster without keys.
type State struct {
	Master *Master // nil for none; whether its grant is still valid, the store knows
	Term   driver.Term
	ID     string
}

// Parse adds the value of one key. It fails on a value that cannot be read, and does not guess: a
// term that is too low would be granted twice.
func (s *State) Parse(name string, value []byte) error {
	switch name {
	case MasterKey:
		m := new(Master)
		if err := json.Unmarshal(value, m); err != nil {
			return err
		}
		if m.InstanceID == "" {
			return errors.New("no instance_id")
		}
		s.Master = m
		return s.count(m.Term)
	case TermKey:
		term, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return err
		}
		return s.count(driver.Term(term))
	case IDKey:
		s.ID = string(value)
	}
	return nil
}

// count takes over a term. Those of the two keys differ only where someone has changed
// one of them by hand. It refuses one that was written by hand and leaves no room to
// count on from it: the next one would be 0.
func (s *State) count(t driver.Term) error {
	if t > 2*driver.MaxTerm {
		return fmt.Errorf("term %d is out of bounds", t)
	}
	s.Term = max(s.Term, t)
	return nil
}

// Unreadable is the error of a key of which Parse or the store cannot make anything.
func Unreadable(key string, value []byte, err error) error {
	return fmt.Errorf("%w: %s holds %.40q (%w); delete the key if nothing that you know wrote it", driver.ErrInvalid, key, value, err)
}

// Next returns the term to grant: it is higher than every earlier one, and than the one
// that the claimant has learned. That one is bounded far below those that were granted.
func (s *State) Next(heardOf driver.Term) (driver.Term, error) {
	if heardOf > driver.MaxTerm {
		return 0, fmt.Errorf("%w: term %d is out of bounds", driver.ErrInvalid, heardOf)
	}
	return max(s.Term, heardOf) + 1, nil
}

// Mastership returns what is observed if the grant of the master is valid, or is not.
func (s *State) Mastership(stands bool) driver.Mastership {
	m := driver.Mastership{Term: s.Term, ClusterID: s.ID}
	if stands {
		holder := s.Master.Holder
		m.Holder = &holder
	}
	return m
}
