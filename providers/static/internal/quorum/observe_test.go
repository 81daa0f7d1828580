package quorum

import (
	"testing"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/providers/static/internal/voter"
)

// A voter that comes back has a leader before it has the end of the log. It must not seem then as
// if the voters had forgotten a term that they have just told it.
func TestKnowsMore(t *testing.T) {
	vacant := func(term driver.Term) voter.Status { return voter.Status{Founding: "f", Term: term} }
	held := func(term driver.Term) voter.Status {
		s := vacant(term)
		s.Holder = &driver.Holder{NodeID: "n"}
		return s
	}
	foreign := held(9)
	foreign.Founding = "g"
	for _, c := range []struct {
		name       string
		other, own voter.Status
		led, want  bool
	}{
		{"follows a leader, and lacks the last term", held(4), vacant(3), true, true},
		{"follows a leader, and shows a master that was succeeded", held(4), held(3), true, true},
		{"knows no leader, and the other knows the master", held(4), vacant(4), false, true},
		{"knows no leader, and no term", vacant(4), vacant(0), false, true},
		{"the mastership has ended since the other was asked", held(4), vacant(4), true, false},
		{"is as new", held(4), held(4), true, false},
		{"is as new, and knows no leader", held(4), held(4), false, false},
		{"the other was asked before the last term", held(3), held(4), true, false},
		{"the other was asked before the last term, which is over", held(3), vacant(4), false, false},
		{"the other came from another cluster", foreign, vacant(3), true, false},
		{"the other came from another cluster, and this one is master", foreign, held(3), true, false},
	} {
		if got := knowsMore(c.other, c.own, c.led); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
