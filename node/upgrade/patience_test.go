package upgrade

import (
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node"
)

// A node makes way for an announcement for two minutes, then ignores it for ten, then for twenty;
// and for another one meanwhile.
func TestPatience(t *testing.T) {
	t.Parallel()
	a, b := node.Member{NodeID: "a", InstanceID: "a1"}, node.Member{NodeID: "b", InstanceID: "b1"}
	var p patience
	start := time.Unix(1_000_000, 0)
	trusted := func(minute float64, ahead ...node.Member) int {
		return len(p.trusted(start.Add(time.Duration(minute*float64(time.Minute))), "schema", ahead, nil, false))
	}
	for _, step := range []struct {
		minute float64
		want   int
	}{{0, 1}, {1.9, 1}, {2, 0}, {11.9, 0}, {12, 1}, {13.9, 1}, {14, 0}, {33.9, 0}, {34, 1}, {36, 0}} {
		if got := trusted(step.minute, a); got != step.want {
			t.Errorf("after %v minutes %d of one are trusted, want %d", step.minute, got, step.want)
		}
	}
	if got := trusted(37, a, b); got != 1 {
		t.Errorf("%d of a and b are trusted, want b alone", got)
	}
	if trusted(38, b); trusted(38.1, a, b) != 2 {
		t.Error("what is no longer ahead is not forgotten")
	}
	for range 100 {
		trusted(39, a, b)
	}
	now := start.Add(time.Hour)
	for range 20 { // each time the announcement gets its two minutes
		now = now.Add(48 * time.Hour)
		p.trusted(now, "schema", []node.Member{a}, nil, false)
		now = now.Add(yieldMost)
		if len(p.trusted(now, "schema", []node.Member{a}, nil, false)) != 0 {
			t.Fatal("it is trusted for longer than two minutes")
		}
	}
	if got := p["schema"]["a1"].ignored; got != ignoreMost {
		t.Errorf("it is ignored for %v, want %v", got, ignoreMost)
	}
}

// The member that is master may take as long for its step as it wants, and is not ignored when it
// loses mastership meanwhile.
func TestPatienceWithTheMaster(t *testing.T) {
	t.Parallel()
	a, b := node.Member{NodeID: "a", InstanceID: "a1"}, node.Member{NodeID: "b", InstanceID: "b1"}
	master := &node.Master{Holder: driver.Holder{InstanceID: a.InstanceID}}
	var p patience
	start := time.Unix(1_000_000, 0)
	for _, step := range []struct {
		after  time.Duration
		master *node.Master
		want   int
	}{
		{0, nil, 2}, {yieldMost, nil, 0}, {3 * time.Minute, master, 1},
		{5 * time.Hour, master, 2}, {5*time.Hour + yieldMost - 1, nil, 2}, {5*time.Hour + yieldMost, nil, 0},
	} {
		if got := len(p.trusted(start.Add(step.after), "schema", []node.Member{a, b}, step.master, false)); got != step.want {
			t.Errorf("after %v %d of two are trusted, want %d", step.after, got, step.want)
		}
	}
}

// While a step runs here no patience is lost: nobody could become master.
func TestPatienceWhileWorking(t *testing.T) {
	t.Parallel()
	a := node.Member{NodeID: "a", InstanceID: "a1"}
	var p patience
	start := time.Unix(1_000_000, 0)
	for _, step := range []struct {
		after   time.Duration
		working bool
		want    int
	}{
		{0, false, 1}, {time.Minute, true, 1}, {5 * time.Hour, true, 1},
		{5*time.Hour + yieldMost - 1, false, 1}, {5*time.Hour + yieldMost, false, 0}, {5*time.Hour + yieldMost + 1, true, 0},
	} {
		if got := len(p.trusted(start.Add(step.after), "schema", []node.Member{a}, nil, step.working)); got != step.want {
			t.Errorf("after %v %d are trusted, want %d", step.after, got, step.want)
		}
	}
}
