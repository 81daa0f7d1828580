package registrar

import "github.com/musterhq/muster/discovery"

// entries are all that a Registrar looks after, under its lock. What is looked up for each of many
// instances must not cost a look at all of them: add, remove, list and unlist keep the indexes.
type entries struct {
	all      map[key]*entry
	services map[string]map[key]*entry // the same by service
	listed   map[key]int               // how many readers see under each key
	records  map[string]int            // how many are wanted at each record
}

func newEntries() entries {
	return entries{all: make(map[key]*entry), services: make(map[string]map[key]*entry), listed: make(map[key]int)}
}

// add adds an entry, which is not listed yet.
func (s *entries) add(k key, e *entry) {
	s.all[k] = e
	if s.services[k.service] == nil {
		s.services[k.service] = make(map[key]*entry)
	}
	s.services[k.service][k] = e
}

// remove drops the entry k, if there is one.
func (s *entries) remove(k key) {
	if e := s.all[k]; e != nil {
		s.unlist(e)
	}
	delete(s.all, k)
	delete(s.services[k.service], k)
	if len(s.services[k.service]) == 0 {
		delete(s.services, k.service)
	}
}

// list records how readers see e.
func (s *entries) list(e *entry, shown discovery.Instance) {
	e.shown = shown
	s.listed[keyOf(shown)]++
}

// unlist is the reverse of list.
func (s *entries) unlist(e *entry) {
	k := keyOf(e.shown)
	if s.listed[k]--; s.listed[k] == 0 {
		delete(s.listed, k)
	}
}

// have reports whether there is an entry k, or one that is listed as that or has that record.
func (s *entries) have(k key, record string) bool {
	return s.all[k] != nil || s.listed[k] > 0 || record != "" && s.records[record] > 0
}
