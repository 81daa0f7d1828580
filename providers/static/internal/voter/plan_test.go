package voter

import (
	"strings"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static/internal/voterdir"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	list := []string{"a", "b", "c"}
	says := func(addr string, p Phase, founding string, with ...string) PeerStatus {
		if with == nil {
			with = list
		}
		return PeerStatus{Status: Status{Addr: addr, Phase: p, Founding: founding, Voters: with}}
	}
	led := func(s PeerStatus) PeerStatus { s.Leader = "x"; return s }
	down := PeerStatus{err: driver.ErrUnavailable}
	for _, c := range []struct {
		says    string
		self    string
		seen    map[string]PeerStatus
		allowed bool
		want    string // the founding, "new", "new-by-operator", or part of the error
		founder bool
	}{
		{"all remember nothing", "a", map[string]PeerStatus{"b": says("b", PhaseEmpty, ""), "c": says("c", PhaseEmpty, "")}, false, "new", true},
		{"which the first one finds", "b", map[string]PeerStatus{"a": says("a", PhaseEmpty, ""), "c": says("c", PhaseEmpty, "")}, false, "waiting for voter a", false},
		{"the first one has", "b", map[string]PeerStatus{"a": says("a", phaseFresh, "f"), "c": says("c", PhaseEmpty, "")}, false, "f", true},
		{"the first one has, and one is away", "b", map[string]PeerStatus{"a": says("a", phaseFresh, "f"), "c": down}, false, "not yet for c", false},
		{"an operator had the first one do it", "b", map[string]PeerStatus{"a": says("a", phaseFresh, ByOperator+"f"), "c": down}, false, ByOperator + "f", true},
		{"an operator says to follow", "b", map[string]PeerStatus{"a": says("a", phaseFresh, "f"), "c": down}, true, "f", true},
		{"two have, and the lower one counts", "c", map[string]PeerStatus{"a": says("a", phaseFresh, "g"), "b": says("b", phaseFresh, "f")}, false, "f", true},
		{"one is away", "a", map[string]PeerStatus{"b": says("b", PhaseEmpty, ""), "c": down}, false, "not yet for c", false},
		{"and an operator says that it is gone", "a", map[string]PeerStatus{"b": says("b", PhaseEmpty, ""), "c": down}, true, "new-by-operator", true},
		{"which does for a majority alone", "a", map[string]PeerStatus{"b": down, "c": down}, true, "not yet for b, c", false},
		{"one has another list", "a", map[string]PeerStatus{"b": says("b", PhaseEmpty, ""), "c": says("c", PhaseEmpty, "", "a", "c")}, true, "voter c has another list", false},
		{"one does not know yet that it is a voter", "a", map[string]PeerStatus{"b": says("b", PhaseEmpty, ""), "c": says("c", phaseObserver, "")}, false, "c (which does not take part)", false},
		{"two entries are one voter", "a", map[string]PeerStatus{"b": says("b", PhaseEmpty, ""), "c": says("b", PhaseEmpty, "")}, false, "c (where voter b answers)", false},
		{"one of another cluster", "a", map[string]PeerStatus{"b": says("b", PhaseEmpty, ""), "c": {err: driver.ErrInvalid}}, false, "c (invalid)", false},
		{"a cluster lives", "a", map[string]PeerStatus{"b": says("b", PhaseEmpty, ""), "c": says("c", phaseEstablished, "f")}, true, "f", false},
		{"two do, and one has a leader", "a", map[string]PeerStatus{"b": says("b", phaseEstablished, "f"), "c": led(says("c", phaseEstablished, "g"))}, false, "g", false},
		{"two do, and neither has", "a", map[string]PeerStatus{"b": says("b", phaseEstablished, "f"), "c": says("c", phaseEstablished, "g")}, false, "of two clusters", false},
		{"two do, and both have", "a", map[string]PeerStatus{"b": led(says("b", phaseEstablished, "f")), "c": led(says("c", phaseEstablished, "g"))}, false, "of two clusters", false},
	} {
		a := &Voter{voters: electorate{list: list, answers: c.seen}}
		a.self.entry.Store(&c.self)
		if c.allowed {
			a.allowedUntil = 1 << 62
		}
		p, err := a.plan()
		got := p.founding
		switch {
		case err != nil:
			got = err.Error()
		case strings.HasPrefix(c.want, "new"):
			got = "new"
			if strings.HasPrefix(p.founding, ByOperator) {
				got = "new-by-operator"
			}
		}
		ok := got == c.want
		if err != nil {
			ok = strings.Contains(got, c.want)
		}
		if founder := p.founders != nil; !ok || founder != c.founder {
			t.Errorf("%s: got %q, founder %v; want %q, %v", c.says, got, founder, c.want, c.founder)
		}
	}
}

func TestFoundedByAll(t *testing.T) {
	t.Parallel()
	list := []string{"a", "b", "c"}
	says := func(addr string, p Phase, founding, id string) PeerStatus {
		return PeerStatus{Status: Status{Addr: addr, Phase: p, Founding: founding, ID: id, Voters: list}}
	}
	fresh := func(addr string) PeerStatus { return says(addr, phaseFresh, "f", "") }
	voting := func(addr string) PeerStatus { return says(addr, phaseFresh, "f", addr) }
	other := fresh("c")
	other.Voters = []string{"a", "c"}
	for _, c := range []struct {
		says       string
		list       []string
		founding   string
		seen       map[string]PeerStatus
		all, ready bool
	}{
		{"all found the same", list, "f", map[string]PeerStatus{"b": fresh("b"), "c": fresh("c")}, true, false},
		{"and take requests", list, "f", map[string]PeerStatus{"b": voting("b"), "c": voting("c")}, true, true},
		{"one does not yet", list, "f", map[string]PeerStatus{"b": voting("b"), "c": fresh("c")}, true, false},
		{"one is away", list, "f", map[string]PeerStatus{"b": voting("b"), "c": {err: driver.ErrUnavailable}}, false, false},
		{"one was not asked", list, "f", map[string]PeerStatus{"b": voting("b")}, false, false},
		{"one has yet to follow", list, "f", map[string]PeerStatus{"b": voting("b"), "c": says("c", PhaseEmpty, "", "")}, false, false},
		{"an election was held", list, "f", map[string]PeerStatus{"b": voting("b"), "c": says("c", phaseEstablished, "f", "c")}, false, false},
		{"one is of another founding", list, "f", map[string]PeerStatus{"b": voting("b"), "c": says("c", phaseFresh, "g", "c")}, false, false},
		{"one has another list", list, "f", map[string]PeerStatus{"b": voting("b"), "c": other}, false, false},
		{"two entries are one voter", list, "f", map[string]PeerStatus{"b": voting("b"), "c": voting("b")}, false, false},
		{"an operator founded", list, ByOperator + "f", map[string]PeerStatus{"b": says("b", phaseFresh, ByOperator+"f", "b"), "c": says("c", phaseFresh, ByOperator+"f", "c")}, false, false},
		{"a voter alone has nobody to ask", list[:1], "f", nil, false, false},
	} {
		v := &Voter{
			voters: electorate{list: c.list, answers: c.seen},
			disk:   directory{dir: &voterdir.Dir{Identity: voterdir.Identity{Founding: c.founding}}},
		}
		v.self.entry.Store(&list[0])
		if all, ready := v.foundedByAll(false), v.foundedByAll(true); all != c.all || ready != c.ready {
			t.Errorf("%s: got %v, ready %v; want %v, %v", c.says, all, ready, c.all, c.ready)
		}
	}
}
