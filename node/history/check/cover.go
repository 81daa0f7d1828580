package check

import (
	"cmp"
	"slices"
	"time"

	"github.com/musterhq/muster/node/history"
)

// Span is a time.
type Span struct{ Begin, End int64 }

// Cover returns the parts of a time that spans cover, and those that none does.
func Cover(spans []Span, from, to int64) (with, without []Span) {
	spans = slices.SortedStableFunc(slices.Values(spans), func(a, b Span) int { return cmp.Compare(a.Begin, b.Begin) })
	at := from
	for _, s := range spans {
		begin, end := max(s.Begin, at), min(s.End, to)
		if end <= begin {
			continue
		}
		if at < begin {
			without = append(without, Span{at, begin})
		}
		with = append(with, Span{begin, end})
		at = end
	}
	if at < to {
		without = append(without, Span{at, to})
	}
	return with, without
}

// Availability is how much of the time there was a master, by the wall clocks as far as hosts
// differ: nothing follows from it.
type Availability struct {
	// From is when the first mastership began, or where the time begins that is looked at. To is
	// the last record of a node that was not leaving, or the end of that time.
	From, To time.Time
	// Share is the part of it with a master.
	Share float64
	// Without is the longest time without one, from Since on.
	Without time.Duration
	Since   time.Time
	// Now says that it lasts: To is its end.
	Now bool
}

// Availability returns it, and false if there was no master, ever.
func (r *Report) Availability() (a Availability, ok bool) {
	if len(r.Masterships) == 0 {
		return a, false
	}
	var spans []Span
	from, to := int64(Forever), int64(0)
	for _, m := range r.Masterships {
		s := Span{r.Wall(m.Instance, m.Begin).UnixNano(), r.Wall(m.Instance, m.Until).UnixNano()}
		spans = append(spans, s)
		from = min(from, s.Begin)
	}
	for _, i := range r.Instances {
		end := i.Last
		if k := slices.IndexFunc(i.Records, func(r history.Record) bool { return r.Kind == history.Leaving }); k >= 0 {
			end = i.Records[k].BootNS
		}
		to = max(to, r.Wall(i, end).UnixNano())
	}
	if !r.o.Since.IsZero() {
		from = max(from, r.o.Since.UnixNano())
	}
	if !r.o.Until.IsZero() {
		to = min(to, r.o.Until.UnixNano())
	}
	a.From, a.To = time.Unix(0, from).UTC(), time.Unix(0, to).UTC()
	if to <= from {
		return a, true
	}
	with, without := Cover(spans, from, to)
	for _, s := range with {
		a.Share += float64(s.End-s.Begin) / float64(to-from)
	}
	for _, s := range without {
		if d := time.Duration(s.End - s.Begin); d > a.Without {
			a.Without, a.Since, a.Now = d, time.Unix(0, s.Begin).UTC(), s.End == to
		}
	}
	return a, true
}
