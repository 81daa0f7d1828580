package registrar

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/musterhq/muster/discovery/driver"
)

// record is where the provider keeps an instance, if that may be another's place, too.
type record struct {
	key      string // empty if it is its own
	conflict string // names those of the desired state that have the same record
	shadowed bool   // one of them is registered there, and this one is not
}

// err is why a shadowed instance is not registered.
func (r *record) err() error { return fmt.Errorf("%w: %s", driver.ErrConflict, r.conflict) }

// settleRecords finds the desired instances that the provider would keep in one record, where
// each would replace the other without end, and has one of them registered. It wants the lock
// held.
func (r *Registrar) settleRecords() {
	records := make(map[string][]*entry)
	r.entries.records = make(map[string]int)
	for _, e := range r.entries.all {
		if !e.wanted || e.invalid != nil || e.evict {
			e.record.key = ""
			continue
		}
		record := r.config.Registry.RecordKey(e.instance)
		if record == "" {
			e.record.key = ""
			e.shadow(false, "")
			continue
		}
		records[record] = append(records[record], e)
	}
	for record, all := range records {
		r.entries.records[record] = len(all)
		// Who stands there stays, so that a new one takes nothing away.
		slices.SortFunc(all, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(standing(b, record), standing(a, record)), compareKeys(a, b))
		})
		for n, e := range all {
			e.record.key = record
			if len(all) == 1 {
				e.shadow(false, "")
				continue
			}
			e.shadow(n > 0, conflictOf(e, all, record))
		}
	}
}

// standing is 1 if e is registered in record by now.
func standing(e *entry, record string) int {
	if e.record.key == record && !e.record.shadowed {
		return 1
	}
	return 0
}

func compareKeys(a, b *entry) int {
	x, y := keyOf(a.instance), keyOf(b.instance)
	return cmp.Or(cmp.Compare(x.service, y.service), cmp.Compare(x.id, y.id))
}

// conflictOf names the others of all to e. The first of all is registered.
func conflictOf(e *entry, all []*entry, record string) string {
	var others []string
	for n, o := range all {
		if o == e {
			continue
		}
		what := "left out"
		if n == 0 {
			what = "registered"
		}
		others = append(others, fmt.Sprintf("service %s with id %s (%s)", o.instance.Service, o.instance.InstanceID, what))
	}
	slices.Sort(others)
	return fmt.Sprintf("the provider keeps it in one place, %q, with %s; give each an id of its own", record, strings.Join(others, " and "))
}

// review finds the instances that not all readers will find, which are one alarm. It wants the
// lock held.
func (r *Registrar) review() {
	warnings := 0
	first := ""
	for _, e := range r.entries.all {
		e.warning = ""
		if !e.wanted || e.invalid != nil || e.evict {
			continue
		}
		err := r.config.Registry.Review(e.instance)
		if err == nil {
			continue
		}
		e.warning = err.Error()
		warnings++
		if first == "" || e.warning < first {
			first = e.warning
		}
	}
	if warnings > 0 && r.off == "" {
		r.alarms.Raise(notFoundByAll, "", "instances", warnings, "warning", first)
	} else {
		r.alarms.Clear(notFoundByAll, "")
	}
}
